"""Ingest under the behaviour suite of every consumer: stored means taken by a session on the bus."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from outrider.contract.batch import decode_samples
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto
from outrider.testing.consumer_contract import ConsumerContract
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually
from outrider_ingest import messages
from outrider_ingest.app import service
from outrider_ingest.formats import Decoded


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
                if delivery.payload:  # not ingest asking whether the slot is there
                    self.taken.append(delivery)
                delivery.connection.ack([delivery.packet_id])

            connection = await Connection.open(
                mqtt_url, "bus-reader", keep, clean_start=False, session_expiry_s=3600, receive_maximum=1000
            )
            await connection.subscribe(["outrider/v1/samples/+", "outrider-attended/+/+"])
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
            (header.boot, samples.value[0])
            for delivery in self.taken
            for batch in [decode_samples(delivery.payload)]
            for header, samples in zip(batch.headers, batch.samples, strict=True)
        }
        return Counter(int(value) for _, value in numbers)  # type: ignore[arg-type]


class TestIngestWithRegistry(TestIngest):
    """The same where only registered devices are taken."""

    settings = {"ingest_directory": "registry"}  # noqa: RUF012 - overridden as a plain class attribute

    @contextlib.asynccontextmanager
    async def prepare(self, mqtt_url: str, database: Database) -> AsyncIterator[None]:
        database.rows("INSERT INTO registry.tenant (name) VALUES ('demo')")
        database.rows(
            "INSERT INTO registry.device (id, tenant) SELECT 'van-' || n, 'demo' FROM generate_series(0, 6) n"
        )
        async with super().prepare(mqtt_url, database):
            yield


async def test_a_message_that_ingest_itself_fails_on_is_kept_and_acknowledged_by_digest(
    mosquitto: Mosquitto, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours must neither lose a message nor make its device resend it for ever."""
    real = messages.decode_telemetry

    def decode(payload: bytes) -> Decoded:
        if b"trigger" in payload:
            raise RuntimeError("a bug")
        return real(payload)

    monkeypatch.setattr(messages, "decode_telemetry", decode)
    for group in ("writer-timeseries", "writer-logs"):
        database.rows("SELECT runtime.declare_slots(%s, 4)", group)
    async with (
        connected(
            mosquitto.url, "watch", ["fleet/v1/demo/van-1/ack", "outrider/v1/samples/+", "outrider-attended/+/+"]
        ) as client,
        running(service, mosquitto.url, database.service_urls["ingest"]),
    ):
        await client.publish("fleet/v1/demo/van-1/telemetry", '{"boot":1,"seq":1,"trigger":1}')
        await client.publish("fleet/v1/demo/van-1/telemetry", '{"n":2}')
        await eventually(lambda: client.documents("fleet/v1/demo/van-1/ack"), 30)
        await eventually(lambda: [d for d in client.received if d.topic.startswith("outrider/v1/")])
    (ack,) = client.documents("fleet/v1/demo/van-1/ack")
    assert ack["digest"][0][1] == "unprocessable"
    assert database.rows("SELECT reason FROM rejected.message") == [("unprocessable",)]
