"""Ingest under the behaviour suite of every consumer: stored means taken by a session on the bus."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from outrider.contract.batch import decode_samples
from outrider.runtime.mqtt import Connection, Delivery
from outrider.testing.consumer_contract import ConsumerContract
from outrider.testing.fixtures import Database
from outrider.testing.services import Client
from outrider_ingest.app import service


class TestIngest(ConsumerContract):
    """Inputs are clockless numbered messages, each of its own boot, so that every one needs the database."""

    service = service

    @contextlib.asynccontextmanager
    async def prepare(self, mqtt_url: str, database: Database) -> AsyncIterator[None]:
        for group in ("writer-timeseries", "writer-logs"):
            database.rows("SELECT runtime.declare_slots(%s, 4)", group)
        self.taken: list[Delivery] = []
        self.closed = False

        async def attend() -> Connection:
            def keep(delivery: Delivery) -> None:
                self.taken.append(delivery)
                delivery.connection.ack([delivery.packet_id])

            connection = await Connection.open(
                mqtt_url, "bus-reader", keep, clean_start=False, session_expiry_s=3600, receive_maximum=1000
            )
            await connection.subscribe(["outrider/v1/samples/+"])
            return connection

        self.attend = attend
        self.reader = await attend()
        yield
        await self.reader.close()

    async def publish(self, client: Client, number: int) -> None:
        if self.reader.closed.is_set():
            self.reader = await self.attend()
        await client.publish(
            f"fleet/v1/demo/van-{number % 7}/telemetry",
            {"boot": number + 1, "seq": 1, "now_ms": 5000, "up_ms": 1000, "n": number},
        )

    async def publish_poison(self, client: Client) -> None:
        await client.publish("fleet/v1/demo/van-1/telemetry", '{"n": nonsense}')

    def stored(self, database: Database) -> Counter[int]:
        # A batch may come twice; the writer's accounting makes one of it, by (boot, seq).
        numbers = {
            (header.boot, value)
            for delivery in self.taken
            for batch in [decode_samples(delivery.payload)]
            for header, value in zip(batch.headers, batch.value, strict=True)
        }
        return Counter(int(value) for _, value in numbers)  # type: ignore[arg-type]
