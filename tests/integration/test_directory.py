"""Whose devices ingest takes: registered, enabled, under their own tenant; everything else is kept, counted and told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from outrider.servers import Mosquitto, Postgres
from outrider.testing.bus import now_ms
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, Running, connected, running
from outrider.testing.waiting import eventually
from outrider_ingest import directory as directory_module
from outrider_ingest import store
from outrider_ingest.app import service
from outrider_writer_timeseries.app import service as writer

pytestmark = pytest.mark.servers

REJECTED = "SELECT tenant, device, reason, boot, seq, payload FROM rejected.message ORDER BY id"
SAMPLES = "SELECT tenant, device, metric, value FROM telemetry.latest ORDER BY 1, 2, 3"
STATE = "SELECT tenant, contiguous_seq, missing, rejected FROM telemetry.sequence_state WHERE device = %s"


@pytest.fixture
def registered(database: Database) -> Database:
    register(database)
    return database


def register(database: Database) -> None:
    database.rows("INSERT INTO registry.tenant (name) VALUES ('demo'), ('rival')")
    database.rows(
        "INSERT INTO registry.device (id, tenant, status) VALUES ('van-1', 'demo', 'active'), ('van-2', 'demo', 'disabled'),"
        " ('van-3', 'demo', 'pending'), ('rival-1', 'rival', 'active')"
    )


@contextlib.asynccontextmanager
async def platform(mosquitto: Mosquitto, database: Database, **settings: Any) -> AsyncIterator[tuple[Client, Running]]:
    """Ingest and the writer, each with its own account, and a device client that hears every ack."""
    urls, options = database.service_urls, {"ingest_directory": "registry", "ingest_slots": 1, **settings}
    async with (
        running(writer, mosquitto.url_of("writer-timeseries"), urls["writer-timeseries"]),
        running(service, mosquitto.url_of("ingest"), urls["ingest"], **options) as ingest,
        connected(mosquitto.url, "device", ["fleet/v1/+/+/ack"]) as client,
    ):
        yield client, ingest


def rows(database: Database, query: str = REJECTED, *arguments: Any) -> list[tuple[Any, ...]]:
    return database.rows(query, *arguments)


def message(seq: int, **metrics: float) -> str:
    return json.dumps({"boot": 1, "seq": seq, "ts": now_ms(), **metrics})


async def test_a_registered_device_is_stored(mosquitto: Mosquitto, registered: Database) -> None:
    async with platform(mosquitto, registered) as (client, _):
        await client.publish("fleet/v1/demo/van-1/telemetry", message(1, speed=7))
        await eventually(lambda: client.documents("fleet/v1/demo/van-1/ack"))
    assert rows(registered, SAMPLES) == [("demo", "van-1", "speed", 7.0)]
    assert rows(registered) == []


@pytest.mark.parametrize(
    ("tenant", "device", "reason"),
    [
        ("demo", "ghost", "unknown_device"),
        ("demo", "van-2", "disabled_device"),
        ("demo", "van-3", "disabled_device"),
    ],
)
async def test_an_unknown_or_disabled_device_is_kept_counted_and_told(
    tenant: str, device: str, reason: str, mosquitto: Mosquitto, registered: Database
) -> None:
    numbered, flat = message(1, speed=7), '{"speed":8}'
    async with platform(mosquitto, registered) as (client, _):
        await client.publish(f"fleet/v1/{tenant}/{device}/telemetry", numbered)
        await client.publish(f"fleet/v1/{tenant}/{device}/telemetry", flat)
        await client.publish(f"fleet/v1/{tenant}/{device}/event", '{"boot":3,"seq":1,"type":"dtc"}')
        await client.publish(f"fleet/v1/{tenant}/{device}/telemetry/speed", "9")
        await eventually(lambda: len(client.documents(f"fleet/v1/{tenant}/{device}/ack")) >= 2)
        await eventually(lambda: len(rows(registered)) == 4)
        acks = client.documents(f"fleet/v1/{tenant}/{device}/ack")
    kept = {(boot, seq, bytes(payload)) for _, _, _, boot, seq, payload in rows(registered)}
    assert kept == {
        (1, 1, numbered.encode()),
        (None, None, flat.encode()),
        (3, 1, b'{"boot":3,"seq":1,"type":"dtc"}'),
        (None, None, b"9"),
    }
    assert {row[:3] for row in rows(registered)} == {(tenant, device, reason)}
    told = {(ack["boot"], seq, why) for ack in acks for seq, why in ack.get("rejected", [])}
    assert told == {(1, 1, reason), (3, 1, reason)}
    assert rows(registered, SAMPLES) == []
    assert rows(registered, "SELECT * FROM telemetry.event") == []
    # no gap: once it is enabled, it goes on with 2
    assert rows(registered, f"{STATE} AND boot = 1", device) == [(tenant, 1, 0, 1)]


async def test_another_tenants_topics_get_nothing(mosquitto: Mosquitto, registered: Database) -> None:
    """What a device of `rival` sends to `demo` is rival's: kept and counted there, and its sender is told where it listens."""
    payload = message(1, speed=7)
    async with platform(mosquitto, registered) as (client, _):
        await client.publish("fleet/v1/demo/rival-1/telemetry", payload)
        await client.publish("fleet/v1/demo/van-1/telemetry", message(1, speed=1))
        await eventually(lambda: client.documents("fleet/v1/demo/rival-1/ack"))
        await eventually(lambda: client.documents("fleet/v1/rival/rival-1/ack"))
        (told,) = client.documents("fleet/v1/demo/rival-1/ack")
        (counted,) = client.documents("fleet/v1/rival/rival-1/ack")
    assert told == {
        "stream": "telemetry",
        "digest": [[hashlib.sha256(payload.encode()).hexdigest()[:16], "wrong_tenant"]],
    }
    assert counted["rejected"] == [[1, "wrong_tenant"]]
    assert [row[:5] for row in rows(registered)] == [("rival", "rival-1", "wrong_tenant", 1, 1)]
    assert rows(registered, STATE, "rival-1") == [("rival", 1, 0, 1)]
    assert rows(registered, SAMPLES) == [("demo", "van-1", "speed", 1.0)]
    of_demo = "SELECT count(*) FROM rejected.message WHERE tenant = 'demo'"
    assert registered.value(of_demo) == 0


