"""Signing in: passwords, one-time links, second factor, rate limits, CSRF, cookies."""

from __future__ import annotations

import asyncio
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pyotp
import pytest

from outrider.testing.fixtures import Database
from outrider_registry import passwords
from outrider_registry.api.authentication import CSRF_HEADER
from outrider_registry.store import accounts
from outrider_registry.store.transactions import of_platform
from outrider_registry.testing import URL, Api, Client, running_api, running_registry

PASSWORD = "four quiet green tractors"
OTHER_PASSWORD = "another five grey badgers"


async def with_password(api: Api, client: Client, password: str = PASSWORD) -> None:
    """Give the account behind this client a password."""
    async with of_platform(api.registry.database) as connection:
        await accounts.set_password(connection, client.account, await passwords.hashed(password))


async def sign_in(
    api: Api, name: str, password: str = PASSWORD, code: str | None = None
) -> tuple[Client, httpx.Response]:
    """A new browser that signs in; its client has the cookie and the CSRF token."""
    client = await api.client(name)
    body = {"name": name, "password": password} | ({"code": code} if code else {})
    answer = await client.post("session", json=body)
    if answer.status_code == 200:
        client.headers[CSRF_HEADER] = answer.json()["csrf"]
    return client, answer


async def link_of(api: Api, name: str) -> str:
    answer = await api.admin.post(f"users/{name}/link")
    assert answer.status_code == 201, answer.text
    assert answer.json()["url"] == f"{URL}/sign-in#link={answer.json()['link']}"
    return str(answer.json()["link"])


async def test_a_session_says_who_is_signed_in(api: Api) -> None:
    body = (await api.viewer.get("session")).json()
    assert (body["name"], body["role"], body["tenant"], body["home"]) == ("vera", "viewer", "acme", "acme")
    assert not body["platform"]
    assert body["must_set_password"]
    assert body["csrf"] == api.viewer.headers[CSRF_HEADER]
    assert "devices:read" in body["scopes"]
    assert "devices:write" not in body["scopes"]
    assert (await api.token.get("session")).json()["csrf"] is None
    assert (await api.nobody.get("session")).status_code == 401


async def test_a_password_signs_in_and_the_cookie_is_kept_from_scripts_and_other_sites(api: Api) -> None:
    await with_password(api, api.viewer)
    client, answer = await sign_in(api, "vera")
    assert answer.status_code == 200, answer.text
    cookie = SimpleCookie(answer.headers["set-cookie"])["outrider_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"], "the URL is http"
    assert answer.headers["cache-control"] == "no-store"
    assert (await client.get("session")).json()["name"] == "vera"
    assert (await client.delete("session")).status_code == 204
    assert (await client.get("session")).status_code == 401


async def test_behind_https_the_cookie_is_secure_and_browsers_stay_with_https(database: Database) -> None:
    url = "https://fleet.example.org"
    async with running_registry(database.service_urls["registry"], url=url) as registry, running_api(registry) as api:
        await with_password(api, api.viewer)
        _, answer = await sign_in(api, "vera")
        assert SimpleCookie(answer.headers["set-cookie"])["outrider_session"]["secure"]
        assert answer.headers["strict-transport-security"].startswith("max-age=")


async def test_a_wrong_password_and_an_unknown_name_look_the_same(api: Api) -> None:
    await with_password(api, api.viewer)
    _, wrong = await sign_in(api, "vera", OTHER_PASSWORD)
    _, unknown = await sign_in(api, "nobody-of-this-name", OTHER_PASSWORD)
    _, without = await sign_in(api, "otto", OTHER_PASSWORD)  # has no password yet
    assert [a.status_code for a in (wrong, unknown, without)] == [401, 401, 401]
    assert wrong.json() == unknown.json() == without.json()
    refused = (await api.admin.get("audit", params={"action": "session.refuse"})).json()["items"]
    assert {line["object"] for line in refused} == {"user:vera", "user:otto"}
    assert OTHER_PASSWORD not in str(refused)


async def test_ten_failures_of_a_name_make_it_wait_over_all_replicas(api: Api, database: Database) -> None:
    await with_password(api, api.viewer)
    async with running_registry(database.service_urls["registry"]) as second, running_api(second) as other_replica:
        # At once and over two replicas: a burst does not get past the count.
        tries = [sign_in(replica, "vera", OTHER_PASSWORD) for replica in (api, other_replica) for _ in range(8)]
        found = [answer.status_code for _, answer in await asyncio.gather(*tries)]
    assert sorted(found) == [401] * 10 + [429] * 6
    _, answer = await sign_in(api, "vera")
    assert answer.status_code == 429, "the right password has to wait too"
    assert 0 < int(answer.headers["retry-after"]) <= 900
    database.rows("UPDATE registry.attempt SET at = at - interval '16 minutes'")
    _, answer = await sign_in(api, "vera")
    assert answer.status_code == 200


