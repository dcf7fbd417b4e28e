"""A rejected message, sent again from the console, ends in the ledger with the time at which it first came."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import running
from outrider.testing.waiting import eventually
from outrider_ingest.app import service as ingest
from outrider_registry.testing import running_api, running_registry
from outrider_writer_timeseries.app import service as writer

KEEP = """
SELECT rejected.keep(ARRAY['acme'], ARRAY['van-1'], ARRAY['telemetry'], ARRAY[NULL::bigint], ARRAY[NULL::bigint],
    ARRAY['unknown_device'], ARRAY[''], ARRAY['fleet/v1/acme/van-1/telemetry'], ARRAY[%s::bytea],
    ARRAY[now() - interval '1 hour' - %s * interval '1 s'], 'ingest')
"""
MESSAGES = 120


async def test_what_an_unknown_device_sent_is_stored_once_it_is_registered(
    database: Database, mosquitto: Mosquitto
) -> None:
    for n in range(MESSAGES):
        database.rows(KEEP, f'{{"speed_kmh": {n}}}'.encode(), n)
    async with (
        running(ingest, mosquitto.url, database.service_urls["ingest"]),
        running(writer, mosquitto.url, database.service_urls["writer-timeseries"]),
        running_registry(database.service_urls["registry"], mosquitto.url) as registry,
        running_api(registry) as api,
    ):
        publisher = asyncio.create_task(registry.publisher.run())
        await eventually(lambda: registry.publisher.connected)
        assert (await api.operator.post("devices", json={"id": "van-1"})).status_code == 201
        replayed = await api.operator.post("rejected/replay", json={"reason": "unknown_device"})
        assert replayed.json() == {"replayed": MESSAGES, "skipped": 0, "more": False}
        stored = "SELECT count(*), count(DISTINCT value) FROM telemetry.sample"
        await eventually(lambda: database.rows(stored) == [(MESSAGES, MESSAGES)])
        publisher.cancel()
        with suppress(asyncio.CancelledError):
            await publisher
        await registry.publisher.close()
    [(first, last)] = database.rows("SELECT min(ts), max(ts) FROM telemetry.sample")
    [(first_came, last_came)] = database.rows("SELECT min(received_at), max(received_at) FROM rejected.message")
    assert abs(first - first_came) < timedelta(milliseconds=1)
    assert abs(last - last_came) < timedelta(milliseconds=1)