async def test_an_unreadable_message_of_a_stranger_is_refused_for_who_sent_it(
    mosquitto: Mosquitto, registered: Database
) -> None:
    async with platform(mosquitto, registered) as (client, _):
        await client.publish("fleet/v1/demo/ghost/telemetry", "nonsense {")
        await client.publish("fleet/v1/demo/Bad_Name/telemetry", '{"n":1}')
        await eventually(lambda: len(rows(registered)) == 2)
        await eventually(lambda: len(client.documents("fleet/v1/demo/ghost/ack")) == 1)
        (ack,) = client.documents("fleet/v1/demo/ghost/ack")
    assert [row[2] for row in rows(registered)] == ["unknown_device", "bad_name"]
    assert ack["digest"] == [[hashlib.sha256(b"nonsense {").hexdigest()[:16], "unknown_device"]]


async def test_changes_of_the_registry_are_heard(mosquitto: Mosquitto, registered: Database) -> None:
    async with platform(mosquitto, registered) as (client, _):
        number = 0

        async def outcome(tenant: str = "demo", device: str = "van-1") -> str:
            """What becomes of a message sent now: `stored`, or why not."""
            nonlocal number
            number += 1
            await client.publish(f"fleet/v1/{tenant}/{device}/telemetry", message(number, n=number))

            def found() -> str:
                why = rows(
                    registered, "SELECT reason FROM rejected.message WHERE device = %s AND seq = %s", device, number
                )
                stored = rows(
                    registered, f"{SAMPLES.replace('ORDER', 'WHERE value = to_jsonb(%s::int) ORDER')}", number
                )
                return str(why[0][0]) if why else "stored" if stored else ""

            return await eventually(found)

        async def becomes(expected: str, tenant: str = "demo", device: str = "van-1") -> None:
            async with asyncio.timeout(directory_module.UNKNOWN_FOR_S - 1):  # told, not asked again by and by
                while await outcome(tenant, device) != expected:
                    pass

        assert await outcome() == "stored"
        registered.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-1'")
        await becomes("disabled_device")
        registered.rows("UPDATE registry.device SET status = 'active' WHERE id = 'van-1'")
        await becomes("stored")
        registered.rows("UPDATE registry.tenant SET disabled_at = now() WHERE name = 'demo'")
        await becomes("disabled_device")
        registered.rows("UPDATE registry.tenant SET disabled_at = NULL WHERE name = 'demo'")
        await becomes("stored")
        registered.rows("UPDATE registry.device SET tenant = 'rival' WHERE id = 'van-1'")
        await becomes("wrong_tenant")
        assert await outcome("rival") == "stored"
        registered.rows("DELETE FROM registry.device WHERE id = 'van-1'")
        await becomes("unknown_device", "rival")
        assert await outcome("demo", "new-1") == "unknown_device"
        registered.rows("INSERT INTO registry.device (id, tenant) VALUES ('new-1', 'demo')")
        await becomes("stored", "demo", "new-1")


