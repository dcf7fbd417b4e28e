"""What leaves the service: the retained topic and events, over restarts of the broker, and an erasure."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from outrider.contract import topics
from outrider.contract.batch import BatchNumber, Header, Samples, encode_samples
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually
from outrider_trips.app import service
from outrider_trips.testing import drive

QUICK = {
    "still_pause_s": 1,
    "silence_pause_s": 1,
    "silence_resume_s": 2,
    "still_resume_s": 3,
    "off_resume_s": 2,
    "engine_resume_s": 2,
}


async def send(client: Client, device: str, rows: list[dict[str, Any]]) -> None:
    """One device message on the bus, received now."""
    samples = Samples.of(
        [(name, "number", row["ts"], value) for row in rows for name, value in row.items() if name != "ts"]
    )
    header = Header("demo", device, "telemetry", None, None, time.time_ns() // 1_000_000)
    payload = encode_samples(BatchNumber(0, 1, 1), [(header, samples)])
    await client.publish(topics.BUS_SAMPLES.name(shard=topics.shard_of(device, 4)), payload)


def topic(device: str) -> str:
    return str(topics.TRIP.name(tenant="demo", device=device))


async def retained(mosquitto: Mosquitto, device: str) -> dict[str, Any] | None:
    """What a new subscriber gets."""
    async with connected(mosquitto.url, "trips-looks", [topic(device)]) as client:
        for _ in range(20):
            if client.received:
                break
            await asyncio.sleep(0.02)
        document: dict[str, Any] | None = json.loads(client.received[0].payload) if client.received else None
        return document


async def until_retained(mosquitto: Mosquitto, device: str, state: str | None) -> dict[str, Any]:
    """Wait until the retained trip is in this state; None: until there is none."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = await retained(mosquitto, device)
        if (found or {}).get("state") == state:
            return found or {}
    raise AssertionError(f"never {state}: {found}")


async def test_retained_topic_and_events(mosquitto: Mosquitto, database: Database) -> None:
    database.rows("INSERT INTO trips.profile (rules) VALUES (%s::jsonb)", json.dumps(QUICK))
    url = database.service_urls["trips"]
    now_ms = time.time_ns() // 1_000_000
    moving = drive(now_ms - 180_000, minutes=3, every_s=1)[:180]
    async with (
        running(service, mosquitto.url_of("trips"), url, trips_settle_s=2.0) as running_service,
        connected(mosquitto.url, "trips-sees", [topics.BUS_TRIPS.filter()]) as client,
    ):
        for device in ("van", "erased"):
            await send(client, device, moving)
        summary = await until_retained(mosquitto, "van", "final")  # silence_resume_s passed by the clock alone
        assert summary["rev"] == 1
        assert summary["start"]["ts"] == moving[0]["ts"]
        assert summary["distance_km"] > 2.9
        assert summary["track"]

        def events(device: str) -> list[str]:
            documents = [json.loads(delivery.payload) for delivery in client.received]
            return [document["event"] for document in documents if document["device"] == device]

        await eventually(lambda: events("van")[-1:] == ["closed"])
        assert events("van")[0] == "opened"

        # A broker that lost what it had retained gets it again.
        await until_retained(mosquitto, "erased", "final")
        await asyncio.to_thread(mosquitto.kill)
        await asyncio.to_thread(mosquitto.start)
        await running_service.ready(30)
        assert (await until_retained(mosquitto, "van", "final"))["id"] == summary["id"]

        counts = database.value("SELECT trips.erase_device('demo', 'erased')")
        assert (counts["position"], counts["trip"], counts["retained"]) == (180, 1, 1)
        await until_retained(mosquitto, "erased", None)
        await eventually(lambda: not database.rows("SELECT FROM trips.retained WHERE device = 'erased'"))
