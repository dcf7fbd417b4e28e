"""The ledger, read for people: last values, sparklines, series in buckets. Empty where it is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, LiteralString

import psycopg

from outrider_registry.store.rows import Row, many
from outrider_registry.store.views import available

Aggregation = Literal["mean", "min", "max", "sum", "count", "last"]
SPARKLINE_POINTS = 30
SPARKLINE_STEP_S = 120

LATEST: LiteralString = """
SELECT metric, kind, value, ts FROM telemetry.tenant_latest
WHERE tenant = current_setting('outrider.tenant') AND device = %s ORDER BY metric, kind
"""
SPARKLINES: LiteralString = """
SELECT device, n, value FROM telemetry.tenant_sparklines(%(devices)s, %(metric)s, %(since)s, %(step)s, %(points)s)
"""
SERIES: LiteralString = """
SELECT s.id, s.device, s.metric, s.kind, coalesce(m.unit, '') AS unit
FROM unnest(%(devices)s::text[], %(metrics)s::text[]) WITH ORDINALITY AS asked(device, metric, n)
JOIN telemetry.tenant_series s ON s.tenant = current_setting('outrider.tenant')
     AND (s.device, s.metric) = (asked.device, asked.metric)
LEFT JOIN registry.metric m ON m.tenant = s.tenant AND m.name = s.metric
ORDER BY asked.n, array_position(ARRAY['number', 'boolean', 'string', 'json'], s.kind)
"""
_AGGREGATES: dict[Aggregation, LiteralString] = {
    "mean": "avg(value)",
    "min": "min(value)",
    "max": "max(value)",
    "sum": "sum(value)",
    "count": "count(value)::double precision",
    "last": "(max(ARRAY[extract(epoch FROM ts)::double precision, value]))[2]",
}
_BUCKETS: LiteralString = """ AS v, min(value) AS low, max(value) AS high
FROM telemetry.tenant_sample WHERE series_id = %(series)s AND ts >= %(since)s AND ts < %(until)s
GROUP BY 1 ORDER BY 1
"""
_BUCKET: LiteralString = (
    "SELECT (extract(epoch FROM date_bin(%(step)s::interval, ts, timestamptz 'epoch')) * 1000)::bigint AS t"
)
"""The time of the bucket, epoch ms."""
CHANGES: LiteralString = """
SELECT (extract(epoch FROM ts) * 1000)::bigint AS t, value AS v FROM (
    SELECT ts, value, lag(value) OVER (ORDER BY ts) AS before
    FROM telemetry.tenant_sample_text WHERE series_id = %(series)s AND ts >= %(since)s AND ts < %(until)s
) x WHERE value IS DISTINCT FROM before ORDER BY ts LIMIT %(limit)s
"""


TRACK: LiteralString = """
WITH kept AS (
    SELECT DISTINCT ON (date_bin(%(step)s::interval, ts, timestamptz 'epoch')) ts, value
    FROM telemetry.tenant_sample WHERE series_id = %(lat)s AND ts >= %(since)s AND ts < %(until)s
    ORDER BY date_bin(%(step)s::interval, ts, timestamptz 'epoch'), ts
)
SELECT (extract(epoch FROM kept.ts) * 1000)::bigint, kept.value, lon.value, speed.value
FROM kept
JOIN telemetry.tenant_sample lon ON lon.series_id = %(lon)s AND lon.ts = kept.ts AND lon.ts >= %(since)s AND lon.ts < %(until)s
LEFT JOIN telemetry.tenant_sample speed
    ON speed.series_id = %(speed)s AND speed.ts = kept.ts AND speed.ts >= %(since)s AND speed.ts < %(until)s
ORDER BY 1
"""
MAP: LiteralString = """
SELECT d.id, coalesce(t.lat, d.latitude), coalesce(t.lon, d.longitude), coalesce(p.state, 'unknown'), t.heading,
       (extract(epoch FROM t.ts) * 1000)::bigint, d.name
