"""A reader that stands for all writers in the tests of what publishes on the bus: keeps every message, decoded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from outrider.contract import topics
from outrider.contract.batch import BatchNumber, Header, Record, decode_records, decode_samples
from outrider.runtime.mqtt import Delivery
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected

GROUPS = ("writer-timeseries", "writer-logs")


@dataclass
class Seen:
    """One device message as the bus carried it."""

    topic: str
    number: BatchNumber
    header: Header
    samples: list[tuple[str, str, int, Any]] = field(default_factory=list)
    records: Sequence[Record] = ()


class Bus:
    """Everything on the bus and on the devices' ack topics."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def batches(self) -> list[Delivery]:
        return [delivery for delivery in self.client.received if delivery.topic.startswith("outrider/v1/")]

    def messages(self, device: str | None = None) -> list[Seen]:
        """All messages, or one device's, in the order of their arrival."""
        seen = [message for delivery in self.batches for message in _messages(delivery)]
        return [message for message in seen if device is None or message.header.device == device]

    def acks(self, device: str, tenant: str = "demo") -> list[dict[str, Any]]:
        """Acks of ingest itself to a device."""
        return self.client.documents(topics.ACK.name(tenant=tenant, device=device))


def _messages(delivery: Delivery) -> list[Seen]:
    if topics.BUS_SAMPLES.parse(delivery.topic):
        batch = decode_samples(delivery.payload)
        return [
            Seen(delivery.topic, batch.number, header, list(samples.rows()))
            for header, samples in zip(batch.headers, batch.samples, strict=True)
        ]
    records = decode_records(delivery.payload)
    return [
        Seen(delivery.topic, records.number, header, records=lines)
        for header, lines in zip(records.headers, records.records, strict=True)
    ]


@contextlib.asynccontextmanager
async def reading(mqtt_url: str, database: Database, shards: int = 4) -> AsyncIterator[Bus]:
    """A reader that stands for all writers: their groups are declared and every shard is subscribed."""
    for group in GROUPS:
        database.rows("SELECT runtime.declare_slots(%s, %s)", group, shards)
    async with connected(
        mqtt_url, "bus-reader", ["outrider/v1/+/+", topics.ATTENDED.filter(), topics.ACK.filter()]
    ) as client:
        yield Bus(client)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def topic(device: str, stream: str = "telemetry") -> str:
    return f"fleet/v1/demo/{device}/{stream}"


def rejected(database: Database, device: str) -> list[tuple[Any, ...]]:
    """(boot, seq, reason) of a device's rejections, in order."""
    return database.rows(
        "SELECT boot, seq, reason FROM rejected.message WHERE device = %s ORDER BY boot, seq, reason", device
    )