async def test_ten_failures_of_an_address_make_it_wait_whatever_the_names(api: Api) -> None:
    found = [(await sign_in(api, f"name-{number}"))[1].status_code for number in range(11)]
    assert found == [401] * 10 + [429]


async def test_signing_in_well_is_not_counted(api: Api, database: Database) -> None:
    await with_password(api, api.viewer)
    for _ in range(12):
        _, answer = await sign_in(api, "vera")
        assert answer.status_code == 200
    assert database.value("SELECT count(*) FROM registry.attempt") == 0


async def test_a_link_signs_in_once_and_lets_set_a_password(api: Api) -> None:
    link = await link_of(api, "vera")
    browsers = [await api.client() for _ in range(5)]
    answers = await asyncio.gather(*(browser.post("session/link", json={"link": link}) for browser in browsers))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]
    client, answer = next((c, a) for c, a in zip(browsers, answers, strict=True) if a.status_code == 200)
    client.headers[CSRF_HEADER] = answer.json()["csrf"]
    short = await client.post("session/password", json={"new": "too short"})
    assert short.status_code == 422
    assert "12 characters" in short.json()["detail"]
    assert (await client.post("session/password", json={"new": PASSWORD})).status_code == 204
    assert (await client.get("session")).json()["must_set_password"] is False
    assert (await api.viewer.get("session")).status_code == 401, "setting a password ends other sessions"
    again = await client.post("session/password", json={"new": OTHER_PASSWORD})
    assert again.status_code == 403, "once; then the current one is needed"
    changed = await client.post("session/password", json={"new": OTHER_PASSWORD, "current": PASSWORD})
    assert changed.status_code == 204
    assert (await sign_in(api, "vera", OTHER_PASSWORD))[1].status_code == 200


async def test_a_new_link_ends_the_ones_before_and_links_expire(api: Api, database: Database) -> None:
    first, second = await link_of(api, "vera"), await link_of(api, "vera")
    assert (await api.nobody.post("session/link", json={"link": first})).status_code == 401
    database.rows("UPDATE registry.sign_in_link SET expires_at = now() - interval '1 second'")
    assert (await api.nobody.post("session/link", json={"link": second})).status_code == 401
    stored = database.rows("SELECT encode(hash, 'escape') FROM registry.sign_in_link")
    assert second not in str(stored)


async def set_up_totp(api: Api, client: Client) -> pyotp.TOTP:
    setup = (await client.post("session/totp")).json()
    assert setup["qr"].startswith("<svg")
    assert setup["uri"].startswith("otpauth://totp/Outrider:vera?")
    return pyotp.TOTP(setup["secret"])


async def test_a_second_factor_is_asked_for_and_each_code_is_good_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("outrider_registry.second_factor.time.time", lambda: now)
    await with_password(api, api.viewer)
    totp = await set_up_totp(api, api.viewer)
    assert (await sign_in(api, "vera"))[1].status_code == 200, "not in force before it is confirmed"
    wrong = await api.viewer.post("session/totp/confirm", json={"code": "000000"})
    assert wrong.status_code == 422
    assert (await api.viewer.post("session/totp/confirm", json={"code": totp.at(int(now))})).status_code == 204
    assert (await api.viewer.post("session/totp")).status_code == 409

    _, without = await sign_in(api, "vera")
    assert without.status_code == 401
    assert without.json()["needs_code"] is True
    _, replayed = await sign_in(api, "vera", code=totp.at(int(now)))
    assert replayed.status_code == 401, "the code that confirmed it was used"
    now += 60
    early = totp.at(int(now) + 30)
    assert (await sign_in(api, "vera", code=early))[1].status_code == 200, "a clock that is a step ahead"
    assert (await sign_in(api, "vera", code=early))[1].status_code == 401
    assert (await sign_in(api, "vera", code=totp.at(int(now))))[1].status_code == 401, "older than one that was used"
    now += 120
    attempts = await asyncio.gather(*(sign_in(api, "vera", code=totp.at(int(now))) for _ in range(4)))
    assert sorted(answer.status_code for _, answer in attempts) == [200, 401, 401, 401]
    link = await link_of(api, "vera")
    answer = await api.nobody.post("session/link", json={"link": link})
    assert answer.json()["needs_code"] is True, "a link does not get around it"


async def test_a_second_factor_outlives_new_master_keys_and_ends_by_password(api: Api, database: Database) -> None:
    await with_password(api, api.viewer)
    totp = await set_up_totp(api, api.viewer)
    assert (await api.viewer.post("session/totp/confirm", json={"code": totp.now()})).status_code == 204
    assert database.rows("SELECT totp_key_id FROM registry.account WHERE name = 'vera'") == [("k1",)]
    assert totp.secret not in str(database.rows("SELECT a::text FROM registry.account a"))
    wrong = await api.viewer.request("DELETE", "session/totp", json={"password": OTHER_PASSWORD})
    assert wrong.status_code == 403
    assert (await api.viewer.request("DELETE", "session/totp", json={"password": PASSWORD})).status_code == 204
    assert (await sign_in(api, "vera"))[1].status_code == 200