FROM registry.device d
LEFT JOIN telemetry.tenant_positions() t ON t.device = d.id
LEFT JOIN registry.presence p ON p.device = d.id
WHERE d.tenant = current_setting('outrider.tenant') AND (t.lat IS NOT NULL OR d.latitude IS NOT NULL) ORDER BY d.id
"""
MAP_OF_PLACES: LiteralString = """
SELECT d.id, d.latitude, d.longitude, coalesce(p.state, 'unknown'), NULL::float8, NULL::bigint, d.name
FROM registry.device d LEFT JOIN registry.presence p ON p.device = d.id
WHERE d.tenant = current_setting('outrider.tenant') AND d.latitude IS NOT NULL ORDER BY d.id
"""


async def latest(connection: psycopg.AsyncConnection, device: str) -> list[Row]:
    """The newest sample of each of a device's series."""
    if not await available(connection, "telemetry.tenant_latest"):
        return []
    return await many(connection, LATEST, (device,))


async def sparklines(
    connection: psycopg.AsyncConnection, devices: Sequence[str], metric: str, until: datetime | None = None
) -> dict[str, list[float | None]]:
    """Per device that has the metric, its last hour in SPARKLINE_POINTS values, oldest first."""
    if not devices or not await available(connection, "telemetry.tenant_latest"):
        return {}
    until = until or datetime.now(UTC)
    values = {
        "devices": list(devices),
        "metric": metric,
        "points": SPARKLINE_POINTS,
        "step": timedelta(seconds=SPARKLINE_STEP_S),
        "since": until - timedelta(seconds=SPARKLINE_POINTS * SPARKLINE_STEP_S),
    }
    lines: dict[str, list[float | None]] = {}
    for row in await many(connection, SPARKLINES, values):
        lines.setdefault(row["device"], [None] * SPARKLINE_POINTS)[row["n"]] = round(row["value"], 6)
    return lines


async def series(connection: psycopg.AsyncConnection, asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
    """(device, metric) → its series with id, kind and unit; of several kinds the one that draws best."""
    if not await available(connection, "telemetry.tenant_series"):
        return {}
    rows = await many(connection, SERIES, {"devices": [d for d, _ in asked], "metrics": [m for _, m in asked]})
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        found.setdefault((row["device"], row["metric"]), row)
    return found


async def buckets(
    connection: psycopg.AsyncConnection,
    series_id: int,
    since: datetime,
    until: datetime,
    step: timedelta,
    aggregation: Aggregation,
) -> list[tuple[int, float, float, float]]:
    """(bucket's start in epoch ms, aggregate, lowest, highest) of numbers and booleans (0 or 1), in order."""
    statement: LiteralString = _BUCKET + ", " + _AGGREGATES[aggregation] + _BUCKETS
    cursor = await connection.execute(statement, {"series": series_id, "since": since, "until": until, "step": step})
    return await cursor.fetchall()


async def changes(
    connection: psycopg.AsyncConnection, series_id: int, since: datetime, until: datetime, limit: int
) -> list[tuple[int, str]]:
    """(epoch ms, value) wherever a text changed, at most `limit`, in order."""
    cursor = await connection.execute(CHANGES, {"series": series_id, "since": since, "until": until, "limit": limit})
    return await cursor.fetchall()


async def limit_time(connection: psycopg.AsyncConnection, seconds: float) -> None:
    """Let no statement of this transaction take longer; psycopg.errors.QueryCanceled is raised then."""
    await connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{max(1, int(seconds * 1000))}",))


async def track(
    connection: psycopg.AsyncConnection,
    found: dict[str, int],
    since: datetime,
    until: datetime,
    step: timedelta,
) -> list[tuple[int, float, float, float | None]]:
    """(epoch ms, lat, lon, speed_kmh), the first of each step, of series ids by metric; `speed_kmh` may be missing."""
    values = {"lat": found["lat"], "lon": found["lon"], "speed": found.get("speed_kmh"), "since": since, "until": until}
    cursor = await connection.execute(TRACK, values | {"step": step})
    return await cursor.fetchall()


async def positions(connection: psycopg.AsyncConnection) -> list[tuple[Any, ...]]:
    """(device, lat, lon, presence, heading, epoch ms, name) of devices that told where they are, or stand somewhere."""
    statement = MAP if await available(connection, "telemetry.tenant_latest") else MAP_OF_PLACES
    return await (await connection.execute(statement)).fetchall()
