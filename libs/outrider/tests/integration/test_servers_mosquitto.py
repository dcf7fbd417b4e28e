"""A private Mosquitto: starts, serves, comes back with its sessions, and ends with its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from outrider.servers import Mosquitto, ServerError, base, mosquitto
from outrider.testing.fixtures import unavailable
from outrider.testing.services import connected

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def program(request: pytest.FixtureRequest) -> mosquitto.Program:
    try:
        return mosquitto.find() if request.param == "2.1" else mosquitto.find_old()
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)


@pytest.fixture
def broker(tmp_path: Path, program: mosquitto.Program) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto", program=program, test_account=True) as running:
        yield running


def login(broker: Mosquitto) -> list[str]:
    parts = urlsplit(broker.url)
    return ["-u", unquote(parts.username or ""), "-P", unquote(parts.password or "")]


def client(broker: Mosquitto, name: str, *arguments: str) -> str:
    """Runs one of Mosquitto's client programs to its end; its output."""
    argv = broker.program.client(name)
    if argv is None:
        pytest.skip(f"{name} is not installed")
    command = [*argv, "-h", "127.0.0.1", "-p", str(broker.port), *login(broker), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def publish(broker: Mosquitto, topic: str, *messages: str) -> None:
    for message in messages:
        client(broker, "mosquitto_pub", "-q", "1", "-t", topic, "-m", message)


def subscribe_and_leave(broker: Mosquitto, client_id: str, topic: str) -> None:
    """Makes a session that stays in the broker."""
    client(broker, "mosquitto_sub", "-c", "-i", client_id, "-q", "1", "-t", topic, "-E")


def receive(broker: Mosquitto, client_id: str, topic: str, count: int) -> list[str]:
    return client(
        broker, "mosquitto_sub", "-c", "-i", client_id, "-q", "1", "-t", topic, "-C", str(count), "-W", "10"
    ).split()


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        os.sched_yield()


def test_start_serves_on_its_port(broker: Mosquitto) -> None:
    assert broker.url.endswith(f"@127.0.0.1:{broker.port}")
    assert base.is_alive(broker.pid)
    subscribe_and_leave(broker, "reader", "t/#")
    publish(broker, "t/1", "a")
    assert receive(broker, "reader", "t/#", 1) == ["a"]


def test_start_twice_is_refused(broker: Mosquitto) -> None:
    with pytest.raises(ServerError, match="runs already"):
        broker.start()


def test_restart_keeps_port_sessions_and_queues(broker: Mosquitto) -> None:
    subscribe_and_leave(broker, "reader", "t/#")
    publish(broker, "t/1", "a", "b")
    port, pid = broker.port, broker.pid
    broker.restart()
    assert (broker.port, broker.pid != pid) == (port, True)
    assert receive(broker, "reader", "t/#", 2) == ["a", "b"]


def test_kill_leaves_a_broker_that_starts_again(broker: Mosquitto) -> None:
    port, pid = broker.port, broker.pid
    broker.kill()
    assert not base.is_alive(pid)
    assert not broker.is_ready()
    with pytest.raises(ServerError, match="does not run"):
        _ = broker.pid
    broker.start()
    assert (broker.port, broker.is_ready()) == (port, True)


def test_start_clean_forgets_sessions(broker: Mosquitto) -> None:
    subscribe_and_leave(broker, "reader", "t/#")
    publish(broker, "t/1", "a")
    broker.stop()
    broker.start(clean=True)
    publish(broker, "t/1", "b")
    subscribe_and_leave(broker, "reader", "t/#")
    publish(broker, "t/1", "c")
    assert receive(broker, "reader", "t/#", 1) == ["c"]


def test_next_object_on_the_folder_continues(tmp_path: Path, program: mosquitto.Program) -> None:
    with Mosquitto(tmp_path, program=program, test_account=True) as first:
        subscribe_and_leave(first, "reader", "t/#")
        publish(first, "t/1", "a")
    with Mosquitto(tmp_path, program=program, test_account=True) as second:
        assert (second.port, second.device_port, second.url) == (first.port, first.device_port, first.url)
        assert receive(second, "reader", "t/#", 1) == ["a"]


def test_start_with_a_wrong_option_fails_with_its_log(tmp_path: Path, program: mosquitto.Program) -> None:
    broker = Mosquitto(tmp_path, program=program, settings="no_such_option 1")
    with pytest.raises(ServerError, match="ended during its start") as caught:
        broker.start()
    assert "no_such_option" in str(caught.value)


def test_a_device_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path, program: mosquitto.Program) -> None:
    broker = Mosquitto(tmp_path, program=program, test_account=True)
    port, device_port = broker.port, broker.device_port
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", device_port))
        thief.listen()
        with broker:
            assert broker.device_port != device_port
            subscribe_and_leave(broker, "reader", "t/#")
    assert port != broker.port, "which of them was taken is not known, so both are new"


async def test_queue_is_not_cut_at_the_stock_1000(broker: Mosquitto) -> None:
    subscribe_and_leave(broker, "reader", "t/#")
    # not `mosquitto_pub -l`: on a busy machine it closes its connection before its last lines and still returns 0
    async with connected(broker.url, "writer") as writer:
        for number in range(1500):
            await writer.publish("t/1", str(number))
    assert receive(broker, "reader", "t/#", 1500) == [str(number) for number in range(1500)]


def test_client_commands_run_from_the_data_folder(broker: Mosquitto, tmp_path: Path) -> None:
    written = {path.name: path for path in broker.write_client_commands(tmp_path / "bin")}
    if "mosquitto_pub" not in written:
        pytest.skip("Mosquitto's clients are not installed")
    subscribe_and_leave(broker, "reader", "t/#")
    subprocess.run(
        [written["mosquitto_pub"], "-p", str(broker.port), *login(broker), "-q", "1", "-t", "t/1", "-m", "two words"],
        check=True,
        timeout=10,
    )
    assert receive(broker, "reader", "t/#", 1) == ["two", "words"]


def test_started_in_a_worker_thread_outlives_the_thread(tmp_path: Path, program: mosquitto.Program) -> None:
    broker = Mosquitto(tmp_path, program=program)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(broker.start).result()
    try:
        assert broker.is_ready()
        assert broker.running
    finally:
        broker.stop()


def test_dies_with_its_parent(tmp_path: Path, program: mosquitto.Program) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from outrider.servers import Mosquitto\n"
        "broker = Mosquitto(pathlib.Path(sys.argv[1])); broker.start()\n"
        "print(broker.pid, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert base.is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not base.is_alive(pid))


def test_end_leftovers_finds_a_broker_nobody_owns(tmp_path: Path, program: mosquitto.Program) -> None:
    owner = Mosquitto(tmp_path, program=program)
    owner.start()
    pid = owner.pid
    assert Mosquitto(tmp_path, program=program).end_leftovers() == [pid]
    assert not base.is_alive(pid)
    owner.stop()


def test_find_from_many_callers_unpacks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a mirror can be reached; the fixture above proves nothing about unpacking on such a machine."""
    monkeypatch.delenv(mosquitto.VARIABLE, raising=False)
    with ThreadPoolExecutor(3) as pool:
        try:
            programs = set(pool.map(lambda _: mosquitto.find(tmp_path), range(3)))
        except ServerError as error:
            pytest.skip(str(error))
    assert len(programs) == 1
    (program,) = programs
    assert program.version >= mosquitto.MINIMUM
    assert not list(tmp_path.glob("unpack-*"))
