"""What live streams read, for all that watch one tenant at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg

from outrider_registry.store.rows import Row, many
from outrider_registry.store.views import available

LATEST: LiteralString = """
SELECT device, metric, value, ts FROM telemetry.tenant_latest
WHERE tenant = current_setting('outrider.tenant') AND device = ANY (%s) ORDER BY device, metric, ts
"""
# Ingest notes every few seconds who was heard: whoever was not has no new position.
MOVED: LiteralString = """
SELECT p.device, p.ts, p.lat, p.lon, p.heading
FROM telemetry.tenant_positions(ARRAY(
    SELECT device FROM telemetry.tenant_seen
    WHERE tenant = current_setting('outrider.tenant') AND seen_at > now() - %s * interval '1 second')) p
JOIN registry.device d ON d.id = p.device
"""
PRESENCE: LiteralString = """
SELECT device, state, since, reason, seen_at, boots FROM registry.presence
WHERE tenant = current_setting('outrider.tenant') AND (%(devices)s::text[] IS NULL OR device = ANY (%(devices)s))
"""
SHADOWS: LiteralString = """
SELECT device, desired_version, reported_version, published_version, desired_at, reported_at FROM registry.shadow
WHERE tenant = current_setting('outrider.tenant') AND device = ANY (%s)
"""
COMMANDS: LiteralString = """
SELECT device, id, name, state, result, created_at, sent_at, accepted_at, finished_at FROM registry.command
WHERE tenant = current_setting('outrider.tenant') AND device = ANY (%(devices)s)
  AND (id = ANY (%(ids)s) OR (%(open)s AND finished_at IS NULL)) ORDER BY created_at
"""


async def latest(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> list[Row]:
    """The newest sample of each series of these devices; of two kinds of one metric the newer comes last."""
    if not await available(connection, "telemetry.tenant_latest"):
        return []
    return await many(connection, LATEST, (list(devices),))


async def moved(connection: psycopg.AsyncConnection, seconds: float) -> list[Row]:
    """Last positions of devices that were heard in the last `seconds`."""
    if not await available(connection, "telemetry.tenant_latest"):
        return []
    return await many(connection, MOVED, (seconds,))


async def presence(connection: psycopg.AsyncConnection, devices: Sequence[str] | None) -> list[Row]:
    """Presence of these devices, or of all."""
    return await many(connection, PRESENCE, {"devices": None if devices is None else list(devices)})


async def shadows(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> list[Row]:
    """Versions of the shadows of these devices."""
    return await many(connection, SHADOWS, (list(devices),))


async def commands(
    connection: psycopg.AsyncConnection, devices: Sequence[str], ids: Sequence[Any], *, all_open: bool
) -> list[Row]:
    """Commands of these devices: those with these ids, and with `all_open` the unfinished ones."""
    return await many(connection, COMMANDS, {"devices": list(devices), "ids": list(ids), "open": all_open})
