"""Which Mosquitto is taken, and what a user reads when none can be."""

from pathlib import Path

import pytest

from outrider.servers import mosquitto
from outrider.servers.base import ServerError


def fake_program(folder: Path, version: str) -> Path:
    """A program that answers `-h` like a Mosquitto of that version."""
    path = folder / "mosquitto"
    path.write_text(f"#!/bin/sh\necho 'mosquitto version {version}'\nexit 3\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mosquitto version 2.1.2\n\nmosquitto is an MQTT v5.0 broker.", (2, 1, 2)),
        ("1795235612: mosquitto version 2.0.11 terminating", (2, 0, 11)),
        ("mosquitto version 2.0.21 (build date 2025)", (2, 0, 21)),
    ],
)
def test_parse_version(text: str, version: mosquitto.Version) -> None:
    assert mosquitto.parse_version(text) == version


def test_parse_version_without_one() -> None:
    with pytest.raises(ValueError, match="no version"):
        mosquitto.parse_version("bash: mosquitto: command not found")


def test_find_takes_the_named_program_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_program(tmp_path, "2.0.22")
    monkeypatch.setenv(mosquitto.VARIABLE, str(path))
    program = mosquitto.find(tmp_path / "cache")
    assert (program.path, program.version, program.source) == (path, (2, 0, 22), "OUTRIDER_MOSQUITTO")


def test_find_refuses_a_named_2_0_11_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mosquitto.VARIABLE, str(fake_program(tmp_path, "2.0.11")))
    with pytest.raises(ServerError, match=r"is Mosquitto 2\.0\.11; 2\.0\.21 or newer is needed .*receive-maximum"):
        mosquitto.find(tmp_path / "cache")


def test_find_takes_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_program(tmp_path, "2.1.2")
    monkeypatch.delenv(mosquitto.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mosquitto.find(tmp_path / "cache").path == path


def test_find_passes_over_an_installed_2_0_11_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program(tmp_path, "2.0.11")
    monkeypatch.delenv(mosquitto.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt on it either
    with pytest.raises(ServerError) as caught:
        mosquitto.find(tmp_path / "cache")
    message = str(caught.value)
    assert "is Mosquitto 2.0.11; 2.0.21 or newer is needed" in message
    assert "no private unpack" in message
    assert "OUTRIDER_MOSQUITTO=/path/to/mosquitto" in message


@pytest.mark.parametrize(
    ("distribution", "codename", "command"),
    [
        ("debian", "bookworm", "apt install -t bookworm-backports mosquitto mosquitto-clients"),
        ("debian", "trixie", "apt install mosquitto mosquitto-clients"),
        ("ubuntu", "noble", "add-apt-repository ppa:mosquitto-dev/mosquitto-ppa"),
        ("fedora", "", "package manager"),
    ],
)
def test_not_found_names_the_command_for_the_machine(distribution: str, codename: str, command: str) -> None:
    assert command in mosquitto.not_found(["reason one"], distribution, codename)


def program(folder: Path, version: mosquitto.Version) -> mosquitto.Program:
    """A tree with the plugins of that version."""
    plugins = folder / "usr/lib/x86_64-linux-gnu"
    if version >= (2, 1, 0):
        plugins /= "mosquitto"
    plugins.mkdir(parents=True)
    (plugins / "mosquitto_dynamic_security.so").touch()
    if version >= (2, 1, 0):
        (plugins / "mosquitto_persist_sqlite.so").touch()
    return mosquitto.Program(folder / "usr/sbin/mosquitto", version, "test", folder)


def test_configuration_differs_by_version(tmp_path: Path) -> None:
    old = program(tmp_path / "tree-old", (2, 0, 21))
    text = mosquitto.Mosquitto(tmp_path / "old", program=old, port=1).configuration()
    assert "\npersistence true\n" in text
    assert "global_plugin" not in text
    assert f"\nplugin {old.dynsec_plugin}\n" in text
    # the rights of devices: 2.0 has no patterns in roles
    assert f"\nacl_file {tmp_path}/old/acl\n" in text

    new = program(tmp_path / "tree-new", (2, 1, 2))
    text = mosquitto.Mosquitto(tmp_path / "new", program=new, port=1).configuration()
    assert f"\nglobal_plugin {new.sqlite_plugin}\n" in text
    assert f"\nglobal_plugin {new.dynsec_plugin}\n" in text
    assert "\npersistence true\n" not in text
    assert "acl_file" not in text


@pytest.mark.parametrize("version", [(2, 0, 21), (2, 1, 2)])
def test_configuration_lets_nobody_in_without_an_account(version: mosquitto.Version, tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    broker = mosquitto.Mosquitto(tmp_path / "data", program=program(tmp_path / "tree", version), port=1, tls=tls)
    options = [line.split(None, 1) for line in broker.configuration().splitlines() if line and not line.startswith("#")]
    assert [value for name, value in options if name == "allow_anonymous"] == ["false"]
    assert not any(name == "per_listener_settings" for name, *_ in options)
    listeners: dict[str, set[str]] = {}
    for name, *value in options:
        if name == "listener":
            assert value[0].endswith(" 127.0.0.1")
            current = listeners.setdefault(value[0].split()[0], set())
        elif name in ("use_username_as_clientid", "require_certificate", "use_identity_as_username", "crlfile"):
            current.add(name)
    own_id, certificate = "use_username_as_clientid", {"require_certificate", "use_identity_as_username", "crlfile"}
    assert listeners == {
        "1": set(),
        str(broker.device_port): {own_id},
        str(broker.device_tls_port): {own_id},
        str(broker.device_cert_port): {own_id, *certificate},
    }


def test_configuration_without_the_plugin_says_what_to_do(tmp_path: Path) -> None:
    bare = mosquitto.Program(tmp_path / "usr/sbin/mosquitto", (2, 1, 2), "test", tmp_path)
    with pytest.raises(ServerError, match=r"mosquitto_dynamic_security\.so"):
        mosquitto.Mosquitto(tmp_path / "data", program=bare).configuration()


def test_find_old_passes_over_a_newer_named_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mosquitto.VARIABLE, str(fake_program(tmp_path, "2.1.2")))
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt on it
    with pytest.raises(ServerError, match="no private unpack"):
        mosquitto.find_old(tmp_path / "cache")
    monkeypatch.setenv(mosquitto.VARIABLE, str(fake_program(tmp_path, "2.0.22")))
    assert mosquitto.find_old(tmp_path / "cache").version == (2, 0, 22)
