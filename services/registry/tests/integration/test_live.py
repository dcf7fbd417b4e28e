"""Live events, over the real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from outrider.testing.fixtures import Database
from outrider.testing.waiting import eventually
from outrider_registry import live as hub
from outrider_registry.api import live
from outrider_registry.http import HttpServer
from outrider_registry.testing import Api, Client


class Reader:
    """A browser's event source."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.comments = 0
        self.ended = False

    def read(self, block: str) -> None:
        """One block between empty lines."""
        if block.startswith(":"):
            self.comments += 1
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            self.events.append((fields["event"], json.loads(fields["data"])))

    async def told(self, event: str, **members: Any) -> dict[str, Any]:
        """Wait for an event that has these members."""

        def find() -> dict[str, Any] | None:
            for name, data in self.events:
                if name == event and all(data.get(key) == value for key, value in members.items()):
                    return dict(data)
            return None

        found = await eventually(find)
        assert found is not None
        return found

    async def fleet(self, device: str, **members: Any) -> None:
        """Wait until the fleet's events say this of a device."""

        def find() -> bool:
            known: dict[str, Any] = {}
            for name, data in self.events:
                for one in data["devices"] if name == "fleet" else ():
                    if one["id"] == device:
                        known |= one
            return all(known.get(key) == value for key, value in members.items())

        await eventually(find)


@pytest.fixture
async def server(api: Api) -> AsyncIterator[str]:
    """The URL of the API over HTTP."""
    settings = api.registry.settings.model_copy(update={"registry_http_port": 0})
    http = HttpServer(settings)
    http.app = api.app
    task = asyncio.create_task(http.run())
    await eventually(lambda: http.problem() is None)
    yield f"{http.url}/api/v1"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def watching(server: str, somebody: Client, **query: str) -> AsyncIterator[Reader]:
    """Somebody's stream, read until the block ends."""
    reader = Reader()
    headers = {name: value for name, value in somebody.headers.items() if name in ("authorization", "outrider-tenant")}
    async with (
        httpx.AsyncClient(headers=headers, cookies=somebody.cookies, timeout=30) as client,
        client.stream("GET", f"{server}/live", params=query) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def read() -> None:
            block = ""
            async for line in answer.aiter_lines():
                if line:
                    block += line + "\n"
                else:
                    reader.read(block)
                    block = ""
            reader.ended = True

        task = asyncio.create_task(read())
        try:
            yield reader
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await task


def sample(database: Database, device: str, metric: str, value: float, tenant: str = "acme") -> None:
    """A sample of now."""
    database.rows("SELECT runtime.ensure_partitions('telemetry.sample', ARRAY[now()::date])")
    database.rows(
        "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES (%s, %s, %s, 'number') ON CONFLICT DO NOTHING",
        tenant, device, metric,
    )  # fmt: skip
    database.rows(
        "INSERT INTO telemetry.sample SELECT id, clock_timestamp(), %s FROM telemetry.series "
        "WHERE (tenant, device, metric) = (%s, %s, %s)",
        value, tenant, device, metric,
    )  # fmt: skip


async def test_a_device_is_watched(api: Api, server: str, database: Database) -> None:
    for device in ("van-1", "van-2"):
        await api.admin.post("devices", json={"id": device})
    sample(database, "van-1", "speed_kmh", 1)
    async with watching(server, api.viewer, device="van-1") as reader:
        first = await reader.told("latest", values={"speed_kmh": 1})
        assert first["ts"].endswith("Z")
        sample(database, "van-1", "speed_kmh", 2)
        sample(database, "van-2", "speed_kmh", 99)
        await reader.told("latest", values={"speed_kmh": 2})
        database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-1', 'acme', 'online')")
        await reader.told("presence", device="van-1", state="online")
        changed = await api.admin.patch("devices/van-1/shadow", json={"overrides": {"interval_s": 5}})
        assert changed.status_code == 200, changed.text
        await reader.told("shadow", device="van-1", desired_version=changed.json()["desired_version"])
        sent = await api.admin.post("devices/van-1/commands", json={"name": "honk", "params": {}})
        assert sent.status_code < 300, sent.text
        await reader.told("command", id=sent.json()["id"], name="honk", state="queued")
        await api.admin.post("devices/van-2/commands", json={"name": "honk", "params": {}})
        database.rows("UPDATE registry.command SET state = 'sent' WHERE device = 'van-1'")
        await reader.told("command", id=sent.json()["id"], state="sent")
        assert "van-2" not in json.dumps(reader.events)
        assert all(data["values"] != {"speed_kmh": 99} for name, data in reader.events if name == "latest")
    streams = api.app.state.live
    await eventually(lambda: not streams._streams)
    assert not streams._tasks, "nothing is read when nobody watches"
    assert database.value("SELECT object FROM registry.audit WHERE action = 'position.read'") == "device:van-1"


async def test_the_fleet_is_watched_by_its_tenant_only(api: Api, server: str, database: Database) -> None:
    await api.admin.post("devices", json={"id": "van-1"})
    await api.other.post("devices", json={"id": "theirs"})
    database.rows("INSERT INTO telemetry.seen VALUES ('van-1', 'acme', now()), ('theirs', 'other', now())")
    for metric, value in (("lat", 50), ("lon", 8), ("heading_deg", 90)):
        sample(database, "van-1", metric, value)
        sample(database, "theirs", metric, value, "other")
    async with watching(server, api.token) as ours, watching(server, api.other) as theirs:
        await ours.fleet("van-1", lat=50, lon=8)
        await theirs.fleet("theirs", lat=50, lon=8)
        database.rows("INSERT INTO registry.presence SELECT id, tenant, 'online' FROM registry.device")
        database.rows("UPDATE telemetry.seen SET seen_at = now()")
        sample(database, "van-1", "lon", 9)
        sample(database, "van-1", "lat", 51)
        await ours.fleet("van-1", lat=51, lon=9, presence="online")
        await theirs.fleet("theirs", presence="online")
        assert "theirs" not in json.dumps(ours.events)
        assert "van-1" not in json.dumps(theirs.events)


async def test_a_stream_ends_with_its_session(
    api: Api, server: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CHECK_S", 0.2)
    monkeypatch.setattr(live, "KEEPALIVE_S", 0.2)
    async with watching(server, api.viewer) as session, watching(server, api.token) as token:
        await eventually(lambda: session.comments > 2 and token.comments > 2)
        assert not session.ended
        await api.viewer.delete("session")
        await eventually(lambda: session.ended)
        assert not token.ended
        database.rows("UPDATE registry.token SET expires_at = now()")
        await eventually(lambda: token.ended)


async def test_streams_are_limited_and_refused(api: Api, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_STREAMS", 1)
    assert (await api.nobody.get("live")).status_code == 401
    assert (await api.viewer.get("live", params={"device": "nobodys"})).status_code == 404
    narrow = await api.with_token("acme", "ada", "admin", "devices:read")
    assert (await narrow.get("live")).status_code == 403
    async with watching(server, api.viewer):
        refused = await api.viewer.get("live")
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
        async with watching(server, api.operator):
            pass


async def test_a_stream_goes_on_after_the_database_was_away(api: Api, server: str, database: Database) -> None:
    await api.admin.post("devices", json={"id": "van-1"})
    sample(database, "van-1", "speed_kmh", 1)
    async with watching(server, api.viewer, device="van-1") as reader:
        await reader.told("latest", values={"speed_kmh": 1})
        database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        sample(database, "van-1", "speed_kmh", 2)
        database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-1', 'acme', 'online')")
        await reader.told("latest", values={"speed_kmh": 2})
        await reader.told("presence", state="online")