async def test_replays_pass_the_same_check(mosquitto: Mosquitto, registered: Database) -> None:
    async with platform(mosquitto, registered) as (client, _):
        await client.publish(
            "fleet/v1/demo/ghost/telemetry", '{"boot":1,"seq":1,"ts":"2026-11-01T00:00:00Z","speed":7}'
        )
        await eventually(lambda: len(rows(registered)) == 1)
        payload = bytes(rows(registered)[0][5])
        replay = {"user_properties": [("outrider-replay", "1")]}
        await client.connection.publish("fleet/v1/demo/ghost/telemetry", payload, **replay)  # type: ignore[arg-type]
        await eventually(lambda: len(rows(registered)) == 2)
        registered.rows("INSERT INTO registry.device (id, tenant) VALUES ('ghost', 'demo')")

        async def stored() -> None:
            while not rows(registered, SAMPLES):
                await client.connection.publish("fleet/v1/demo/ghost/telemetry", payload, **replay)  # type: ignore[arg-type]
                await asyncio.sleep(0.1)

        await asyncio.wait_for(stored(), 20)
    assert rows(registered, SAMPLES) == [("demo", "ghost", "speed", 7.0)]


async def test_any_device_without_a_registry(mosquitto: Mosquitto, registered: Database) -> None:
    async with platform(mosquitto, registered, ingest_directory="none") as (client, _):
        await client.publish("fleet/v1/demo/ghost/telemetry", message(1, speed=7))
        await eventually(lambda: client.documents("fleet/v1/demo/ghost/ack"))
    assert rows(registered, SAMPLES) == [("demo", "ghost", "speed", 7.0)]


