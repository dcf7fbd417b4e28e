"""What a token with few scopes, a watched link and strange bodies must not get."""

from __future__ import annotations

import json

import httpx
import pyotp
import pytest

from outrider.contract import topics
from outrider.runtime.mqtt import Delivery
from outrider.testing.fixtures import Database
from outrider_registry import control
from outrider_registry.principals import VIEW
from outrider_registry.testing import URL, Api


async def test_a_token_that_sees_little_gets_no_broker_login(api: Api) -> None:
    login = await api.viewer.post(f"users/{api.viewer.name}/broker-login")
    assert login.status_code == 201
    narrow = await api.with_token("acme", api.viewer.name, "viewer", "telemetry:read")
    for method in ("POST", "DELETE"):
        answer = await narrow.request(method, f"users/{api.viewer.name}/broker-login")
        assert answer.status_code == 403, answer.text
    reads = await api.with_token("acme", api.viewer.name, "viewer", *(s for s in VIEW if s.endswith(":read")))
    assert (await reads.post(f"users/{api.viewer.name}/broker-login")).status_code == 403, "it changes something"
    assert (await api.viewer.get(f"users/{api.viewer.name}")).json()["broker_login"]
    assert (await api.token.post(f"users/{api.admin.name}/broker-login")).status_code == 201


async def test_a_kept_answer_is_for_whoever_got_it_only(api: Api) -> None:
    key = {"idempotency-key": "import-of-today"}
    body = {"name": "backup", "scopes": ["devices:read"]}
    first = await api.admin.post("tokens", json=body, headers=key)
    assert first.status_code == 201
    narrow = await api.with_token("acme", api.admin.name, "admin", "devices:read")
    again = await narrow.post("tokens", json=body, headers=key)
    assert again.status_code == 403, again.text
    assert first.json()["token"] not in again.text
    repeated = await api.admin.post("tokens", json=body, headers=key)
    assert repeated.json() == first.json()


async def test_sparklines_are_telemetry(api: Api, database: Database) -> None:
    assert (await api.admin.post("devices", json={"id": "van-1"})).status_code == 201
    narrow = await api.with_token("acme", api.viewer.name, "viewer", "devices:read")
    assert (await narrow.get("devices")).status_code == 200
    answer = await narrow.get("devices", params={"sparkline": "engine_rpm"})
    assert answer.status_code == 403, answer.text
    reads = "SELECT count(*) FROM registry.audit WHERE tenant = 'acme' AND action = 'position.read'"
    assert (await api.viewer.get("devices", params={"sparkline": "engine_rpm"})).status_code == 200
    assert database.value(reads) == 0
    assert (await api.viewer.get("devices", params={"sparkline": "lat"})).status_code == 200
    assert database.value(reads) == 1


async def test_a_token_of_the_platform_changes_tenants_only_with_the_scope_for_it(api: Api) -> None:
    narrow = await api.with_token(None, api.platform.name, "admin", "tenant:write")
    answer = await narrow.patch("tenants/other", json={"title": "Taken over"})
    assert answer.status_code == 403, answer.text
    assert (await api.admin.patch("tenants/acme", json={"title": "Acme"})).status_code == 200
    assert (await api.platform.patch("tenants/other", json={"title": "Other"})).status_code == 200


@pytest.mark.parametrize("depth", [200, 300, 900, 20_000])
@pytest.mark.parametrize(
    ("method", "path", "shape"),
    [
        ("POST", "configurations", '{"name": "deep", "state": {"k": %s}}'),
        ("PUT", "configuration-keys/k", '{"type": "json", "choices": [%s]}'),
        ("PATCH", "devices/van-1/shadow", '{"overrides": {"k": %s}}'),
        ("POST", "devices/van-1/commands", '{"name": "deep", "params": {"k": %s}}'),
        ("POST", "devices/import", '{"rows": [{"id": "van-2", "name": %s}]}'),
        ("POST", "charts", '{"name": "deep", "definition": %s}'),
        ("POST", "enrol", '{"claim": "abcdef", "token": "x", "device": %s}'),
    ],
)
async def test_what_is_nested_deep_is_refused_in_words(
    api: Api, method: str, path: str, shape: str, depth: int
) -> None:
    await api.admin.post("devices", json={"id": "van-1"})
    for deep in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        answer = await api.admin.request(
            method, path, content=shape % deep, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (200, 400, 413, 422), (answer.status_code, answer.text[:300])
        assert json.loads(answer.text)


async def test_codes_are_not_guessed_with_a_link_from_many_addresses(api: Api) -> None:
    setup = (await api.viewer.post("session/totp")).json()
    totp = pyotp.TOTP(setup["secret"])
    assert (await api.viewer.post("session/totp/confirm", json={"code": totp.now()})).status_code == 204
    link = (await api.admin.post(f"users/{api.viewer.name}/link")).json()["link"]
    wrong = next(f"{n:06d}" for n in range(1000) if not totp.verify(f"{n:06d}", valid_window=2))

    async def guess(address: int, code: str) -> int:
        transport = httpx.ASGITransport(api.app, client=(f"198.51.100.{address}", 50000))
        async with httpx.AsyncClient(transport=transport, base_url=f"{URL}/api/v1/") as client:
            answer = await client.post("session/link", json={"link": link, "code": code})
            return answer.status_code

    limit = api.registry.settings.sign_in_attempts
    assert [await guess(n, wrong) for n in range(limit)] == [401] * limit
    assert await guess(limit, wrong) == 429


async def test_what_a_device_sends_under_a_foreign_tenant_is_seen_by_its_own(api: Api, database: Database) -> None:
    """Mosquitto 2.0 cannot tell a device's tenant: it must not fill another tenant's list with what it likes."""
    assert (await api.admin.post("devices", json={"id": "van-1"})).status_code == 201
    for topic in (topics.SHADOW_REPORTED, topics.STATUS, topics.CREDENTIAL_CONFIRM):
        name = topic.name(tenant="other", device="van-1")
        delivery = Delivery(name, b'{"state": "x"}', 1, object(), 1_800_000_000_000, None, False)  # type: ignore[arg-type]
        await control.handle(api.registry, [delivery])
    assert database.rows("SELECT DISTINCT tenant, reason FROM rejected.message") == [("acme", "wrong_tenant")]
    assert (await api.other.get("rejected")).json()["items"] == []
    assert len((await api.operator.get("rejected")).json()["items"]) == 3
