"""Who may trips, rules, erasures, retention, storage and archive, by every route: by role, tenant and session."""

from __future__ import annotations

import uuid
from typing import Any

from outrider.testing.fixtures import Database
from outrider_registry.api import erasures, retention, storage, trip_rules, trips
from outrider_registry.api.authentication import CSRF_HEADER
from outrider_registry.testing import Api

ONE = str(uuid.uuid4())
DAY = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
VIEWER, OPERATOR, ADMIN = 0, 1, 2
# method, path, body → the least role that may
ROUTES: list[tuple[str, str, Any, int]] = [
    ("GET", "trips", None, VIEWER),
    ("GET", "trips/{id}", None, VIEWER),
    ("POST", "trips/merge", {"ids": [ONE, str(uuid.uuid4())]}, OPERATOR),
    ("POST", "trips/{id}/split", {"at": DAY["from"]}, OPERATOR),
    ("POST", "trips/again", {"device": "van-1", **DAY}, OPERATOR),
    ("GET", "trip-edits", None, VIEWER),
    ("DELETE", "trip-edits/{id}", None, OPERATOR),
    ("GET", "trip-rules", None, VIEWER),
    ("PUT", "trip-rules/{type}", {"rules": {}}, OPERATOR),
    ("DELETE", "trip-rules/{type}", None, OPERATOR),
    ("GET", "erasures", None, ADMIN),
    ("GET", "erasures/{id}", None, ADMIN),
    ("POST", "erasures", {"kind": "device", "name": "van-1", "confirm": "van-2"}, ADMIN),
    ("GET", "retention", None, VIEWER),
    ("PATCH", "retention", {}, ADMIN),
    ("GET", "storage", None, VIEWER),
    ("GET", "archive", None, VIEWER),
    ("POST", "archive/tasks", {"kind": "verify"}, ADMIN),
    ("GET", "archive/tasks/{id}", None, VIEWER),
]


def test_every_route_is_in_the_table() -> None:
    found = {
        (method, route.path.removeprefix("/"))
        for module in (trips, trip_rules, erasures, retention, storage)
        for route in module.router.routes
        for method in route.methods
    }
    assert found == {(method, path) for method, path, _, _ in ROUTES}


async def test_who_may(api: Api) -> None:
    for method, path, body, least in ROUTES:
        url = path.replace("{id}", ONE).replace("{type}", "van")
        asked = {} if body is None else {"json": body}
        assert (await api.nobody.request(method, url, **asked)).status_code == 401
        for role, client in enumerate((api.viewer, api.operator, api.admin)):
            answer = await client.request(method, url, **asked)
            assert (answer.status_code == 403) == (role < least), (role, method, url, answer.text)
            assert answer.status_code < 500, answer.text
        if method != "GET":  # as a page of another site would send it
            headers = {CSRF_HEADER: ""}
            assert (await api.admin.request(method, url, **asked, headers=headers)).status_code == 403, (method, url)


async def test_trips_take_their_own_scope(api: Api) -> None:
    for scope, status in (("telemetry:read", 403), ("trips:read", 200)):
        narrow = await api.with_token("acme", api.viewer.name, "viewer", scope)
        for path in ("trips", "trip-edits", "trip-rules"):
            assert (await narrow.get(path)).status_code == status, (scope, path)
        if status == 403:
            assert (await narrow.get(f"trips/{ONE}")).status_code == 403


async def test_another_tenant_neither_sees_nor_touches_them(api: Api, database: Database) -> None:
    await api.admin.post("devices", json={"id": "van-1"})
    task = (await api.admin.post("archive/tasks", json={"kind": "restore"})).json()["id"]
    assert (await api.other.get(f"archive/tasks/{task}")).status_code == 404
    erase = {"kind": "device", "name": "van-1", "confirm": "van-1"}
    assert (await api.other.post("erasures", json=erase)).status_code == 404
    assert (await api.other.post("trips/again", json={"device": "van-1", **DAY})).status_code == 404
    assert (await api.admin.get("devices/van-1")).status_code == 200
    made = await api.admin.post("erasures", json=erase)
    assert made.status_code == 202, made.text
    assert (await api.other.get(f"erasures/{made.json()['id']}")).status_code == 404
    assert (await api.other.get("erasures")).json()["items"] == []
    assert (await api.other.patch("retention", json={"raw_days": 1})).status_code == 200
    assert database.rows("SELECT tenant, raw_days FROM lifecycle.policy ORDER BY 1") == [("*", 7), ("other", 1)]
    claimed = {"outrider-tenant": "acme"}
    assert (await api.other.get("retention", headers=claimed)).status_code in (403, 404)


async def test_everybodys_retention_takes_the_platforms_scope(api: Api, database: Database) -> None:
    narrow = await api.with_token(None, api.platform.name, "admin", "retention:write", "telemetry:read")
    assert (await narrow.patch("retention", json={"raw_days": 1})).status_code == 403
    assert (await narrow.get("storage")).status_code == 403
    assert database.value("SELECT raw_days FROM lifecycle.policy WHERE tenant = '*'") == 7
    full = await api.with_token(None, api.platform.name, "admin")
    assert (await full.patch("retention", json={"raw_days": 8})).status_code == 200
    assert database.value("SELECT raw_days FROM lifecycle.policy WHERE tenant = '*'") == 8


async def test_erasing_a_person_changes_nothing_in_another_tenant(api: Api, database: Database) -> None:
    """Whoever writes a name of others as owner of a device may have it erased, in their own tenant."""
    for tenant, by in (("*", "user:root"), ("other", f"user:{api.other.name}"), ("acme", "user:root")):
        database.rows(
            "INSERT INTO registry.emergency_stop (tenant, reason, stopped_by) VALUES (%s, '', %s)", tenant, by
        )
    for name in ("root", api.other.name):
        await api.admin.post("devices", json={"id": f"van-{name}", "owner": name})
        answer = await api.admin.post("erasures", json={"kind": "person", "name": name, "confirm": name})
        assert answer.status_code == 202, answer.text
    stops = database.rows("SELECT tenant, stopped_by FROM registry.emergency_stop ORDER BY tenant")
    assert stops == [("*", "user:root"), ("acme", "erased"), ("other", f"user:{api.other.name}")]
    assert (await api.platform.get("session")).status_code == 200
    assert (await api.other.get("session")).status_code == 200
