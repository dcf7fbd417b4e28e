"""Supervised processes come back, stop in order, and never outlive the one who started them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider.servers import base
from outrider_cli import supervision
from outrider_cli.supervision import Program, Supervisor

# writes its name at start and at a graceful end, then does as it is told
SCRIPT = """
import os, pathlib, signal, sys
name, journal, how = sys.argv[1:]
def note(what):
    with open(journal, "a") as file:
        file.write(f"{what} {name} {os.getpid()} {os.environ.get('GREETING', '')}\\n")
def end(*_):
    note("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("start")
if how.isdigit():
    sys.exit(int(how))
signal.pause()
"""


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    waiting = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        waiting.wait(0.02)


class Bench:
    """A supervisor over scripts that write into one journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        (folder / "logs").mkdir()
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)
        self.supervisor: Supervisor | None = None

    def program(self, name: str, how: str = "wait", *, order: int = 0, is_service: bool = False) -> Program:
        argv = [sys.executable, str(self.script), name, str(self.journal), how]
        return Program(name, argv, self.folder / "logs" / f"{name}.log", order=order, is_service=is_service)

    def run(self, *programs: Program) -> Supervisor:
        self.supervisor = Supervisor(self.folder, programs)
        self.supervisor.start()
        for program in programs:
            self.supervisor.start_program(program.name)
        return self.supervisor

    def lines(self, what: str, name: str = "") -> list[list[str]]:
        text = self.journal.read_text() if self.journal.exists() else ""
        split = (line.split(" ") for line in text.splitlines())
        return [line for line in split if line[0] == what and name in ("", line[1])]

    def pid(self, name: str) -> int:
        return int(self.lines("start", name)[-1][2])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    if bench.supervisor:
        bench.supervisor.stop()
    assert supervision.processes_of(tmp_path) == []


def test_killed_process_comes_back(bench: Bench) -> None:
    supervisor = bench.run(bench.program("a", is_service=True))
    until(lambda: bench.lines("start"))
    first = bench.pid("a")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(bench.lines("start")) == 2)
    assert bench.pid("a") != first
    until(lambda: supervisor.status("a").pid == bench.pid("a"))


def test_process_that_cannot_start_is_tried_again_with_waits(bench: Bench) -> None:
    supervisor = bench.run(bench.program("a", "1"))
    began = time.monotonic()
    until(lambda: len(bench.lines("start")) == 4)
    assert time.monotonic() - began > 0.5 + 1.0  # after the second and the third short life; the first costs nothing
    assert supervisor.status("a").state in (*supervision.RUNNING_STATES, "EXITED")


def test_process_killed_after_it_became_ready_comes_back_without_a_wait(bench: Bench) -> None:
    supervisor = bench.run(bench.program("a", is_service=True))
    history = bench.folder / "run" / "a.starts"
    counted = []
    for is_ready in (True, True, True, False, False, True):
        until(lambda: bench.lines("start") and bench.pid("a") == supervisor.status("a").pid)
        if is_ready:
            supervisor.forget_short_lives("a")
        before = bench.pid("a")
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: bench.pid("a") != before)
        counted.append(json.loads(history.read_text())[0])
    assert counted == [0, 0, 0, 1, 2, 0]


def test_bad_settings_stop_a_process_and_a_person_starts_it(bench: Bench) -> None:
    supervisor = bench.run(bench.program("a", "78"), bench.program("b"))
    until(lambda: supervisor.status("a").has_bad_settings)
    until(lambda: bench.lines("start", "b"))
    assert len(bench.lines("start", "a")) == 1
    supervisor.start_program("a")
    until(lambda: len(bench.lines("start", "a")) == 2)


def test_services_stop_before_servers_and_servers_in_reverse(bench: Bench) -> None:
    supervisor = bench.run(
        bench.program("database", order=1),
        bench.program("broker", order=2),
        bench.program("x", is_service=True),
        bench.program("y", is_service=True),
    )
    until(lambda: len(bench.lines("start")) == 4)
    supervisor.stop()
    ended = [line[1] for line in bench.lines("end")]
    assert sorted(ended[:2]) == ["x", "y"]
    assert ended[2:] == ["broker", "database"]


def test_environment_reaches_the_process_and_no_other_file(bench: Bench) -> None:
    supervisor = Supervisor(bench.folder, [bench.program("a")])
    bench.supervisor = supervisor
    supervisor.start()
    supervisor.write_environment("a", {"GREETING": "100%-s3cret"})
    supervisor.start_program("a")
    until(lambda: bench.lines("start"))
    assert bench.lines("start")[0][3] == "100%-s3cret"
    holders = [path for path in (bench.folder / "run").iterdir() if path.is_file() and "s3cret" in path.read_text()]
    assert [path.name for path in holders] == ["a.env.json"]
    assert holders[0].stat().st_mode & 0o077 == 0
    assert json.loads(holders[0].read_text()) == {"GREETING": "100%-s3cret"}


def test_supervisor_killed_takes_its_processes_along(bench: Bench) -> None:
    supervisor = bench.run(bench.program("a"), bench.program("b", is_service=True))
    until(lambda: len(bench.lines("start")) == 2)
    (supervisord,) = base.processes_with_argument(str(supervision.configuration_path(bench.folder)))
    os.kill(supervisord, signal.SIGKILL)
    until(lambda: len(bench.lines("end")) == 2)  # gracefully: the death signal is SIGTERM
    until(lambda: not supervisor.running)


def test_owner_killed_ends_everything(bench: Bench) -> None:
    script = (
        "import pathlib, sys\n"
        "from outrider_cli.supervision import Program, Supervisor\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "program = Program('a', sys.argv[2:], folder / 'logs/a.log')\n"
        "supervisor = Supervisor(folder, [program]); supervisor.start(); supervisor.start_program('a')\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(bench.folder), *bench.program("a").argv]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as owner:
        until(lambda: bench.lines("start"))
        owner.send_signal(signal.SIGKILL)
    until(lambda: not supervision.processes_of(bench.folder))
    assert len(bench.lines("end")) == 1


def test_end_leftovers_stops_an_earlier_run(bench: Bench) -> None:
    bench.run(bench.program("a"), bench.program("b", is_service=True))
    until(lambda: len(bench.lines("start")) == 2)
    assert supervision.end_leftovers(bench.folder)
    assert [line[1] for line in bench.lines("end")] == ["b", "a"]
    assert supervision.end_leftovers(bench.folder) == []


def test_call_without_a_supervisor_says_so(tmp_path: Path) -> None:
    with pytest.raises(supervision.SupervisionError, match="does not answer"):
        supervision.call(tmp_path / "none.sock", "getState")