async def test_changes_with_a_cookie_need_the_csrf_token(api: Api) -> None:
    for header in ({CSRF_HEADER: ""}, {CSRF_HEADER: "x" * 43}, {CSRF_HEADER: api.operator.headers[CSRF_HEADER]}):
        answer = await api.admin.post("users", json={"name": "eve"}, headers=header)
        assert answer.status_code == 403
        assert "X-CSRF-Token" in answer.json()["detail"]
    assert (await api.admin.get("users", headers={CSRF_HEADER: ""})).status_code == 200
    assert (await api.token.post("users", json={"name": "eve"})).status_code == 201, "a token is no cookie"


async def test_pages_of_other_sites_cannot_change_anything_or_sign_somebody_in(api: Api) -> None:
    await with_password(api, api.viewer)
    body = {"name": "vera", "password": PASSWORD}
    for site in ("cross-site", "same-site"):
        for client, path in ((api.nobody, "session"), (api.admin, "users")):
            answer = await client.post(path, json=body, headers={"sec-fetch-site": site})
            assert answer.status_code == 403, (site, path)
    answer = await api.nobody.post("session", json=body, headers={"sec-fetch-site": "same-origin"})
    assert answer.status_code == 200


@pytest.mark.parametrize("what", ["account", "tenant"])
async def test_disabled_people_and_tenants_get_nothing(api: Api, database: Database, what: str) -> None:
    await with_password(api, api.viewer)
    token = await api.with_token("acme", "vera", "viewer")
    if what == "account":
        database.rows("UPDATE registry.account SET disabled_at = now() WHERE name = 'vera'")
    else:
        database.rows("UPDATE registry.tenant SET disabled_at = now() WHERE name = 'acme'")
    for client in (api.viewer, token):
        answer = await client.get("session")
        assert answer.status_code == 401
        assert "disabled" in answer.json()["detail"]
    _, answer = await sign_in(api, "vera")
    assert answer.status_code == 401
    assert "disabled" in answer.json()["detail"]
    _, wrong = await sign_in(api, "vera", OTHER_PASSWORD)
    assert "disabled" not in wrong.json()["detail"], "only for whoever knows the password"


async def test_sessions_expire_and_their_use_is_noted_once_a_minute(api: Api, database: Database) -> None:
    def seen() -> Any:
        return database.value(
            "SELECT s.seen_at FROM registry.session s JOIN registry.account a ON a.id = s.account WHERE a.name = 'vera'"
        )

    first = seen()
    await api.viewer.get("session")
    assert seen() == first
    database.rows("UPDATE registry.session SET seen_at = seen_at - interval '61 seconds'")
    await api.viewer.get("session")
    assert seen() > first
    database.rows("UPDATE registry.session SET expires_at = now()")
    assert (await api.viewer.get("session")).status_code == 401


async def test_administrators_of_the_platform_choose_a_tenant(api: Api) -> None:
    client = await api.sign_in(None, "root", "admin")
    assert (await client.get("session")).json()["tenant"] is None
    assert (await client.patch("session", json={"acting_in": "nowhere"})).status_code == 404
    assert (await client.patch("session", json={"acting_in": "other"})).json()["tenant"] == "other"
    assert (await client.get("session")).json()["tenant"] == "other"
    chosen = await client.get("session", headers={"outrider-tenant": "acme"})
    assert chosen.json()["tenant"] == "acme", "the header wins"
    assert (await client.patch("session", json={"acting_in": None})).json()["tenant"] is None
    assert (await api.admin.patch("session", json={"acting_in": "other"})).status_code == 403
    foreign = await api.admin.get("session", headers={"outrider-tenant": "other"})
    missing = await api.admin.get("session", headers={"outrider-tenant": "nowhere"})
    assert foreign.status_code == missing.status_code == 404


async def test_a_token_cannot_change_how_its_owner_signs_in(api: Api) -> None:
    for method, path, body in (
        ("POST", "session/password", {"new": OTHER_PASSWORD}),
        ("POST", "session/totp", None),
        ("DELETE", "session/totp", {"password": PASSWORD}),
    ):
        assert (await api.token.request(method, path, json=body)).status_code == 403


async def test_an_administrator_of_the_platform_begins_in_its_only_tenant(api: Api, database: Database) -> None:
    root = await api.sign_in(None, "root", "admin")
    await with_password(api, root)
    assert (await sign_in(api, "root"))[1].json()["tenant"] is None, "there are two"
    database.rows("DELETE FROM registry.account WHERE tenant = 'other'")
    database.rows("DELETE FROM registry.tenant WHERE name = 'other'")
    client, answer = await sign_in(api, "root")
    assert answer.json()["tenant"] == "acme"
    assert (await client.get("session")).json()["tenant"] == "acme"
    assert (await sign_in(api, "root"))[1].json()["home"] is None