async def test_when_a_device_was_heard_is_noted(
    mosquitto: Mosquitto, registered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.Seen, "EVERY_MS", 500)
    seen = "SELECT device, tenant, extract(epoch FROM now() - seen_at) BETWEEN 0 AND 60 FROM telemetry.seen ORDER BY device"
    async with platform(mosquitto, registered) as (client, _):
        for device in ("van-1", "van-2", "ghost", "rival-1"):
            await client.publish(f"fleet/v1/demo/{device}/event", '{"type":"dtc"}')
        await client.publish("fleet/v1/rival/rival-1/event", '{"type":"dtc"}')
        await eventually(lambda: len(rows(registered, seen)) >= 2)
        assert rows(registered, seen) == [("rival-1", "rival", True), ("van-1", "demo", True)]
        first = registered.value("SELECT seen_at FROM telemetry.seen WHERE device = 'van-1'")
        await client.publish("fleet/v1/demo/van-1/event", '{"type":"dtc"}')
        await eventually(lambda: registered.value("SELECT seen_at FROM telemetry.seen WHERE device = 'van-1'") > first)
        # a replay is no sign of life
        again = registered.value("SELECT seen_at FROM telemetry.seen WHERE device = 'rival-1'")
        properties = [("outrider-replay", "1")]
        await client.connection.publish("fleet/v1/rival/rival-1/event", b'{"type":"r"}', user_properties=properties)
        await client.publish("fleet/v1/demo/van-1/event", '{"type":"last"}')
        last = "SELECT seen_at > %s FROM telemetry.seen WHERE device = 'van-1'"
        mark = registered.value("SELECT seen_at FROM telemetry.seen WHERE device = 'van-1'")
        await eventually(lambda: registered.value(last, mark))
        assert registered.value("SELECT seen_at FROM telemetry.seen WHERE device = 'rival-1'") == again


async def test_known_devices_are_taken_while_changes_are_not_heard(
    mosquitto: Mosquitto, own_postgres: Postgres, own_database: Database
) -> None:
    """A killed listener says so, what is known holds meanwhile, and afterwards everything is asked again."""
    register(own_database)
    async with platform(mosquitto, own_database) as (client, ingest):
        await client.publish("fleet/v1/demo/van-1/telemetry", message(1, n=1))
        await eventually(lambda: rows(own_database, SAMPLES))
        await asyncio.to_thread(own_postgres.kill)
        await eventually(lambda: "registry" in (ingest.problems() or {}).get("directory", ""))
        await client.publish("fleet/v1/demo/van-1/telemetry", message(2, n=2))
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: rows(own_database, SAMPLES)[0][3] == 2.0, 60)
        await ingest.ready(60)
        # unheard meanwhile or not: a change shows
        own_database.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-1'")
        await eventually(lambda: own_database.value("SELECT count(*) FROM registry.directory WHERE NOT enabled") == 3)
        await client.publish("fleet/v1/demo/van-1/telemetry", message(3, n=3))
        await eventually(lambda: [row[2] for row in rows(own_database)] == ["disabled_device"], 60)


async def test_ingest_may_read_nothing_else_of_the_registry(registered: Database) -> None:
    with psycopg.connect(registered.service_urls["ingest"], autocommit=True) as connection:
        count = connection.execute("SELECT count(*) FROM registry.directory").fetchone()
        assert count == (4,)
        for table in ("device", "tenant", "credential", "account"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM registry.{table}")  # type: ignore[call-overload]


async def test_a_device_that_is_disabled_while_its_message_waits_loses_nothing_without_a_word(
    mosquitto: Mosquitto, registered: Database
) -> None:
    """What was refused of it is kept already when all of it is refused: that must be kept, too."""
    urls, topic = registered.service_urls, "fleet/v1/demo/van-1/telemetry"
    options = {"ingest_directory": "registry", "ingest_slots": 1}
    async with (
        connected(mosquitto.url, "device", ["fleet/v1/+/+/ack"]) as client,
        running(service, mosquitto.url_of("ingest"), urls["ingest"], **options) as ingest,
    ):
        payload = json.dumps({"boot": 1, "seq": 1, "ts": now_ms(), "speed": 7, "large": 10**40})
        await client.publish(topic, payload)  # nobody has ever stored anything, so it waits
        await eventually(lambda: [row[2] for row in rows(registered)] == ["bad_value"])
        registered.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-1'")
        await eventually(lambda: "never run" in (ingest.problems() or {}).get("ingest", ""))
        async with running(writer, mosquitto.url_of("writer-timeseries"), urls["writer-timeseries"]):
            await eventually(lambda: client.documents("fleet/v1/demo/van-1/ack"))
    assert {row[2]: bytes(row[5]) for row in rows(registered)}["disabled_device"] == payload.encode()
    assert rows(registered, SAMPLES) == []
