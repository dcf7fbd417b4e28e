"""Trips, read for programs: lists, one with its track, figures over many. From the views of the service that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import dict_row, tuple_row

from outrider.trips import polyline
from outrider_gateway.query.asked import Range
from outrider_gateway.query.store import Snapshot, moment, ms

Row = dict[str, Any]

COLUMNS: LiteralString = """
SELECT id, device, rev, state, micro, edited, start_at, end_at, start_lat, start_lon, end_lat, end_lon, distance_km,
       distance_uncertainty_km, duration_s, moving_s, idle_s, stop_s, avg_speed_kmh, max_speed_kmh, start_reason, end_reason,
       confidence, evidence
"""
# What is being erased is gone from the moment that its tombstone stands.
FROM: LiteralString = """
FROM trips.tenant_trip WHERE tenant = current_setting('outrider.tenant')
  AND NOT EXISTS (SELECT FROM runtime.tombstone e WHERE e.device = tenant_trip.device)
"""
NARROWED: LiteralString = """
  AND (%(devices)s::text[] IS NULL OR device = ANY (%(devices)s)) AND (%(micro)s::boolean IS NULL OR micro = %(micro)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
"""
PAGE: LiteralString = (
    COLUMNS
    + ", CASE WHEN %(track)s THEN detail ->> 'track' END AS track"
    + FROM
    + NARROWED
    + """
  AND (%(since)s::timestamptz IS NULL OR end_at > %(since)s) AND (%(until)s::timestamptz IS NULL OR start_at < %(until)s)
  AND (%(at)s::timestamptz IS NULL OR (start_at, id) < (%(at)s, %(id)s::uuid))
ORDER BY start_at DESC, id DESC LIMIT %(limit)s
"""
)
ONE: LiteralString = COLUMNS + ", detail" + FROM + "AND id = %s"
# The whole of a trip belongs to the day (and week, month) that it began on.
FIGURES: LiteralString = (
    """
SELECT {key} AS key, count(*)::bigint AS trips, count(DISTINCT device)::bigint AS devices,
       sum(distance_km) AS distance_km, sum(duration_s) AS duration_s, sum(moving_s) AS moving_s, sum(idle_s) AS idle_s,
       sum(stop_s) AS stop_s, max(max_speed_kmh) AS max_speed_kmh
"""
    + FROM
    + NARROWED
    + "  AND start_at >= %(since)s AND start_at < %(until)s GROUP BY 1"
)
KEYS: dict[str, LiteralString] = {
    "all": "''::text",
    "device": "device",
    "day": "to_char(start_at AT TIME ZONE %(tz)s, 'YYYY-MM-DD')",
    "week": "to_char(date_trunc('week', start_at AT TIME ZONE %(tz)s), 'YYYY-MM-DD')",
    "month": "to_char(start_at AT TIME ZONE %(tz)s, 'YYYY-MM')",
}
POINTS: LiteralString = """
SELECT (extract(epoch FROM ts) * 1000)::bigint, lat, lon, alt_m, speed_kmh FROM trips.tenant_position
WHERE tenant = current_setting('outrider.tenant') AND device = %s AND ts >= %s AND ts <= %s
  AND lat IS NOT NULL AND lon IS NOT NULL ORDER BY ts LIMIT %s
"""
MOST_POINTS = 200_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which trips; None does not narrow. `range`: those that overlap it."""

    devices: tuple[str, ...] | None = None
    states: tuple[str, ...] | None = None
    micro: bool | None = None
    range: Range | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A place of a track; `ts` (epoch ms), height (m) and speed (km/h) where they are known."""

    lat: float
    lon: float
    ts: int | None = None
    alt_m: float | None = None
    speed_kmh: float | None = None


async def page(
    snapshot: Snapshot, wanted: Wanted, after: tuple[int, UUID] | None, limit: int, track: bool
) -> tuple[list[Row], tuple[int, UUID] | None]:
    """Trips, the newest first, and the sort key (epoch ms, id) of the last one if there are more."""
    values = _narrowed(wanted) | {"track": track, "limit": limit + 1, "at": None, "id": None}
    values |= {"since": None, "until": None}
    if wanted.range is not None:
        values |= {"since": moment(wanted.range.start_ms), "until": moment(wanted.range.end_ms)}
    if after is not None:
        values |= {"at": moment(after[0]), "id": after[1]}
    async with snapshot.connection.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(PAGE, values)).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, (ms(rows[-1]["start_at"]), rows[-1]["id"]) if more else None


async def get(snapshot: Snapshot, id_: UUID) -> Row | None:
    """A trip with everything that is known of it in `detail`."""
    async with snapshot.connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(ONE, (id_,))).fetchone()


async def figures(snapshot: Snapshot, wanted: Wanted, over: Range, by: str, tz: str) -> list[Row]:
    """Number, distance, times of the trips that began in a range, by `key`: day, week, month (of the zone), device or all."""
    statement = FIGURES.replace("{key}", KEYS[by])
    values = _narrowed(wanted) | {"since": moment(over.start_ms), "until": moment(over.end_ms), "tz": tz}
    async with snapshot.connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(statement, values)).fetchall()


async def points(snapshot: Snapshot, trip: Row, every: bool) -> list[Point]:
    """The track of a trip: all its positions where they are still kept (`every`), else the simplified one, without times."""
    if every:
        asked = (trip["device"], trip["start_at"], trip["end_at"], MOST_POINTS)
        async with snapshot.connection.cursor(row_factory=tuple_row) as cursor:
            rows = await (await cursor.execute(POINTS, asked)).fetchall()
        if rows:
            return [Point(lat, lon, ts, alt, speed) for ts, lat, lon, alt, speed in rows]
    return track_of(trip["detail"].get("track"))


def track_of(text: str | None) -> list[Point]:
    """The points of an encoded polyline; none where there is no track, or one we cannot read."""
    try:
        return [Point(lat, lon) for lat, lon in polyline.decode(text or "")]
    except ValueError:
        return []


def _narrowed(wanted: Wanted) -> dict[str, Any]:
    def many(values: Sequence[str] | None) -> list[str] | None:
        return None if values is None else list(values)

    return {"devices": many(wanted.devices), "states": many(wanted.states), "micro": wanted.micro}
