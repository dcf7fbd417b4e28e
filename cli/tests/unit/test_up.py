"""What `outrider up` makes of options, log lines and the state file."""

import fcntl
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from rich.text import Text

from outrider_cli import supervision
from outrider_cli.logs import Followers, readable
from outrider_cli.platform import Platform, PlatformError, process_names
from outrider_cli.state import LOCK_NAME, NotRunning, ProcessState, State
from outrider_cli.up import parse_scale, summary


def a_state(folder: Path) -> State:
    return State(
        pid=1,
        data_dir=folder,
        mqtt_url="mqtt://127.0.0.1:21000",
        database_url="postgresql://postgres:secret@127.0.0.1:21001/outrider",
        database_urls={"ingest": "postgresql://outrider_ingest:hidden@127.0.0.1:21001/outrider"},
        services={"ingest": ProcessState(service="ingest", log=folder / "logs/ingest.log", http_port=21002)},
        servers={"mosquitto": ProcessState(service="mosquitto", log=folder / "logs/mosquitto.log")},
        versions={"mosquitto": "2.1.2"},
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        supervisor_socket=folder / "run/supervisor.sock",
    )


def test_parse_scale() -> None:
    assert parse_scale(["ingest=2", "writer-logs=0"]) == {"ingest": 2, "writer-logs": 0}


@pytest.mark.parametrize("value", ["ingest", "ingest=", "=2", "ingest=two", "ingest=-1", "ingest=65"])
def test_parse_scale_refuses(value: str) -> None:
    with pytest.raises(typer.BadParameter, match="NAME=NUMBER"):
        parse_scale([value])


def test_process_names() -> None:
    assert process_names("ingest", 1) == ["ingest"]
    assert process_names("ingest", 2) == ["ingest-1", "ingest-2"]
    assert process_names("ingest", 0) == []


def test_platform_refuses_to_scale_an_unknown_service(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="There is no service ingets; there are: ingest"):
        Platform(tmp_path, scale={"ingets": 2}).start()
    assert not list(tmp_path.iterdir())


def test_readable_turns_a_json_line_into_words() -> None:
    line = json.dumps(
        {
            "ts": "2026-01-01T12:00:01.234+00:00",
            "level": "warning",
            "service": "ingest",
            "event": "lag_high",
            "lag_s": 2.5,
            "reason": "two words",
        }
    )
    text = Text.from_markup(readable("ingest", line, 8)).plain
    assert text == 'ingest   12:00:01.234 warning lag_high lag_s=2.5 reason="two words"'


@pytest.mark.parametrize("line", ["[bold] not markup", "{", '{"ts": 1}', "[1, 2]", "null", ""])
def test_readable_passes_other_lines_on(line: str) -> None:
    assert Text.from_markup(readable("p", line, 1)).plain == f"p {line}"


def test_state_is_private_and_found_while_the_folder_is_held(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    with (tmp_path / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state.save()
        state.save()
        assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
        assert State.load(tmp_path) == state
    with pytest.raises(NotRunning, match="has ended: start it again with `outrider up`"):
        State.load(tmp_path)


def test_state_of_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"Nothing runs in .*: start it with `outrider up`"):
        State.load(tmp_path)


def test_state_of_another_version(tmp_path: Path) -> None:
    with (tmp_path / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (tmp_path / "state.json").write_text('{"pid": 1}')
        with pytest.raises(NotRunning, match="another version"):
            State.load(tmp_path)


def test_summary_names_ports_and_no_password(tmp_path: Path) -> None:
    text = Text.from_markup(summary(a_state(tmp_path))).plain
    assert "mosquitto_sub -h 127.0.0.1 -p 21000 -t 'fleet/#' -v" in text
    assert "http://127.0.0.1:21002/metrics" in text
    assert "secret" not in text
    assert "hidden" not in text


def test_socket_path_is_short_wherever_the_data_lies(tmp_path: Path) -> None:
    assert supervision.socket_path(Path("/srv/outrider")) == Path("/srv/outrider/run/supervisor.sock")
    deep = tmp_path / ("a" * 100)
    path = supervision.socket_path(deep)
    assert len(str(path)) < 100
    assert path == supervision.socket_path(deep)
    assert path != supervision.socket_path(tmp_path / ("b" * 100))


def test_followers_read_over_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("before\n")
    seen: list[tuple[str, str]] = []
    followers = Followers({"a": path}, lambda process, line: seen.append((process, line)))
    followers.start()
    with path.open("a") as old:
        old.write("one\ntw")
        old.flush()
        path.rename(tmp_path / "a.log.1")
        old.write("o\n")
    path.write_text("three\n")
    followers.stop()
    assert seen == [("a", "one"), ("a", "two"), ("a", "three")]
