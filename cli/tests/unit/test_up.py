"""What `outrider up` makes of options, log lines and the state file."""

import fcntl
import json
import socket
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from rich.text import Text

from outrider.access import authority, bootstrap
from outrider.access.keys import KeyRing
from outrider.access.secrets import service_password
from outrider_cli import accounts, supervision
from outrider_cli.demo import can_show
from outrider_cli.doctor_accounts import check_certificates, check_file
from outrider_cli.logs import Followers, readable
from outrider_cli.platform import Platform, PlatformError, process_names
from outrider_cli.state import LOCK_NAME, BrokerLogin, NotRunning, ProcessState, State
from outrider_cli.up import parse_scale, summary


def a_state(folder: Path) -> State:
    return State(
        pid=1,
        data_dir=folder,
        mqtt_url="mqtt://svc%3Atools:hidden@127.0.0.1:21000",
        mqtt_urls={"ingest": "mqtt://svc%3Aingest:hidden@127.0.0.1:21000"},
        device_mqtt_url="mqtt://127.0.0.1:21003",
        console_url="http://127.0.0.1:21004",
        api_token="otr_hidden",
        sign_in_link="http://127.0.0.1:21004/sign-in#link=once",
        broker_login=BrokerLogin(username="user:viewer", password="to-look"),
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
    with pytest.raises(PlatformError, match=r"There is no service ingets; there are: .*ingest"):
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


def test_summary_says_how_to_sign_in_and_look_and_names_no_other_password(tmp_path: Path) -> None:
    text = Text.from_markup(summary(a_state(tmp_path))).plain
    assert "http://127.0.0.1:21004/sign-in#link=once" in text
    assert "mosquitto_sub -h 127.0.0.1 -p 21003 -u user:viewer -P to-look -t 'fleet/#' -v" in text
    assert "outrider device enrol" in text
    assert "http://127.0.0.1:21002/metrics" in text
    assert "secret" not in text
    assert "hidden" not in text


def test_summary_without_a_registry_says_how_to_start_one(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    state.console_url, state.sign_in_link, state.broker_login = "", "", None
    text = Text.from_markup(summary(state)).plain
    assert "outrider scale registry=1" in text
    assert "mosquitto_sub" not in text


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({"DISPLAY": ":0"}, True, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True, True),
        ({}, True, False),
        ({"DISPLAY": ":0"}, False, False),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "10.0.0.1 22"}, True, False),
        ({"DISPLAY": ":0", "CI": "true"}, True, False),
    ],
)
def test_demo_opens_a_browser_only_where_a_person_would_see_it(
    environment: dict[str, str], is_terminal: bool, expected: bool
) -> None:
    assert can_show(environment, is_terminal) is expected


def test_service_url_gets_the_services_own_account_unless_it_names_one() -> None:
    keys = KeyRing({"k1": bytes(32)})
    own = accounts.service_url("mqtts://broker:8883", "ingest", keys)
    assert own == f"mqtts://svc%3Aingest:{service_password(keys, 'ingest')}@broker:8883"
    assert accounts.service_url("mqtt://me:secret@broker", "ingest", keys) == "mqtt://me:secret@broker"
    assert accounts.without_account(own) == "mqtts://broker:8883"


def test_doors_of_a_broker_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyRing({"k1": bytes(32)})
    monkeypatch.delenv("OUTRIDER_DEVICE_MQTT_URL", raising=False)
    doors = accounts.doors(None, "mqtt://broker:1883", keys, ["ingest", "registry"])
    assert doors.services.keys() == {"ingest", "registry"}
    assert "svc%3Atools:" in doors.tools
    assert doors.devices == "mqtt://broker:1883"
    monkeypatch.setenv("OUTRIDER_DEVICE_MQTT_URL", "mqtts://broker:8883")
    assert accounts.doors(None, "mqtt://broker:1883", keys, []).devices == "mqtts://broker:8883"


def test_master_keys_are_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OUTRIDER_MASTER_KEY", "OUTRIDER_MASTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    keys, file = accounts.master_keys(tmp_path)
    assert file == tmp_path / "master.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again, _ = accounts.master_keys(tmp_path)
    assert again.secret("mqtt", "d", 1) == keys.secret("mqtt", "d", 1)
    monkeypatch.setenv("OUTRIDER_MASTER_KEY", "k9:" + "A" * 43 + "=")
    given, file = accounts.master_keys(tmp_path)
    assert (given.ids, file) == (["k9"], None)


def test_console_port_is_kept_while_it_is_free(tmp_path: Path) -> None:
    (tmp_path / "console-port").write_text("1\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "console-port").write_text(f"{taken.getsockname()[1]}\n")
        port = accounts.console_port(tmp_path)
        assert port != taken.getsockname()[1]
    assert accounts.console_port(tmp_path) == port


def test_tls_folder_keeps_its_certificate_and_what_was_revoked(tmp_path: Path) -> None:
    keys = KeyRing({"k1": bytes(32)})
    folder = accounts.tls_folder(tmp_path, keys)
    before = (folder / "server.crt").read_text()
    authority.write_revocation_lists(folder, keys, [("abc1", datetime.now(UTC))])
    revoked = (folder / "crl.pem").read_text()
    assert accounts.tls_folder(tmp_path, keys) == folder
    assert (folder / "server.crt").read_text() == before
    assert (folder / "crl.pem").read_text() == revoked


def test_certificates_that_end_soon_are_warned_of(tmp_path: Path) -> None:
    folder = accounts.tls_folder(tmp_path, KeyRing({"k1": bytes(32)}))
    now = datetime.now(UTC)
    for later, level in ((timedelta(0), "OK"), (timedelta(days=340), "WARN"), (timedelta(days=370), "FAIL")):
        assert [check.level for check in check_certificates(folder, now + later)] == [level, level]
    assert [check.level for check in check_certificates(tmp_path / "none", now)] == ["FAIL", "FAIL"]


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        (lambda text: text, []),
        (lambda text: "", ["broker accounts"]),
        (lambda text: text[:100], ["broker accounts"]),
        (lambda text: text.replace("svc:ingest", "svc:other"), ["broker accounts"]),
        (
            lambda text: text.replace('"publishClientReceive": false', '"publishClientReceive": true'),
            ["broker default access"],
        ),
        (lambda text: text.replace('"username": "svc:tools"', '"username": "democlient"'), ["broker accounts"]),
    ],
)
def test_the_brokers_file_of_accounts_is_judged(
    damage: Callable[[str], str], failing: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "dynamic-security.json"
    path.touch(mode=0o600)
    path.write_text(damage(json.dumps(bootstrap.bootstrap_document(KeyRing({"k1": bytes(32)}), (2, 1, 2)))))
    assert [check.name for check in check_file(path) if check.level == "FAIL"] == failing


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
