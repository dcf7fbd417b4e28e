"""The first people of a platform: made once, let in at every start."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from outrider.access.secrets import person_password
from outrider.testing.fixtures import Database
from outrider_registry import bootstrap
from outrider_registry.api.authentication import CSRF_HEADER
from outrider_registry.context import Registry
from outrider_registry.principals import PLATFORM
from outrider_registry.testing import KEYS, Api, running_api

PASSWORD = "four quiet green tractors"


async def start(database: Database, admin: str = "admin", viewer: str | None = "viewer") -> dict[str, Any]:
    return await bootstrap.bootstrap(database.service_urls["registry"], KEYS, "demo", admin, viewer)


async def test_what_it_prints_lets_everybody_in(registry: Registry, database: Database) -> None:
    made = await start(database)
    async with running_api(registry) as api:
        assert made["admin"]["path"] == f"/sign-in#link={made['admin']['link']}"
        browser = await api.client()
        signed_in = await browser.post("session/link", json={"link": made["admin"]["link"]})
        assert signed_in.status_code == 200, signed_in.text
        assert (signed_in.json()["name"], signed_in.json()["platform"]) == ("admin", True)
        command = await api.client()
        command.headers["authorization"] = f"Bearer {made['token']}"
        session = (await command.get("session", headers={"outrider-tenant": "demo"})).json()
        assert (session["tenant"], set(session["scopes"])) == ("demo", PLATFORM)
        viewer = (await command.get("users/viewer")).json()
        assert (viewer["tenant"], viewer["role"], viewer["broker_login"]) == ("demo", "viewer", True)
    account = str(database.value("SELECT id FROM registry.account WHERE name = 'viewer'"))
    assert made["viewer"] == {
        "name": "viewer",
        "username": "user:viewer",
        "client_id": "user:viewer",
        "password": person_password(KEYS, account, 1, "k1"),
    }


async def test_a_second_start_makes_nothing_new_but_the_link(registry: Registry, database: Database) -> None:
    first = await start(database)
    audit = database.rows("SELECT actor, action, object FROM registry.audit ORDER BY tenant, number")
    assert {actor for actor, *_ in audit} == {"bootstrap"}
    second = await start(database)
    assert database.rows("SELECT actor, action, object FROM registry.audit ORDER BY tenant, number") == audit
    assert second["token"] == first["token"]
    assert second["viewer"] == first["viewer"]
    assert database.value("SELECT count(*) FROM registry.token") == 1
    async with running_api(registry) as api:
        old = await api.nobody.post("session/link", json={"link": first["admin"]["link"]})
        new = await api.nobody.post("session/link", json={"link": second["admin"]["link"]})
    assert (old.status_code, new.status_code) == (401, 200)


async def test_a_name_that_belongs_to_a_tenant_is_not_made_an_administrator(api: Api, database: Database) -> None:
    with pytest.raises(bootstrap.NotPossible, match="ada already, of acme"):
        await start(database, admin="ada")
    with pytest.raises(bootstrap.NotPossible, match="root already, of the platform"):
        await start(database, viewer="root")
    assert database.value("SELECT count(*) FROM registry.tenant WHERE name = 'demo'") == 0, "all or nothing"


def test_the_command_prints_json_and_says_what_is_missing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OUTRIDER_MASTER_KEY", raising=False)
    monkeypatch.setenv("OUTRIDER_MASTER_KEY_FILE", str(tmp_path / "master.key"))
    monkeypatch.setenv("OUTRIDER_DATABASE_URL", database.service_urls["registry"])
    assert bootstrap.main(["--viewer", "viewer"]) == 1
    assert "outrider key new" in capsys.readouterr().err
    (tmp_path / "master.key").write_text("k1:" + "A" * 43 + "=\n")
    assert bootstrap.main(["--tenant", "demo", "--viewer", "viewer"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made) == {"tenant", "admin", "token", "viewer"}
    monkeypatch.delenv("OUTRIDER_DATABASE_URL")
    assert bootstrap.main([]) == 1
    assert "OUTRIDER_DATABASE_URL" in capsys.readouterr().err


async def test_no_secret_gets_into_the_log(api: Api, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = await start(database)
    browser = await api.client()
    session = await browser.post("session/link", json={"link": made["admin"]["link"]})
    browser.headers[CSRF_HEADER] = session.json()["csrf"]
    await browser.post("session/password", json={"new": PASSWORD})
    totp = await browser.post("session/totp")
    await browser.post("session", json={"name": "admin", "password": PASSWORD + " wrong"})
    await browser.post("session", json={"name": "who?", "password": PASSWORD})
    token = await browser.post(
        "tokens", json={"name": "x", "scopes": ["devices:read"]}, headers={"idempotency-key": "k"}
    )
    login = await api.admin.post("users/vera/broker-login")
    wrong = await api.admin.post("tokens", json={"name": PASSWORD, "scopes": 7})
    assert wrong.status_code == 422
    found = (
        made["admin"]["link"],
        made["token"],
        made["viewer"]["password"],
        browser.cookies["outrider_session"],
        session.json()["csrf"],
        PASSWORD,
        totp.json()["secret"],
        token.json()["token"],
        login.json()["password"],
    )
    assert "sign_in_refused" in caplog.text
    everything = caplog.text + str([vars(record) for record in caplog.records])
    assert [secret for secret in found if secret in everything] == []
    assert [secret for secret in found if secret in wrong.text] == []
