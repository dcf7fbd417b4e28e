"""The whole spine in one process: a device's message becomes a committed row, and its ack comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outrider.contract import topics
from outrider.device.outbox import Outbox
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import connected, running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_writer_logs.app import service as writer_logs
from outrider_writer_timeseries.app import service as writer_timeseries

SERVICES = (writer_timeseries, writer_logs, ingest)


@contextlib.asynccontextmanager
async def platform(mosquitto: Mosquitto, database: Database) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for service in SERVICES:
            await stack.enter_async_context(
                running(service, mosquitto.url, database.service_urls[service.name], replica="pipeline")
            )
        yield


class Device:
    """A device that keeps the delivery contract with an Outbox, on a link that drops whenever it likes."""

    def __init__(self, url: str, name: str, boot: int = 7) -> None:
        self.name = name
        self.outbox = Outbox(boot=boot, now_s=time.monotonic())
        self.connections = 0
        self._url = url
        self._random = random.Random(name)
        self._connection: Connection | None = None

    async def run(self, drop_every_s: float | None = None) -> None:
        """Send what is due until cancelled; the link is cut (no DISCONNECT) at random about every `drop_every_s`."""
        while True:
            try:
                self._connection = connection = await Connection.open(
                    self._url, self.name, self._on_ack, clean_start=True, session_expiry_s=0, receive_maximum=100
                )
                await connection.subscribe([topics.ACK.name(tenant="demo", device=self.name)])
                self.connections += 1
                self.outbox.reconnected()
                if drop_every_s is not None:
                    delay_s = drop_every_s * self._random.uniform(0.2, 1.8)
                    asyncio.get_running_loop().call_later(delay_s, self.cut, connection)
                await self._send_on(connection)
            except Transient:
                await asyncio.sleep(0.02)

    async def _send_on(self, connection: Connection) -> None:
        async with asyncio.TaskGroup() as sends:
            while not connection.closed.is_set():
                for message in self.outbox.due(time.monotonic()):
                    sends.create_task(self._publish(connection, message.stream, message.payload))
                await asyncio.sleep(0.005)

    async def _publish(self, connection: Connection, stream: str, payload: bytes) -> None:
        with contextlib.suppress(Transient):  # sent again after the reconnect
            await connection.publish(f"fleet/v1/demo/{self.name}/{stream}", payload)

    def cut(self, connection: Connection) -> None:
        """The network is gone, as after a pulled cable."""
        connection.abort()

    def _on_ack(self, delivery: Delivery) -> None:
        delivery.connection.ack([delivery.packet_id])
        self.outbox.on_ack(delivery.payload, time.monotonic())

    @contextlib.asynccontextmanager
    async def running(self, drop_every_s: float | None = None) -> AsyncIterator[None]:
        """The device, online for the length of the block."""
        task = asyncio.create_task(self.run(drop_every_s))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if self._connection is not None:
                await self._connection.close()
            if not task.cancelled():
                task.result()

    async def settled(self, timeout_s: float = 30.0) -> None:
        """Wait until everything is acknowledged."""
        await eventually(lambda: self.outbox.settled, timeout_s)
        assert self.outbox.unacked == 0
        assert self.outbox.counts.acks_malformed == 0


def values(database: Database, device: str, metric: str = "n") -> Counter[int]:
    return Counter(
        int(value)
        for (value,) in database.rows(
            "SELECT value FROM telemetry.sample JOIN telemetry.series ON id = series_id WHERE device = %s AND metric = %s",
            device,
            metric,
        )
    )


def sequence(database: Database, device: str, schema: str = "telemetry") -> list[tuple[Any, ...]]:
    return database.rows(
        f"SELECT stream, boot, contiguous_seq, missing, conflicts, rejected FROM {schema}.sequence_state"
        " WHERE device = %s ORDER BY stream, boot",
        device,
    )


async def test_a_message_of_every_stream_becomes_a_row_and_is_acknowledged(
    mosquitto: Mosquitto, database: Database
) -> None:
    now = time.time_ns() // 1_000_000
    device = Device(mosquitto.url, "van-1")
    async with platform(mosquitto, database), device.running():
        device.outbox.add("telemetry", {"ts": now, "n": 1, "gear": "D", "on": True})
        device.outbox.add("log", {"ts": now, "level": "warn", "msg": "modem lost", "rssi": -97})
        device.outbox.add("event", {"ts": now, "type": "dtc", "code": "P0420"})
        await device.settled()
    latest = database.rows("SELECT metric, value FROM telemetry.latest ORDER BY metric")
    assert latest == [("gear", "D"), ("n", 1), ("on", True)]
    assert database.rows("SELECT level, message, fields FROM logs.line") == [("warning", "modem lost", {"rssi": -97})]
    assert database.rows("SELECT type, fields FROM telemetry.event") == [("dtc", {"code": "P0420"})]
    assert device.outbox.counts.acked == 3
    assert device.outbox.counts.rejected == 0
    assert set(device.outbox.ledgers.values()) == {database.value("SELECT id::text FROM telemetry.ledger")}


async def test_what_is_refused_is_acknowledged_with_its_reason_and_leaves_no_gap(
    mosquitto: Mosquitto, database: Database
) -> None:
    now = time.time_ns() // 1_000_000
    device = Device(mosquitto.url, "van-1")
    async with platform(mosquitto, database), device.running():
        device.outbox.add("telemetry", {"ts": now, "n": 1})
        device.outbox.add("telemetry", {"ts": now + 10**9, "n": 2})
        device.outbox.add("telemetry", {"ts": now + 1, "n": 3, "bad!": 1})
        device.outbox.add("telemetry", {"ts": now, "n": 99})  # another value for a stored moment
        device.outbox.add("telemetry", {"ts": now + 2, "n": 5})
        await device.settled()
    assert device.outbox.counts.reasons == {"clock_ahead": 1, "bad_name": 1, "conflict": 1}
    assert sequence(database, "van-1") == [("telemetry", 7, 5, 0, 1, 3)]
    stored = values(database, "van-1")
    assert stored.keys() >= {3, 5}
    assert sum(stored.values()) == 3
    assert database.value("SELECT count(*) FROM rejected.message") == 3


async def test_two_thousand_messages_through_drops_and_a_broker_restart_are_stored_once(
    mosquitto: Mosquitto, database: Database
) -> None:
    """Faults 5 and 21, checked by value: a dropped or doubled message cannot hide behind a key."""
    count = 2000
    device = Device(mosquitto.url, "van-1")
    async with platform(mosquitto, database), device.running(drop_every_s=0.4):
        start = time.time_ns() // 1_000_000 - 10_000_000
        for number in range(1, count + 1):
            device.outbox.add("telemetry", {"ts": start + number, "n": number})
            if number % 10 == 0:
                device.outbox.add("log", {"ts": start + number, "msg": str(number)})
                await asyncio.sleep(0.005)
        await eventually(lambda: device.outbox.counts.acked > count // 3, 60)
        await asyncio.to_thread(mosquitto.restart)
        await device.settled(60)
    assert device.connections > 3
    assert device.outbox.counts.resent > 0
    assert values(database, "van-1") == Counter(range(1, count + 1))
    logs = Counter(int(text) for (text,) in database.rows("SELECT message FROM logs.line"))
    assert logs == Counter(range(10, count + 1, 10))
    assert sequence(database, "van-1") == [("telemetry", 7, count, 0, 0, 0)]
    assert sequence(database, "van-1", "logs") == [("log", 7, count // 10, 0, 0, 0)]
    assert database.value("SELECT count(*) FROM rejected.message") == 0


async def test_a_device_without_a_clock_keeps_one_anchor_per_boot(mosquitto: Mosquitto, database: Database) -> None:
    device = Device(mosquitto.url, "van-1", boot=7)
    async with platform(mosquitto, database):
        async with device.running(drop_every_s=0.3):
            for number in range(1, 201):
                up_ms = device.outbox.uptime_ms(time.monotonic())
                device.outbox.add("telemetry", {"up_ms": up_ms, "n": number, "up": up_ms}, clockless=True)
                await asyncio.sleep(0.003)
            await eventually(lambda: device.outbox.counts.acked > 100)
        # Power is cut with messages un-acknowledged; they go out after the reboot, without now_ms.
        late = device.outbox.uptime_ms(time.monotonic())
        device.outbox.add("telemetry", {"up_ms": late, "n": 201, "up": late}, clockless=True)
        await asyncio.sleep(0.3)  # no device boots faster; in the same millisecond 201 and 202 would rightly conflict
        device.outbox.rebooted(8, time.monotonic())
        async with device.running(drop_every_s=0.3):
            for number in range(202, 301):
                up_ms = device.outbox.uptime_ms(time.monotonic())
                device.outbox.add("telemetry", {"up_ms": up_ms, "n": number, "up": up_ms}, clockless=True)
                await asyncio.sleep(0.003)
            await device.settled()
    assert values(database, "van-1") == Counter(range(1, 301))
    anchors = dict(database.rows("SELECT boot, anchor_ms FROM telemetry.boot"))
    assert anchors.keys() == {7, 8}
    placed = database.rows(
        "SELECT DISTINCT (extract(epoch FROM ts) * 1000)::bigint - value::bigint FROM telemetry.sample"
        " JOIN telemetry.series ON id = series_id WHERE metric = 'up'"
    )
    assert {anchor for (anchor,) in placed} == set(anchors.values())
    assert sequence(database, "van-1") == [("telemetry", 7, 201, 0, 0, 0), ("telemetry", 8, 99, 0, 0, 0)]


async def test_a_cloned_device_is_flagged_and_the_first_ones_rows_stay(
    mosquitto: Mosquitto, database: Database
) -> None:
    """Fault 19: one card in two devices, the same boot and numbers with other content."""
    now = time.time_ns() // 1_000_000
    first, clone = Device(mosquitto.url, "van-1"), Device(mosquitto.url, "van-1")
    async with platform(mosquitto, database):
        async with first.running():
            for number in range(1, 21):
                first.outbox.add("telemetry", {"ts": now + number, "n": number})
            await first.settled()
        async with clone.running():
            for number in range(1, 21):
                clone.outbox.add("telemetry", {"ts": now + 500 + number, "n": 1000 + number})
            await clone.settled()
    assert clone.outbox.counts.reasons == {"conflict": 20}
    assert values(database, "van-1") == Counter(range(1, 21))
    assert sequence(database, "van-1")[0][4] == 20
    assert database.rows("SELECT DISTINCT reason FROM rejected.message") == [("conflict",)]


@pytest.mark.parametrize("stream", ["telemetry", "log", "event"])
async def test_what_a_device_lost_is_counted_and_answered(
    mosquitto: Mosquitto, database: Database, stream: str
) -> None:
    schema = "logs" if stream == "log" else "telemetry"
    async with (
        platform(mosquitto, database),
        connected(mosquitto.url, "van-1", [topics.ACK.name(tenant="demo", device="van-1")]) as client,
    ):
        gone = {"boot": 7, "gone": [[12, 90], [95, 95]], "reason": "ring full"}
        await client.publish(f"fleet/v1/demo/van-1/{stream}", gone)
        await eventually(lambda: client.received)
        (ack,) = client.documents("fleet/v1/demo/van-1/ack")
        assert (ack["stream"], ack["boot"], ack["gone"]) == (stream, 7, [[12, 90], [95, 95]])
    assert database.value(f"SELECT gone FROM {schema}.sequence_state") == 80
