"""`outrider doctor --probe`: sends a message as a device and says at which hop it stopped.

It listens on nothing but its own ack: a viewer on the bus would make the broker say that somebody stores the batch.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from contextlib import suppress
from typing import Any

import orjson
import psycopg

from outrider.contract import topics
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider_cli.doctor_checks import Check, Level

TENANT = "doctor"
DEVICE = "probe"
ROW = """
SELECT 1 FROM telemetry.sample JOIN telemetry.series s ON s.id = series_id
WHERE (s.tenant, s.device, s.metric) = (%s, %s, 'n') AND ts = to_timestamp(%s / 1000.0) AND value = %s
"""
# Which batches of the probe's shard the writer has yet to commit, and who holds the slots on the way.
BETWEEN = """
SELECT coalesce((SELECT sum(batches) FROM runtime.depth
                 WHERE topic = %s AND group_name = 'writer-timeseries'), 0)::bigint AS waiting,
       (SELECT count(*) FROM runtime.slot WHERE group_name = 'ingest'
        AND (holder IS NULL OR heartbeat_at < now() - interval '10 s')) AS ingest_unattended,
       (SELECT count(*) FROM runtime.slot WHERE group_name = 'writer-timeseries' AND slot = %s
        AND (holder IS NULL OR heartbeat_at < now() - interval '10 s')) AS writer_unattended
"""
# Ingest takes messages of registered devices only. This one has no secret, so nobody can connect as it.
REGISTER = """
WITH known AS (INSERT INTO registry.tenant (name, title) VALUES (%(tenant)s, 'outrider doctor') ON CONFLICT DO NOTHING)
INSERT INTO registry.device (id, tenant, name, type)
VALUES (%(device)s, %(tenant)s, 'Probe of outrider doctor', 'probe') ON CONFLICT DO NOTHING RETURNING id
"""
AUDIT = "SELECT registry.audit_append(%s, 'outrider doctor', 'device.create', %s, '{}', '')"
SHARDS = "SELECT count(*) FROM runtime.slot WHERE group_name = 'writer-timeseries' AND NOT retiring"
ROW_TIMEOUT_S = 10.0
ACK_TIMEOUT_S = 3.0


async def probe(url: str, database_url: str) -> list[Check]:
    """Publish one numbered message and follow it: broker, ingest and bus, row, ack. One check a hop, up to the failure."""
    acked = asyncio.Event()
    boot, number = secrets.randbelow(2**52) + 1, secrets.randbelow(2**31)

    def on_delivery(delivery: Delivery) -> None:
        with suppress(ValueError, TypeError):
            document = orjson.loads(delivery.payload)
            if document.get("boot") == boot and document.get("seq") == [[1, 1]]:
                acked.set()

    try:
        await asyncio.to_thread(_register, database_url)
    except psycopg.Error as error:
        return [Check("probe row", Level.FAIL, _first_line(error), "Start PostgreSQL; nothing is stored.")]
    try:
        connection = await Connection.open(
            url, f"doctor-{secrets.token_hex(4)}", on_delivery, clean_start=True, session_expiry_s=0, receive_maximum=10
        )
    except Transient as error:
        return [Check("probe broker", Level.FAIL, str(error), "Start Mosquitto, or mend --mqtt-url.")]
    try:
        await connection.subscribe([topics.ACK.name(tenant=TENANT, device=DEVICE)], qos=0)
        return await _follow(connection, database_url, boot, number, acked)
    finally:
        await connection.close(end_session=True)


async def _follow(
    connection: Connection, database_url: str, boot: int, number: int, acked: asyncio.Event
) -> list[Check]:
    started, ts = time.monotonic(), time.time_ns() // 1_000_000
    message = orjson.dumps({"boot": boot, "seq": 1, "ts": ts, "n": number})

    def passed(hop: str) -> Check:
        return Check(f"probe {hop}", Level.OK, f"after {(time.monotonic() - started) * 1000:.0f} ms")

    try:
        await connection.publish(topics.TELEMETRY.name(tenant=TENANT, device=DEVICE), message)
    except NotStored:
        advice = "Start ingest: it has not run on this broker, so nobody takes what devices send."
        return [Check("probe broker", Level.FAIL, "nobody subscribes to the devices' topics", advice)]
    except Transient as error:
        return [Check("probe broker", Level.FAIL, str(error), "See the broker's log.")]
    checks = [passed("broker")]
    stored = await asyncio.to_thread(_stored, database_url, (TENANT, DEVICE, ts, number))
    if stored is not None:
        return [*checks, stored]
    checks.append(passed("row"))
    with suppress(TimeoutError):
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await acked.wait()
    if not acked.is_set():
        advice = "The row is there, its ack is not: look at writer-timeseries' log for ack_not_published."
        return [*checks, Check("probe ack", Level.FAIL, f"none within {ACK_TIMEOUT_S:.0f} s of the row", advice)]
    return [*checks, passed("ack")]


def _stored(database_url: str, row: tuple[Any, ...]) -> Check | None:
    """None once the row is there; else the hop that it did not pass."""
    deadline = time.monotonic() + ROW_TIMEOUT_S
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection:
            while connection.execute(ROW, row).fetchone() is None:
                if time.monotonic() > deadline:
                    return _where(connection)
                time.sleep(0.01)
    except psycopg.Error as error:
        return Check("probe row", Level.FAIL, _first_line(error), "Start PostgreSQL; nothing is stored.")
    return None


def _register(database_url: str) -> None:
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        connection.execute("SELECT set_config('outrider.tenant', '*', true)")
        if connection.execute(REGISTER, {"tenant": TENANT, "device": DEVICE}).fetchone():
            connection.execute(AUDIT, (TENANT, f"device:{DEVICE}"))


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().split("\n", 1)[0]


def _where(connection: psycopg.Connection) -> Check:
    shards = connection.execute(SHARDS).fetchone()
    shard = zlib.crc32(DEVICE.encode()) % max(1, shards[0] if shards else 1)
    found = connection.execute(BETWEEN, (topics.BUS_SAMPLES.name(shard=shard), shard)).fetchone()
    assert found is not None
    waiting, ingest_unattended, writer_unattended = found
    late = f"no row within {ROW_TIMEOUT_S:.0f} s"
    if ingest_unattended:
        detail = f"{late}: {ingest_unattended} of ingest's slots are unattended"
        return Check("probe ingest", Level.FAIL, detail, "Start ingest (`outrider service start ingest`).")
    if writer_unattended:
        detail = f"{late}: slot {shard} of writer-timeseries is unattended, {waiting:,} batches wait"
        advice = "Start writer-timeseries (`outrider service start writer-timeseries`)."
        return Check("probe writer", Level.FAIL, detail, advice)
    if waiting:
        advice = "Its /readyz and its log say whether it is slow or cannot store."
        return Check("probe writer", Level.FAIL, f"{late}: {waiting:,} batches wait for writer-timeseries", advice)
    return Check("probe ingest", Level.FAIL, f"{late}, and none waits on the bus", "See ingest's /readyz and log.")
