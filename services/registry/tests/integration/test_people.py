"""People, tokens and tenants: who may manage whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from outrider.access.secrets import person_password
from outrider.testing.fixtures import Database
from outrider_registry.principals import OPERATE, PLATFORM, VIEW
from outrider_registry.testing import KEYS, Api


def actions(database: Database, tenant: str) -> list[tuple[str, str, str]]:
    """The audit of a tenant without sign-ins."""
    rows = database.rows("SELECT actor, action, object FROM registry.audit WHERE tenant = %s ORDER BY number", tenant)
    return [(str(a), str(b), str(c)) for a, b, c in rows]


async def test_an_admin_invites_changes_and_removes_people(api: Api, database: Database) -> None:
    invited = await api.admin.post("users", json={"name": "ann@acme.example", "role": "operator"})
    assert invited.status_code == 201, invited.text
    assert invited.headers["location"] == "/api/v1/users/ann@acme.example"
    assert invited.headers["etag"] == '"1"'
    assert invited.json()["tenant"] == "acme"
    signed_in = await api.nobody.post("session/link", json={"link": invited.json()["link"]["link"]})
    assert signed_in.json()["role"] == "operator"
    assert [user["name"] for user in (await api.admin.get("users", params={"q": "ann"})).json()["items"]] == [
        "ann@acme.example"
    ]
    changed = await api.admin.patch(
        "users/ann@acme.example", json={"role": "viewer"}, headers={"if-match": invited.headers["etag"]}
    )
    assert (changed.json()["role"], changed.headers["etag"]) == ("viewer", '"2"')
    stale = await api.admin.patch(
        "users/ann@acme.example", json={"role": "admin"}, headers={"if-match": invited.headers["etag"]}
    )
    assert (stale.status_code, stale.json()["current_version"]) == (412, 2)
    disabled = await api.admin.patch("users/ann@acme.example", json={"disabled": True})
    assert disabled.json()["disabled_at"] is not None
    assert (await api.nobody.get("session")).status_code == 401, "disabling ends sessions"
    assert (await api.admin.delete("users/ann@acme.example")).status_code == 204
    assert (await api.admin.get("users/ann@acme.example")).status_code == 404
    assert [line for line in actions(database, "acme") if line[2] == "user:ann@acme.example"] == [
        ("user:ada", "user.create", "user:ann@acme.example"),
        ("user:ann@acme.example", "session.begin", "user:ann@acme.example"),
        ("user:ada", "user.change", "user:ann@acme.example"),
        ("user:ada", "user.change", "user:ann@acme.example"),
        ("user:ada", "user.delete", "user:ann@acme.example"),
    ]


async def test_without_if_match_nothing_is_changed(api: Api) -> None:
    del api.admin.headers["if-match"]
    for method, body in (("PATCH", {"role": "operator"}), ("DELETE", None)):
        assert (await api.admin.request(method, "users/vera", json=body)).status_code == 428
    bad = await api.admin.delete("users/vera", headers={"if-match": "yesterday"})
    assert bad.status_code == 422


async def test_people_of_other_tenants_do_not_exist(api: Api, database: Database) -> None:
    before = database.rows("SELECT * FROM registry.account WHERE name = 'olga'")
    for method, path, body in (
        ("GET", "users/olga", None),
        ("PATCH", "users/olga", {"role": "viewer"}),
        ("DELETE", "users/olga", None),
        ("POST", "users/olga/link", None),
        ("POST", "users/olga/broker-login", None),
        ("DELETE", "users/olga/broker-login", None),
    ):
        foreign = await api.admin.request(method, path, json=body)
        missing = await api.admin.request(method, path.replace("olga", "nina"), json=body)
        assert (foreign.status_code, missing.status_code) == (404, 404), path
        assert foreign.json()["detail"].replace("olga", "nina") == missing.json()["detail"]
    assert database.rows("SELECT * FROM registry.account WHERE name = 'olga'") == before
    assert {user["tenant"] for user in (await api.admin.get("users")).json()["items"]} == {"acme"}


async def test_a_taken_name_says_so_and_not_whose_it_is(api: Api) -> None:
    answer = await api.admin.post("users", json={"name": "olga"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == "There is a user olga already. Choose another name, or change that one."


async def test_nobody_gives_or_takes_more_than_they_have(api: Api) -> None:
    assert (await api.admin.post("users", json={"name": "eve", "platform": True})).status_code == 403
    weak = await api.with_token("acme", "ada", "admin", "users:read", "users:write")
    for answer in (
        await weak.post("users", json={"name": "eve", "role": "admin"}),
        await weak.post("users/ada/link"),
        await weak.patch("users/otto", json={"role": "admin"}),
        await weak.delete("users/otto"),
    ):
        assert answer.status_code == 403, answer.text
        assert "you lack" in answer.json()["detail"]
    enough = await api.with_token("acme", "ada", "admin", "users:write", *VIEW)
    assert (await enough.post("users", json={"name": "eve", "role": "viewer"})).status_code == 201
    for client in (api.operator, api.viewer):
        assert (await client.get("users")).status_code == 403
        assert (await client.post("users", json={"name": "mallory"})).status_code == 403
        assert (await client.get(f"users/{client.name}")).status_code == 200, "everybody may see themselves"


async def test_the_last_administrator_stays(api: Api) -> None:
    for answer in (
        await api.admin.delete("users/ada"),
        await api.admin.patch("users/ada", json={"role": "viewer"}),
        await api.admin.patch("users/ada", json={"disabled": True}),
    ):
        assert answer.status_code == 409
        assert "last administrator of tenant acme" in answer.json()["detail"]
    platform = await api.sign_in(None, "root", "admin")
    assert "of the platform" in (await platform.delete("users/root")).json()["detail"]
    second = await api.sign_in("acme", "adam", "admin")
    both = await asyncio.gather(second.delete("users/ada"), api.admin.delete("users/adam"))
    assert sorted(answer.status_code for answer in both) in ([204, 401], [204, 409], [204, 404])
    assert (await platform.get("users", params={"q": "ada"})).json()["items"]


async def test_administrators_of_the_platform_invite_others_and_first_admins(api: Api, database: Database) -> None:
    platform = await api.sign_in(None, "root", "admin")
    made = await platform.post("tenants", json={"name": "third", "title": "Third"})
    assert made.status_code == 201, made.text
    nowhere = await platform.post("users", json={"name": "tina", "role": "admin"})
    assert nowhere.status_code == 403
    assert "Outrider-Tenant" in nowhere.json()["detail"]
    first = await platform.post("users", json={"name": "tina", "role": "admin"}, headers={"outrider-tenant": "third"})
    assert first.json()["tenant"] == "third"
    second = await platform.post("users", json={"name": "ruth", "platform": True})
    assert (second.json()["tenant"], second.json()["role"]) == (None, "admin")
    assert ("user:root", "user.create", "user:ruth") in actions(database, "-")
    assert (await platform.patch("users/ruth", json={"role": "viewer"})).status_code == 422
    in_a_tenant = await api.platform.get("users/ruth")
    assert in_a_tenant.status_code == 200, "by name, whichever tenant is chosen"
    third = await api.platform.post("users", json={"name": "rita", "platform": True})
    assert third.json()["tenant"] is None
    admins = (await api.platform.get("users", params={"platform": "true"})).json()["items"]
    assert [user["name"] for user in admins] == ["rita", "root", "ruth"]
    assert (await api.admin.get("users", params={"platform": "true"})).status_code == 403
    everybody = {user["name"] for user in (await platform.get("users")).json()["items"]}
    assert {"tina", "ruth", "ada", "olga"} <= everybody


async def test_a_broker_login_is_derived_shown_once_and_never_comes_back(api: Api, database: Database) -> None:
    first = (await api.viewer.post("users/vera/broker-login")).json()
    account = str(database.value("SELECT id FROM registry.account WHERE name = 'vera'"))
    assert first["username"] == first["client_id"] == "user:vera"
    assert first["password"] == person_password(KEYS, account, 1, "k1")
    assert first["password"] in first["command"]
    assert (await api.admin.delete("users/vera/broker-login")).status_code == 204
    row = "SELECT mqtt_generation, mqtt_key_id FROM registry.account WHERE name = 'vera'"
    assert database.rows(row) == [(0, None)]
    again = (await api.admin.post("users/vera/broker-login")).json()
    assert again["password"] == person_password(KEYS, account, 2, "k1")
    assert database.rows(row) == [(2, "k1")]
    assert (await api.viewer.post("users/otto/broker-login")).status_code == 403
    everything = str(database.rows("SELECT a::text FROM registry.account a")) + str(
        database.rows("SELECT a::text FROM registry.audit a")
    )
    assert first["password"] not in everything
    assert again["password"] not in everything


async def test_a_token_has_some_of_its_makers_scopes_and_ends(api: Api, database: Database) -> None:
    made = await api.operator.post("tokens", json={"name": "backup", "scopes": ["devices:read"], "days": 7})
    assert made.status_code == 201, made.text
    token = made.json()["token"]
    assert token.startswith("otr_")
    assert len(token) == 47
    assert token not in str(database.rows("SELECT t::text, encode(hash, 'escape') FROM registry.token t"))
    client = await api.client()
    client.headers["authorization"] = f"Bearer {token}"
    session = (await client.get("session")).json()
    assert (session["name"], session["scopes"]) == ("otto", ["devices:read"])
    assert (await client.post("tokens", json={"name": "x", "scopes": ["devices:read"]})).status_code == 403
    listed = (await api.operator.get("tokens")).json()["items"]
    assert [one["name"] for one in listed] == ["backup"]
    assert "token" not in listed[0]
    assert listed[0]["last_used_at"] is not None
    beyond = await api.operator.post("tokens", json={"name": "x", "scopes": ["users:write"]})
    assert beyond.status_code == 403
    unknown = await api.operator.post("tokens", json={"name": "x", "scopes": ["devices:fly"]})
    assert unknown.status_code == 422
    assert "devices:fly" in unknown.json()["detail"]
    assert (
        await api.operator.post("tokens", json={"name": "x", "scopes": ["devices:read"], "days": 366})
    ).status_code == 422
    assert (await api.operator.delete(f"tokens/{made.json()['id']}")).status_code == 204
    assert (await client.get("session")).status_code == 401


async def test_a_token_loses_what_its_owner_loses(api: Api, database: Database) -> None:
    token = await api.with_token("acme", "otto", "operator", *OPERATE)
    assert (await token.get("audit")).status_code == 200
    await api.admin.patch("users/otto", json={"role": "viewer"})
    assert (await token.get("audit")).status_code == 403
    await api.admin.delete("users/otto")
    assert (await token.get("session")).status_code == 401
    assert database.value("SELECT count(*) FROM registry.token WHERE name = 'test'") == 1, "ada's is left"


async def test_expired_tokens_do_not_work(api: Api, database: Database) -> None:
    database.rows("UPDATE registry.token SET expires_at = now()")
    answer = await api.token.get("session")
    assert answer.status_code == 401
    assert "outrider token create" in answer.json()["detail"]


async def test_only_administrators_of_people_end_tokens_of_others(api: Api) -> None:
    async def make(client: Any) -> str:
        return str((await client.post("tokens", json={"name": "x", "scopes": ["devices:read"]})).json()["id"])

    operators, foreign = await make(api.operator), await make(api.other)
    assert (await api.viewer.delete(f"tokens/{operators}")).status_code == 404
    assert (await api.admin.delete(f"tokens/{foreign}")).status_code == 404
    assert (await api.viewer.get("tokens", params={"all": "true"})).status_code == 403
    listed = (await api.admin.get("tokens", params={"all": "true"})).json()["items"]
    assert {(one["owner"], one["name"]) for one in listed} == {("otto", "x"), ("ada", "test")}
    assert (await api.admin.delete(f"tokens/{operators}")).status_code == 204


async def test_lists_come_in_pages(api: Api) -> None:
    for number in range(5):
        await api.admin.post("users", json={"name": f"page-{number}"})
        await api.admin.post("tokens", json={"name": f"page-{number}", "scopes": ["devices:read"]})
    for path, key in (("users", "name"), ("tokens", "id"), ("audit", "number")):
        everything = [item[key] for item in (await api.admin.get(path)).json()["items"]]
        found, cursor = [], None
        while True:
            page = (await api.admin.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
            found += [item[key] for item in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert found == everything, path
        assert (await api.admin.get(path, params={"cursor": "bm9uZQ"})).status_code == 422
    other = (await api.admin.get("users", params={"limit": 1})).json()["next"]
    for path in ("tokens", "audit"):
        assert (await api.admin.get(path, params={"cursor": other})).status_code == 422


async def test_a_tenant_is_made_changed_disabled_and_deleted_when_empty(api: Api, database: Database) -> None:
    platform = await api.sign_in(None, "root", "admin")
    assert (await platform.post("tenants", json={"name": "third"})).status_code == 201
    assert (await platform.post("tenants", json={"name": "third"})).status_code == 409
    assert (await platform.post("tenants", json={"name": "No Name"})).status_code == 422
    names = [tenant["name"] for tenant in (await platform.get("tenants")).json()["items"]]
    assert names == ["acme", "other", "third"]
    changed = await platform.patch("tenants/third", json={"title": "The third"})
    assert (changed.json()["title"], changed.headers["etag"]) == ("The third", '"2"')
    disabled = await platform.patch("tenants/third", json={"disabled": True})
    assert disabled.json()["disabled_at"] is not None
    assert disabled.json()["title"] == "The third"
    database.rows("INSERT INTO registry.metric (tenant, name) VALUES ('third', 'speed')")
    full = await platform.delete("tenants/acme")
    assert (full.status_code, full.json()["users"]) == (409, 3)
    assert (await platform.delete("tenants/third")).status_code == 204
    assert (await platform.get("tenants/third")).status_code == 404
    assert ("user:root", "tenant.delete", "tenant:third") in actions(database, "-")


async def test_a_tenants_admin_changes_its_title_and_sees_no_other_tenant(api: Api) -> None:
    assert (await api.admin.patch("tenants/acme", json={"title": "Acme"})).json()["title"] == "Acme"
    assert (await api.viewer.get("tenants/acme")).status_code == 200
    assert (await api.admin.patch("tenants/acme", json={"disabled": True})).status_code == 403
    assert (await api.admin.get("tenants/other")).status_code == 404
    assert (await api.admin.patch("tenants/other", json={"title": "Mine"})).status_code == 404
    for answer in (
        await api.admin.get("tenants"),
        await api.admin.post("tenants", json={"name": "mine"}),
        await api.admin.delete("tenants/acme"),
    ):
        assert answer.status_code == 403


@pytest.mark.parametrize("scopes", [("platform:read",), tuple(PLATFORM)])
async def test_a_token_of_the_platform_works_in_the_tenant_it_names(api: Api, scopes: tuple[str, ...]) -> None:
    token = await api.with_token(None, "root", "admin", *scopes)
    assert (await token.get("tenants")).status_code == 200
    assert (await token.get("session", headers={"outrider-tenant": "acme"})).json()["tenant"] == "acme"
    assert (await token.get("session", headers={"outrider-tenant": "nowhere"})).status_code == 404
    made = await token.post("tenants", json={"name": "third"})
    assert made.status_code == (201 if "platform:write" in scopes else 403)
