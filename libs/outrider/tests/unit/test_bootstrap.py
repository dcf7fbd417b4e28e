"""The broker's first accounts, and what is done about a file of accounts that is not as it should be."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider.access import bootstrap, keys, seed
from outrider.access.secrets import service_password

OLD, NEW = (2, 0, 21), (2, 1, 2)
RING = keys.KeyRing({"k1": b"1" * 32})
DEVICE = {"username": "car-1", "clientid": "car-1", "roles": [], **bootstrap.hash_password("secret")}
Change = Callable[[dict[str, Any]], None]


def names(document: dict[str, Any]) -> set[str]:
    return {client["username"] for client in document["clients"]}


def account(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(client for client in document["clients"] if client["username"] == name)


def encoded(client: dict[str, Any]) -> None:
    """As Mosquitto 2.1 writes a password back."""
    fields = [str(client.pop(name)) for name in ("iterations", "salt", "password")]
    client["encoded_password"] = f"$7${'$'.join(fields)}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good file with a device in it."""
    path = tmp_path / "dynamic-security.json"
    document = bootstrap.bootstrap_document(RING, OLD)
    document["clients"].append(dict(DEVICE))
    path.write_text(json.dumps(document))
    return path


def test_everything_is_denied_and_nobody_but_services_is_there() -> None:
    document = bootstrap.bootstrap_document(RING, NEW)
    assert set(document["defaultACLAccess"].values()) == {False}
    assert len(document["defaultACLAccess"]) == 4
    expected = {"ingest", "writer-timeseries", "writer-logs", "registry", "tools"}
    assert names(document) >= {f"svc:{service}" for service in expected}
    assert all(name.startswith("svc:") for name in names(document))
    assert "anonymousGroup" not in document
    for client in document["clients"]:
        assert [role["rolename"] for role in client["roles"]] == [client["username"]]
        assert bootstrap.password_matches(client, service_password(RING, client["username"][4:]))
    # no service may do everything
    assert not any(acl["topic"] == "#" and acl["allow"] for role in document["roles"] for acl in role["acls"])


def test_no_secret_is_in_the_file() -> None:
    text = json.dumps(bootstrap.bootstrap_document(RING, OLD))
    assert not any(service_password(RING, service) in text for service in bootstrap.services())


def test_who_may_subscribe_may_unsubscribe() -> None:
    (role,) = [r for r in bootstrap.bootstrap_document(RING, OLD)["roles"] if r["rolename"] == "svc:ingest"]
    rules = {(acl["acltype"], acl["topic"]) for acl in role["acls"] if acl["allow"]}
    subscribed = {topic for kind, topic in rules if kind == "subscribePattern"}
    assert subscribed
    assert {topic for kind, topic in rules if kind == "unsubscribePattern"} == subscribed


def test_both_forms_of_a_password_are_known_and_a_wrong_one_is_not() -> None:
    client = bootstrap.hash_password("right")
    assert bootstrap.password_matches(client, "right")
    assert not bootstrap.password_matches(client, "wrong")
    encoded(client)
    assert bootstrap.password_matches(client, "right")
    assert not bootstrap.password_matches(client, "wrong")
    for broken in ({}, {"encoded_password": "$argon2id$v=19$x"}, {"password": "x", "salt": "é", "iterations": "no"}):
        assert not bootstrap.password_matches(broken, "right")


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_good_file_is_left_alone(version: bootstrap.Version, file: Path) -> None:
    before = file.read_bytes(), file.stat().st_ino
    assert bootstrap.ensure(file, RING, version) is False
    assert (file.read_bytes(), file.stat().st_ino) == before


def test_a_good_file_in_the_plugins_own_order_and_words_is_left_alone(file: Path) -> None:
    document = json.loads(file.read_text())
    for client in document["clients"]:
        encoded(client)
    document["clients"].reverse()
    for role in document["roles"]:
        role["acls"].reverse()
    document["roles"].reverse()
    file.write_text(json.dumps(document))
    assert bootstrap.ensure(file, RING, NEW) is False


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        " \n",
        '{"clients": [{"username": "svc:regis',
        "[]",
        "null",
        '{"clients": {}, "roles": []}',
        '{"clients": ["svc:registry"], "roles": []}',
        '{"clients": [{"username": "admin"}], "roles": []}',
        '{"clients": [{"username": "svc:registry"}, {"username": "democlient"}], "roles": []}',
        '{"clients": [{"username": "svc:registry"}]}',
        "\x00\x00\x00\x00",
    ],
)
def test_an_unusable_file_is_replaced(content: str | None, file: Path) -> None:
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert bootstrap.ensure(file, RING, NEW) is True
    document = json.loads(file.read_text())
    assert names(document) == {f"svc:{service}" for service in bootstrap.services()}
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [file.name], "no temporary file stays"


