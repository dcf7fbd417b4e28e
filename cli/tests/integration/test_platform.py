"""The whole platform from one folder: starts, is refused twice, survives kills, continues, leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from outrider.servers import ServerError, base, mosquitto, postgres
from outrider.testing.fixtures import unavailable
from outrider_cli import supervision
from outrider_cli.platform import Platform, PlatformError, is_ready
from outrider_cli.state import NotRunning, State

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def until(condition: Callable[[], object], timeout_s: float = 40.0) -> None:
    waiting = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        waiting.wait(0.05)


def processes_of(folder: Path) -> list[int]:
    """Everything that belongs to a data folder, servers included."""
    marks = [str(folder / "mosquitto" / "mosquitto.conf"), str(folder / "postgres" / "cluster")]
    servers = [pid for mark in marks for pid in base.processes_with_argument(mark)]
    return servers + supervision.processes_of(folder)


@pytest.fixture(scope="module", autouse=True)
def servers() -> None:
    try:
        mosquitto.find()
        postgres.find()
    except ServerError as error:
        unavailable("Mosquitto", error)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("OUTRIDER_MQTT_URL", "OUTRIDER_DATABASE_URL", "OUTRIDER_DATA"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "data"
    yield folder
    left = processes_of(folder)
    base.end_processes(left, signal.SIGKILL)
    assert left == []
    if folder.exists():
        postgres.Postgres(folder / "postgres").wipe()


SPINE = {"trips": 0, "lifecycle": 0, "gateway": 0}
"""Without the services that these tests are not about: each costs a second of CPU to start."""
WITHOUT = [f"--scale={service}=0" for service in SPINE]
INGEST_ONLY = {**SPINE, "writer-logs": 0, "writer-timeseries": 0, "registry": 0}


def outrider(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from outrider_cli.main import app; app()", *arguments]


def test_platform_starts_refuses_a_second_survives_kills_and_continues(folder: Path) -> None:
    lines: list[tuple[str, str]] = []
    with Platform(
        folder, scale={**SPINE, "ingest": 2}, log_sink=lambda process, line: lines.append((process, line))
    ) as platform:
        state = State.load(folder)
        assert set(state.services) >= {"ingest-1", "ingest-2", "writer-timeseries", "writer-logs"}
        assert all(process.ready_url and is_ready(process.ready_url) for process in state.services.values())
        with psycopg.connect(state.database_url) as connection:
            connection.execute("CREATE TABLE public.kept AS SELECT 1 AS one")
        with pytest.raises(PlatformError, match=f"is in use by process {os.getpid()}"):
            Platform(folder).start()

        for name in ("ingest-1", "postgres", "mosquitto"):
            everything = {**platform.state.servers, **platform.state.services}
            before = everything[name].pid
            assert before
            os.kill(before, signal.SIGKILL)
            until(lambda: everything[name].pid not in (None, before))  # noqa: B023 (called in this round)
        platform.wait_ready()
        assert any(process == "outrider" and "ingest-1 ended" in line for process, line in lines)
    with pytest.raises(NotRunning):
        State.load(folder)
    assert processes_of(folder) == []

    with Platform(folder) as platform:
        assert platform.state.mqtt_url == state.mqtt_url
        assert platform.state.database_url == state.database_url
        with psycopg.connect(platform.state.database_url) as connection:
            assert connection.execute("SELECT one FROM public.kept").fetchall() == [(1,)]


def test_scale_starts_and_stops_processes_while_it_runs(folder: Path) -> None:
    with Platform(folder, scale={**SPINE, "registry": 0}) as platform:
        socket = platform.state.supervisor_socket
        for count, names in ((3, {"ingest", "ingest-2", "ingest-3"}), (1, {"ingest"}), (2, {"ingest", "ingest-2"})):
            platform.scale("ingest", count)
            platform.wait_ready()
            assert {name for name, p in platform.state.services.items() if p.service == "ingest"} == names
            running = {name for name, status in supervision.all_statuses(socket).items() if status.pid}
            assert {name for name in running if name.startswith("ingest")} == names
        with pytest.raises(PlatformError, match="no service ingets"):
            platform.scale("ingets", 2)
    assert processes_of(folder) == []


def test_scale_command_changes_a_running_platform(folder: Path) -> None:
    def scale(*counts: str) -> subprocess.CompletedProcess[str]:
        command = outrider("scale", *counts, "--data", str(folder))
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    with Platform(folder, scale={**INGEST_ONLY, "writer-logs": 1}) as platform:
        socket = platform.state.supervisor_socket
        for counts, services in (
            (("ingest=3", "writer-logs=0"), {"ingest", "ingest-2", "ingest-3"}),
            (("ingest=1", "writer-logs=1"), {"ingest", "writer-logs-1"}),
        ):
            done = scale(*counts)
            assert done.returncode == 0, done.stderr
            assert set(State.load(folder).services) == services
            assert {name for name, status in supervision.all_statuses(socket).items() if status.pid} == {
                *services,
                *platform.state.servers,
            }
        assert done.stdout == "ingest: 1 running (ingest)\nwriter-logs: 1 running (writer-logs-1)\n"
        refused = scale("ingets=2")
        assert (refused.returncode, "There is no service ingets" in refused.stderr) == (1, True)
    assert scale("ingest=1").returncode == 1
    assert processes_of(folder) == []


def test_registry_started_later_has_a_console_accounts_and_alone_the_master_key(folder: Path) -> None:
    """And a folder from before identities says that its devices must be registered."""
    with Platform(folder, scale=INGEST_ONLY) as platform:
        assert (platform.state.console_url, platform.state.sign_in_link) == ("", "")
        with psycopg.connect(platform.state.database_url) as connection:
            connection.execute(
                "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES ('demo', 'old-1', 'm', 'number')"
            )
        platform.scale("registry", 2)
        platform.wait_ready()
        state = State.load(folder)
        consoles = [process.console_port for process in state.services.values() if process.service == "registry"]
        assert len(set(consoles)) == 2
        assert state.console_url == f"http://127.0.0.1:{consoles[0]}"
        assert state.sign_in_link.startswith(state.console_url)
        assert any("1 devices in the database are not registered" in note for note in state.notes)
        request = urllib.request.Request(f"{state.console_url}/api/v1/session")
        request.add_header("Authorization", f"Bearer {state.api_token}")
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.load(response)["platform"] is True
        environments = {path.name: json.loads(path.read_text()) for path in (folder / "run").glob("*.env.json")}
        knowing = {name for name, values in environments.items() if values.get("OUTRIDER_MASTER_KEY_FILE")}
        assert knowing == {name for name in environments if name.startswith("registry-")}
        accounts = {urlsplit(values["OUTRIDER_MQTT_URL"]).username for name, values in environments.items() if values}
        assert accounts >= {"svc%3Aingest", "svc%3Aregistry"}
        adopted = subprocess.run(
            outrider("device", "adopt", "--credentials", "--json", "--data", str(folder)),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "old-1" in adopted.stdout
    assert processes_of(folder) == []


def test_service_killed_again_and_again_is_ready_within_ten_seconds(folder: Path) -> None:
    with Platform(folder, scale=INGEST_ONLY) as platform:
        process = platform.state.services["ingest"]
        history = folder / "run" / "ingest.starts"
        for _ in range(4):
            until(lambda: not history.exists())  # it has been seen ready
            before = process.pid
            assert before
            os.kill(before, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: history.exists() and json.loads(history.read_text())[0] == 0)  # no wait before this start
            until(lambda before=before: process.pid not in (None, before))
            platform.wait_ready()
            assert time.monotonic() - killed < 10
    assert processes_of(folder) == []


def test_up_down_and_a_kill_of_the_command_leave_nothing(folder: Path) -> None:
    command = outrider("up", *WITHOUT, "--data", str(folder))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        assert up.stdout
        until_printed(up, "Outrider runs")
        services = subprocess.run(
            outrider("status", "--data", str(folder)), capture_output=True, text=True, timeout=30, check=True
        ).stdout
        assert services.count("yes") >= 3
        subprocess.run(outrider("down", "--data", str(folder)), timeout=60, check=True, capture_output=True)
        assert up.wait(30) == 0
    assert processes_of(folder) == []

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        until_printed(up, "Outrider runs")
        up.kill()
    until(lambda: processes_of(folder) == [])


def test_interrupt_during_the_start_leaves_nothing(folder: Path) -> None:
    command = outrider("up", *WITHOUT, "--data", str(folder))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        until(lambda: processes_of(folder))
        up.send_signal(signal.SIGINT)
        output, _ = up.communicate(timeout=60)
    assert "Stopped" in output
    assert up.returncode == 0


def test_service_with_bad_settings_is_named(folder: Path) -> None:
    platform = Platform(folder, scale=INGEST_ONLY, environment={"OUTRIDER_LEASE_TIMEOUT_S": "soon"})
    with pytest.raises(PlatformError, match=r"cannot use its settings\. Its log is .*logs/"), platform:
        pytest.fail("it started with bad settings")


def until_printed(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if text in line:
            # the rest is read and dropped, so that the pipe never fills
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return
    raise AssertionError(f"ended before it printed {text!r}")
