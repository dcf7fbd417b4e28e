"""The cache with a real Valkey, and without: shared by replicas, never stale, never needed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import valkey as client

from outrider.servers import Valkey
from outrider.testing.fixtures import Database
from outrider.testing.waiting import eventually
from outrider_gateway.cache import FAILURES

from .conftest import Asker, asking, moment

HOUR, MINUTE = 3_600_000, 60_000
NOW = 1_760_000_000_000 // HOUR * HOUR


@asynccontextmanager
async def hearing(database: Database, **settings: Any) -> AsyncIterator[Asker]:
    """The API with a cache that hears of changes."""
    async with asking(database, **settings) as asker:
        listening = asyncio.create_task(asker.gateway.queries.listen())
        await eventually(lambda: not asker.gateway.queries.changes.deaf)
        yield asker
        listening.cancel()
        await asyncio.wait([listening])


async def value_of(asker: Asker, device: str, **headers: str) -> tuple[float, bool]:
    """What is answered, and whether it was kept."""
    answer = await asker.acme.get(
        f"devices/{device}/telemetry",
        params={"metric": "speed_kmh", "from": NOW, "to": NOW + 2 * HOUR, "step": "all", "aggregate": "max"},
        headers=headers,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["speed_kmh"][0], "age" in answer.headers


async def latest_of(asker: Asker, device: str) -> tuple[Any, bool]:
    answer: httpx.Response = await asker.acme.get(f"devices/{device}/latest")
    return answer.json()["values"][0]["value"], "age" in answer.headers


async def test_replicas_share_answers_and_hear_what_ends_them(shared: Database, valkey: Valkey) -> None:
    async with (
        hearing(shared, gateway_cache_url=valkey.url) as one,
        hearing(shared, gateway_cache_url=valkey.url) as two,
    ):
        device = one.device(f"van-{secrets.token_hex(3)}")
        one.store(device, "speed_kmh", [(NOW, 1.0)])
        await eventually(lambda: one.gateway.queries.changes.newest_ms("acme", device, None) > 0)
        # The registration of the device is heard too; from then on its answers are kept.
        await _until(lambda: _is(value_of(one, device), (1.0, True)))
        assert await _until(lambda: _is(value_of(two, device), (1.0, True)))
        assert await value_of(two, device, **{"cache-control": "no-cache"}) == (1.0, False)
        one.store(device, "speed_kmh", [(NOW + 5, 3.0)])  # late
        shared.rows(
            "INSERT INTO lifecycle.touched_hour (bucket, series) VALUES (%s, '{1}')", moment(NOW)
        )  # as it is rolled up
        for asker in (one, two):
            assert await _until(lambda asker=asker: _is(value_of(asker, device), (3.0, True)))
        shared.rows("UPDATE registry.device SET name = 'new' WHERE id = %s", device)
        assert await _until(lambda: _is(value_of(two, device), (3.0, False)))


async def test_latest_values_are_new_with_every_message(shared: Database, valkey: Valkey) -> None:
    async with hearing(shared, gateway_cache_url=valkey.url) as asker:
        device = asker.device(f"van-{secrets.token_hex(3)}")
        asker.store(device, "speed_kmh", [(NOW, 1.0)])
        message = (
            "INSERT INTO telemetry.sequence AS s (tenant, device, stream, boot, stored, first_at, last_at, mark_at) "
            "VALUES ('acme', %s, 'telemetry', 1, '{[1,2)}', now(), now(), now()) "
            "ON CONFLICT (tenant, device, stream, boot) DO UPDATE SET stored = s.stored + '{[2,3)}'"
        )
        shared.rows(message, device)
        assert await _until(lambda: _is(latest_of(asker, device), (1.0, True)))
        asker.store(device, "speed_kmh", [(NOW + 5, 2.0)])
        shared.rows(message, device)  # with the samples in one transaction, as the writer does
        assert await latest_of(asker, device) == (2.0, False)
        assert (await latest_of(asker, device))[0] == 2.0


async def test_nothing_foreign_in_valkey_is_given_out(shared: Database, valkey: Valkey) -> None:
    async with hearing(shared, gateway_cache_url=valkey.url) as asker:
        device = asker.device(f"van-{secrets.token_hex(3)}")
        asker.store(device, "speed_kmh", [(NOW, 1.0)])
        assert await _until(lambda: _is(value_of(asker, device), (1.0, True)))
        with client.Valkey.from_url(valkey.url) as own:
            for name in own.keys("outrider:gateway:*"):
                assert 0 < own.pttl(name) <= 900_000
                kept = own.get(name)
                assert isinstance(kept, bytes)
                own.set(name, (0).to_bytes(8, "big") + kept[8:])  # older than any time to live, and it does not expire
        assert await value_of(asker, device) == (1.0, False)
        with client.Valkey.from_url(valkey.url) as own:
            for name in own.keys("outrider:gateway:*"):
                own.set(name, b"short")
        assert await value_of(asker, device) == (1.0, False)


async def test_without_valkey_everything_is_answered_and_it_is_counted(shared: Database, valkey: Valkey) -> None:
    async with hearing(shared, gateway_cache_url=valkey.url) as asker:
        device = asker.device(f"van-{secrets.token_hex(3)}")
        asker.store(device, "speed_kmh", [(NOW, 1.0)])
        assert await _until(lambda: _is(value_of(asker, device), (1.0, True)))
        before = FAILURES._value.get()
        valkey.kill()
        try:
            assert (await value_of(asker, device))[0] == 1.0
            assert FAILURES._value.get() > before
            assert await value_of(asker, device) == (1.0, True)  # from this process' own memory
        finally:
            valkey.start()


@pytest.mark.parametrize("path", ["fleet/telemetry", "latest"])
async def test_in_this_process_without_any_valkey(shared: Database, path: str) -> None:
    async with hearing(shared) as asker:
        tag = f"tag-{secrets.token_hex(3)}"
        device = asker.device(f"van-{tag}", tags=[tag])
        asker.store(device, "speed_kmh", [(NOW, 1.0)])
        params = {"tag": tag, "metric": "speed_kmh"} | ({"from": NOW, "to": NOW + HOUR} if path != "latest" else {})

        async def kept() -> bool:
            answer = await asker.acme.get(path, params=params)
            assert answer.status_code == 200, answer.text
            assert device in answer.text if path == "latest" else answer.json()["devices"] == 1
            return "age" in answer.headers

        assert await _until(kept)


async def test_positions_that_were_kept_are_in_the_audit_of_whoever_reads_them(shared: Database) -> None:
    async with hearing(shared) as asker:
        tag = f"tag-{secrets.token_hex(3)}"
        asker.store(asker.device(f"van-{tag}", tags=[tag]), "lat", [(NOW, 50.1)])
        params = {"tag": tag, "metric": "lat", "by": "device", "aggregate": "last", "from": NOW, "to": NOW + HOUR}

        async def kept(client: httpx.AsyncClient) -> bool:
            answer = await client.get("fleet/telemetry", params=params)
            assert answer.json()["rows"][0]["last"] == 50.1
            return "age" in answer.headers

        assert await _until(lambda: kept(asker.acme))
        noted = "SELECT count(*) FROM registry.audit WHERE action = 'position.read' AND object = 'tenant:acme'"
        before = shared.value(noted)
        assert await kept(await asker.client("acme"))
        assert shared.value(noted) == before + 1


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


async def _until(condition: Any) -> bool:
    """Ask until it is so; changes are heard within a moment."""
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.02)
    return True
