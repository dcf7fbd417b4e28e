"""What every request passes: problems in words, limits, headers, idempotency keys, metrics."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body
from prometheus_client import REGISTRY

from outrider.access.keys import KeyRing
from outrider.runtime.errors import Transient
from outrider.testing.fixtures import Database
from outrider_registry.api.deps import PrincipalDep
from outrider_registry.api.idempotent import cipher
from outrider_registry.testing import KEYS, Api

CSP = (
    "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


async def test_every_answer_has_the_security_headers(api: Api) -> None:
    answers = {
        "found": await api.viewer.get("session"),
        "refused": await api.nobody.get("session"),
        "no route": await api.nobody.get("nothing"),
        "csrf": await api.viewer.post("tokens", headers={"x-csrf-token": ""}),
        "console": await api.nobody.get("http://registry.test/"),
    }
    for what, answer in answers.items():
        policy = answer.headers["content-security-policy"]
        assert policy == CSP or what == "console", what
        assert policy.startswith("default-src 'self'; img-src 'self' data: blob:"), what
        assert {"object-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; ")), what
        assert "unsafe-inline" not in policy, what
        assert "unsafe-eval" not in policy, what
        assert answer.headers["x-content-type-options"] == "nosniff", what
        assert answer.headers["referrer-policy"] == "same-origin", what
        assert answer.headers["permissions-policy"].startswith("camera=()"), what
        assert "strict-transport-security" not in answer.headers, "the URL is http"
    for what in ("found", "refused", "no route", "csrf"):
        assert answers[what].headers["cache-control"] == "no-store", what


async def test_problems_say_what_is_wrong_and_where(api: Api) -> None:
    def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = answer.json()
        assert document["status"] == status
        assert document["title"]
        return document

    wrong = problem(
        await api.admin.post("tokens", json={"scopes": "devices:read", "days": 0, "secret": "hunter2"}), 422
    )
    fields = {one["field"]: one["message"] for one in wrong["errors"]}
    assert fields["name"] == "field required"
    assert fields["days"] == "input should be greater than or equal to 1"
    assert set(fields) == {"name", "days", "scopes", "secret"}
    assert "hunter2" not in str(wrong)
    assert "days: input should be" in wrong["detail"]
    limit = problem(await api.admin.get("users", params={"limit": 501}), 422)
    assert limit["errors"][0]["field"] == "query parameter limit"
    broken = problem(
        await api.admin.post("tokens", content=b'{"name": ', headers={"content-type": "application/json"}), 422
    )
    assert broken["detail"].startswith("The body is no JSON")
    assert "openapi.json" in problem(await api.admin.get("nothing"), 404)["detail"]
    method = await api.admin.put("users", json={})
    assert "allowed: " in problem(method, 405)["detail"]
    assert method.headers["allow"]
    problem(await api.admin.get("users", params={"q": "a\0b"}), 422)


async def test_a_database_that_is_away_is_503_with_retry_after(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise Transient("no database connection within 3 s")

    monkeypatch.setattr(api.registry.database, "transaction", away)
    for client in (api.viewer, api.token):
        answer = await client.get("session")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["content-type"] == "application/problem+json"


async def test_bodies_that_are_too_large_are_refused_whether_they_say_so_or_not(api: Api) -> None:
    async def endless() -> Any:
        for _ in range(40):
            yield b" " * 100_000

    large = b'{"name": "' + b"x" * (1024 * 1024) + b'"}'
    for content in (large, endless()):
        answer = await api.admin.post("tokens", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "1,048,576 bytes" in answer.json()["detail"]


@pytest.fixture
def counted(api: Api) -> dict[str, int]:
    """Routes of this test's own: each counts how often it is done."""
    done = {"slow": 0, "failing": 0}
    router = APIRouter()

    @router.post("/slow")
    async def slow(who: PrincipalDep, body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        await asyncio.sleep(0.2)  # the work itself, which two requests would do side by side
        done["slow"] += 1
        return {"version": done["slow"], "secret": "a-new-secret", **body}

    @router.post("/failing")
    async def failing(who: PrincipalDep) -> None:
        done["failing"] += 1
        raise Transient("not now") if done["failing"] == 1 else RuntimeError("kaboom")

    routes = list(api.app.router.routes)
    api.app.include_router(router, prefix="/api/v1")
    added = [route for route in api.app.router.routes if route not in routes]
    for route in added:  # before the console, which takes every path
        api.app.router.routes.remove(route)
        api.app.router.routes.insert(0, route)
    return done


async def test_a_repeated_post_is_done_once_and_answered_again(
    api: Api, counted: dict[str, int], database: Database
) -> None:
    key = {"idempotency-key": str(uuid.uuid4())}
    first = await api.operator.post("slow", json={"a": 1}, headers=key)
    again = await api.operator.post("slow", json={"a": 1}, headers=key)
    assert counted["slow"] == 1
    assert (first.status_code, first.content, first.headers["etag"]) == (
        again.status_code,
        again.content,
        again.headers["etag"],
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = await api.operator.post("slow", json={"a": 2}, headers=key)
    assert other.status_code == 422
    assert "another request" in other.json()["detail"]
    await api.viewer.post("slow", json={"a": 1}, headers=key)
    assert counted["slow"] == 2, "a key is its principal's own"
    stored = database.value("SELECT string_agg(encode(body, 'escape'), ' ') FROM registry.idempotency")
    assert "a-new-secret" not in stored
    database.rows("UPDATE registry.idempotency SET created_at = now() - interval '25 hours'")
    assert (await api.operator.post("slow", json={"a": 1}, headers=key)).json()["version"] == 3


async def test_of_two_at_once_one_is_done_and_the_other_waits(api: Api, counted: dict[str, int]) -> None:
    key = {"idempotency-key": "the same"}
    answers = await asyncio.gather(*(api.operator.post("slow", json={}, headers=key) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert {answer.headers["retry-after"] for answer in answers if answer.status_code == 409} == {"1"}
    assert counted["slow"] == 1
    assert (await api.operator.post("slow", json={}, headers=key)).status_code == 200
    assert counted["slow"] == 1


async def test_what_failed_may_be_sent_again(api: Api, counted: dict[str, int], database: Database) -> None:
    key = {"idempotency-key": "k"}
    assert (await api.operator.post("failing", headers=key)).status_code == 503
    with pytest.raises(RuntimeError):
        await api.operator.post("failing", headers=key)
    assert counted["failing"] == 2
    assert database.value("SELECT count(*) FROM registry.idempotency") == 0
    refused = await api.operator.post("tokens", json={}, headers=key)
    assert refused.status_code == 422
    made = await api.operator.post("tokens", json={"name": "x", "scopes": ["devices:read"]}, headers=key)
    assert made.status_code == 201
    assert (await api.operator.post("tokens", json={"name": "x", "scopes": ["devices:read"]}, headers=key)).json()[
        "token"
    ] == made.json()["token"]


async def test_a_first_try_that_died_is_done_by_the_next(api: Api, counted: dict[str, int], database: Database) -> None:
    key = {"idempotency-key": "k"}
    await api.operator.post("slow", json={}, headers=key)
    database.rows("UPDATE registry.idempotency SET status = NULL, body = NULL")
    assert (await api.operator.post("slow", json={}, headers=key)).status_code == 409
    database.rows("UPDATE registry.idempotency SET created_at = now() - interval '3 minutes'")
    assert (await api.operator.post("slow", json={}, headers=key)).status_code == 200
    assert counted["slow"] == 2


async def test_bad_idempotency_keys_are_refused(api: Api) -> None:
    for key in ("", "x" * 201):
        answer = await api.operator.post("tokens", json={}, headers={"idempotency-key": key})
        assert answer.status_code == 422
        assert "Idempotency-Key" in answer.json()["detail"]


def test_kept_answers_can_be_read_after_a_new_master_key() -> None:
    kept = cipher(KEYS).encrypt(b"answer")
    old = KEYS.derive("x")
    newer = KeyRing(
        {"k2": b"another master key of thirty-two bytes", "k1": b"a test's own master key, 32 bytes and more"}
    )
    assert newer.derive("x", key_id="k1") == old
    assert cipher(newer).decrypt(kept) == b"answer"


async def test_a_mistake_of_ours_is_500_with_headers_and_no_details(api: Api, counted: dict[str, int]) -> None:
    counted["failing"] = 1
    transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://registry.test/api/v1/") as client:
        client.headers.update(api.token.headers)
        answer = await client.post("failing")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == CSP
    assert "kaboom" not in answer.text


async def test_requests_are_counted_by_route_and_never_by_path(api: Api) -> None:
    def count(route: str, status: str) -> float:
        labels = {"route": route, "method": "GET", "status": status}
        return REGISTRY.get_sample_value("outrider_registry_http_requests_total", labels) or 0

    before = count("/api/v1/users/{name}", "404"), count("api", "404"), count("console", "200")
    await api.admin.get("users/nobody-there")
    await api.admin.get("some/thing/made/up")
    await api.nobody.get("http://registry.test/devices")
    after = count("/api/v1/users/{name}", "404"), count("api", "404"), count("console", "200")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
