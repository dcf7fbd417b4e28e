"""What became of trips, for those who listen: written in the transaction that changed them, published later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import psycopg

from outrider.contract import topics
from outrider_trips import vehicles
from outrider_trips.changes import Changes, summary
from outrider_trips.vehicles import Vehicle

EVENT = "INSERT INTO trips.outbox (tenant, device, topic, payload) VALUES (%s, %s, %s, %s)"
RETAINED = """
INSERT INTO trips.retained AS r (tenant, device, payload) VALUES (%s, %s, %s)
ON CONFLICT (tenant, device) DO UPDATE SET payload = excluded.payload, wanted = r.wanted + 1
WHERE r.payload IS DISTINCT FROM excluded.payload
"""
CLEAR = """
UPDATE trips.retained SET payload = NULL, wanted = wanted + 1 WHERE (tenant, device) = (%s, %s) AND payload IS NOT NULL
"""


async def put(connection: psycopg.AsyncConnection, vehicle: Vehicle, changes: Changes) -> None:
    """An event for each trip that opened, paused, resumed, closed, changed or went; the retained topic's new content."""
    topic = topics.BUS_TRIPS.name(shard=vehicle.slot or 0)
    events = [
        (one.event, summary(one.id, one.rev, one.edited, one.detail))
        for one in changes.written
        if one.event is not None
    ]
    events += [("removed", summary(old.id, old.rev, False, old.detail)) for old in changes.removed]
    await _events(connection, vehicle, topic, events)
    if not (changes.written or changes.removed):
        return
    newest = await vehicles.latest(connection, vehicle.id) if vehicle.exists else None
    if newest is None:
        await connection.execute(CLEAR, (vehicle.tenant, vehicle.device))
    else:
        payload = orjson.dumps(summary(*newest)).decode()
        await connection.execute(RETAINED, (vehicle.tenant, vehicle.device, payload))


async def _events(
    connection: psycopg.AsyncConnection, vehicle: Vehicle, topic: str, events: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    for event, trip in events:
        document = {"v": 1, "event": event, "tenant": vehicle.tenant, "device": vehicle.device, "trip": trip}
        payload = orjson.dumps(document).decode()
        await connection.execute(EVENT, (vehicle.tenant, vehicle.device, topic, payload))