def drop_a_service(document: dict[str, Any]) -> None:
    document["clients"] = [client for client in document["clients"] if client["username"] != "svc:ingest"]


def other_password(document: dict[str, Any]) -> None:
    account(document, "svc:ingest").update(bootstrap.hash_password("somebody else's"))


def disable(document: dict[str, Any]) -> None:
    account(document, "svc:registry")["disabled"] = True


def more_rights(document: dict[str, Any]) -> None:
    document["roles"][0]["acls"].append({"acltype": "subscribePattern", "topic": "#", "priority": 0, "allow": True})


def open_defaults(document: dict[str, Any]) -> None:
    document["defaultACLAccess"]["publishClientReceive"] = True


def another_service(document: dict[str, Any]) -> None:
    document["clients"].append({"username": "svc:gone", "roles": [], **bootstrap.hash_password("x")})


@pytest.mark.parametrize(
    "change", [drop_a_service, other_password, disable, more_rights, open_defaults, another_service]
)
def test_what_is_wrong_is_mended_and_devices_stay(change: Change, file: Path) -> None:
    good = json.loads(file.read_text())
    wrong = copy.deepcopy(good)
    change(wrong)
    file.write_text(json.dumps(wrong))
    assert bootstrap.ensure(file, RING, NEW) is True
    mended = json.loads(file.read_text())
    assert names(mended) == names(good)
    assert account(mended, "car-1") == DEVICE
    assert bootstrap.password_matches(account(mended, "svc:ingest"), service_password(RING, "ingest"))
    assert "disabled" not in account(mended, "svc:registry")
    assert mended["defaultACLAccess"] == good["defaultACLAccess"]
    assert {r["rolename"]: len(r["acls"]) for r in mended["roles"]} == {
        r["rolename"]: len(r["acls"]) for r in good["roles"]
    }
    assert bootstrap.ensure(file, RING, NEW) is False


def test_another_master_key_changes_the_services_passwords_only(file: Path) -> None:
    other = keys.KeyRing({"k9": b"9" * 32})
    assert bootstrap.ensure(file, other, NEW) is True
    document = json.loads(file.read_text())
    assert account(document, "car-1") == DEVICE
    assert bootstrap.password_matches(account(document, "svc:registry"), service_password(other, "registry"))


def test_a_file_of_2_1_read_by_2_0_loses_what_2_0_cannot_read(file: Path) -> None:
    document = json.loads(file.read_text())
    for client in document["clients"]:
        encoded(client)
    file.write_text(json.dumps(document))
    assert bootstrap.ensure(file, RING, OLD) is True
    after = json.loads(file.read_text())
    assert "car-1" not in names(after), "a device that could never sign in would look as if it were there"
    assert bootstrap.password_matches(account(after, "svc:registry"), service_password(RING, "registry"))


def run_seed(file: Path, seed_file: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-I",
        "-S",
        str(seed.__file__),
        "--file",
        str(file),
        "--seed",
        str(seed_file),
        "--",
        "echo",
        "ran",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_the_launcher_restores_and_becomes_the_program(file: Path, tmp_path: Path) -> None:
    seed_file = tmp_path / "seed.json"
    bootstrap.write_seed(seed_file, RING, NEW)
    good = file.read_text()
    assert (run_seed(file, seed_file).stdout, file.read_text()) == ("ran\n", good)
    file.write_text("")
    result = run_seed(file, seed_file)
    assert (result.returncode, result.stdout, file.read_text()) == (0, "ran\n", seed_file.read_text())
    assert "made anew" in result.stderr
    assert "it is empty" in result.stderr


def test_the_launcher_does_not_start_a_broker_without_accounts(file: Path, tmp_path: Path) -> None:
    file.unlink()
    result = run_seed(file, tmp_path / "no-seed.json")
    assert result.returncode != 0
    assert result.stdout == ""


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        seed.write(str(file), "{}")
    assert file.read_text() == before
    assert os.listdir(file.parent) == [file.name]
