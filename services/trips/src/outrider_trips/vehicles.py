"""The SQL of segmenting: which vehicle is next, its rows, its trips, and what is written back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from outrider.runtime import horizons
from outrider.trips import Sample, Trip
from outrider_trips.changes import Stored, Written
from outrider_trips.evidence import COLUMNS
from outrider_trips.overlay import Edit
from outrider_trips.store import LOCK, TABLE

MS = "timestamptz 'epoch' + {} * interval '1 millisecond'"
_EPOCH_MS = "(extract(epoch FROM {}) * 1000)::bigint"
# The clock of a slot that was retired is that of the slowest that is left.
CLOCKS = """
SELECT s.slot, coalesce(p.received_at, '-infinity') AS at FROM runtime.slot s LEFT JOIN trips.progress p USING (slot)
WHERE s.group_name = 'trips'
"""
CANDIDATES = f"""
WITH clock AS ({CLOCKS}), waiting AS (
    SELECT t.vehicle, min(t.look_at) AS since FROM trips.touched t JOIN trips.vehicle v ON v.id = t.vehicle
    WHERE t.look_at <= now() AND v.not_before <= now() GROUP BY t.vehicle
    UNION ALL
    SELECT v.id, v.due_at FROM trips.vehicle v LEFT JOIN clock c ON c.slot = v.slot
    WHERE v.due_at <= least(now(), coalesce(c.at, (SELECT min(at) FROM clock)))
)
SELECT vehicle FROM waiting GROUP BY vehicle ORDER BY min(since) LIMIT %s
"""
WAITING = """
SELECT count(DISTINCT vehicle), coalesce(extract(epoch FROM now() - min(look_at)), 0)::float8 FROM trips.touched
WHERE look_at <= now()
"""
TAKE = f"""
WITH clock AS ({CLOCKS})
SELECT v.tenant, v.device, v.moves, {_EPOCH_MS.format("v.first_at")}, {_EPOCH_MS.format("v.last_at")},
       {_EPOCH_MS.format("v.received_at")}, v.slot, {_EPOCH_MS.format("v.window_from")},
       {_EPOCH_MS.format("v.as_of_at")}, {_EPOCH_MS.format("v.due_at")}, v.registered IS DISTINCT FROM false,
       v.checkpoint, v.state, {_EPOCH_MS.format("v.since_at")},
       (SELECT jsonb_object_agg(slot, CASE WHEN isfinite(at) THEN {_EPOCH_MS.format("at")} ELSE 0 END) FROM clock)
FROM trips.vehicle v WHERE v.id = %s FOR NO KEY UPDATE OF v SKIP LOCKED
"""
TOUCHED = f"""
DELETE FROM trips.touched WHERE vehicle = %s
RETURNING {_EPOCH_MS.format("from_at")}, {_EPOCH_MS.format("to_at")}, rows, frozen, moves, {_EPOCH_MS.format("received_at")}, slot
"""
_NAMES = ", ".join(COLUMNS)
ROWS = f"""
SELECT {_EPOCH_MS.format("ts")}, {_NAMES} FROM trips.position
WHERE vehicle = %(vehicle)s AND ts >= {MS.format("%(from)s")}
  AND (%(to)s::bigint IS NULL OR ts < {MS.format("%(to)s::bigint")}) ORDER BY ts
"""
BEFORE = f"SELECT {_EPOCH_MS.format('max(ts)')} FROM trips.position WHERE vehicle = %s AND ts < {MS.format('%s')}"
AFTER = f"SELECT {_EPOCH_MS.format('min(ts)')} FROM trips.position WHERE vehicle = %s AND ts >= {MS.format('%s')}"
# An open trip is wherever the clock may close it, so it belongs to every window.
TRIPS = f"""
SELECT id, rev, {_EPOCH_MS.format("start_at")}, {_EPOCH_MS.format("end_at")}, state, detail FROM trips.trip
WHERE vehicle = %(vehicle)s AND (state <> 'final' OR end_at >= {MS.format("%(left)s")})
  AND (%(right)s::bigint IS NULL OR start_at < {MS.format("%(right)s::bigint")}) ORDER BY start_at
"""
EDITS = f"""
SELECT id, kind, {_EPOCH_MS.format("from_at")}, {_EPOCH_MS.format("to_at")}, {_EPOCH_MS.format("made_at")} FROM trips.edit
WHERE vehicle = %(vehicle)s AND undone_at IS NULL AND to_at >= {MS.format("%(left)s")}
  AND (%(right)s::bigint IS NULL OR from_at < {MS.format("%(right)s::bigint")}) ORDER BY made_at, id
"""
_TRIP_COLUMNS = (
    "start_lat",
    "start_lon",
    "end_lat",
    "end_lon",
    "distance_km",
    "distance_uncertainty_km",
    "duration_s",
    "moving_s",
    "idle_s",
    "stop_s",
    "avg_speed_kmh",
    "max_speed_kmh",
    "start_reason",
    "end_reason",
    "confidence",
    "evidence",
)
WRITE = f"""
INSERT INTO trips.trip (id, vehicle, tenant, device, rev, state, micro, edited, start_at, end_at, detail,
                        {", ".join(_TRIP_COLUMNS)})
VALUES (%(id)s, %(vehicle)s, %(tenant)s, %(device)s, %(rev)s, %(state)s, %(micro)s, %(edited)s,
        {MS.format("%(start_ms)s")}, {MS.format("%(end_ms)s")}, %(detail)s, {", ".join(f"%({c})s" for c in _TRIP_COLUMNS)})
ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, state = excluded.state, micro = excluded.micro, edited = excluded.edited,
    start_at = excluded.start_at, end_at = excluded.end_at, detail = excluded.detail, updated_at = now(),
    {", ".join(f"{c} = excluded.{c}" for c in _TRIP_COLUMNS)}
"""
REMOVE = "DELETE FROM trips.trip WHERE id = ANY (%s)"
LATEST = "SELECT id, rev, edited, detail FROM trips.trip WHERE vehicle = %s ORDER BY start_at DESC, id LIMIT 1"
POSTPONE = """
UPDATE trips.vehicle SET not_before = now() + interval '1 minute',
    due_at = CASE WHEN due_at IS NOT NULL THEN greatest(due_at, now() + interval '1 minute') END
WHERE id = %s
"""
SETTLE = f"""
UPDATE trips.vehicle SET moves = %(moves)s, first_at = {MS.format("%(first)s::bigint")}, last_at = {MS.format("%(last)s::bigint")},
    received_at = {MS.format("%(received)s::bigint")}, slot = %(slot)s, frozen_rows = frozen_rows + %(frozen)s,
    state = %(state)s, since_at = {MS.format("%(since)s::bigint")}, as_of_at = {MS.format("%(as_of)s::bigint")},
    due_at = {MS.format("%(due)s::bigint")}, window_from = {MS.format("%(window_from)s::bigint")},
    checkpoint = %(checkpoint)s, segmented_at = now(), not_before = now() + make_interval(secs => %(pause_s)s)
WHERE id = %(vehicle)s
"""


@dataclass(slots=True)
class Vehicle:
    """A vehicle whose row is locked, with what touched it since; times are epoch ms."""

    id: int
    tenant: str
    device: str
    moves: bool
    first_ms: int | None
    last_ms: int | None
    received_ms: int | None
    slot: int | None
    hint_ms: int | None
    as_of_ms: int | None
    """Of the last time."""
    due_ms: int | None
    exists: bool
    """Not removed from the registry."""
    checkpoint: dict[str, Any] | None
    """From where its segmentation goes on, if what touched it is newer than what that sums up."""
    state: str
    since_ms: int | None
    horizon_ms: int = 0
    """Rows before it are gone, or being removed."""
    clock_ms: int = 0
    """All that ingest received for it before is stored."""
    from_ms: int | None = None
    to_ms: int | None = None
    frozen: int = 0
    late: bool = False
    """What touched it is older than its newest row, or than the time it was judged at."""
    pieces: Sequence[tuple[int, int, int]] = ()
    """(from, to, rows) of each touch."""

    @property
    def due(self) -> bool:
        """The clock alone changes something."""
        return self.due_ms is not None and self.due_ms <= self.clock_ms


async def take(connection: psycopg.AsyncConnection, id_: int) -> Vehicle | None:
    """Lock a vehicle and take what touched it; None if another replica has it, or it is gone.

    Until the transaction ends none of its rows is removed.
    """
    await connection.execute(LOCK)
    gone = await horizons.ask(connection, [TABLE])
    row = await (await connection.execute(TAKE.encode(), (id_,))).fetchone()
    if row is None:
        return None
    vehicle = Vehicle(id_, *row[:14])
    vehicle.horizon_ms = gone.before_ms(TABLE, vehicle.tenant)
    known_ms = max(vehicle.last_ms or 0, vehicle.as_of_ms or 0)
    clocks: dict[str, int] = row[14] or {}
    touches = await (await connection.execute(TOUCHED.encode(), (id_,))).fetchall()
    for from_ms, to_ms, rows, frozen, moves, received_ms, slot in touches:
        vehicle.from_ms = from_ms if vehicle.from_ms is None else min(vehicle.from_ms, from_ms)
        vehicle.to_ms = to_ms if vehicle.to_ms is None else max(vehicle.to_ms, to_ms)
        vehicle.frozen += frozen
        vehicle.moves = vehicle.moves or moves
        if rows:
            vehicle.first_ms = from_ms if vehicle.first_ms is None else min(vehicle.first_ms, from_ms)
            vehicle.last_ms = to_ms if vehicle.last_ms is None else max(vehicle.last_ms, to_ms)
        if received_ms is not None and received_ms >= (vehicle.received_ms or 0):
            vehicle.received_ms, vehicle.slot = received_ms, slot
    vehicle.late = vehicle.from_ms is not None and vehicle.from_ms <= known_ms
    if vehicle.checkpoint and vehicle.from_ms is not None and vehicle.from_ms <= vehicle.checkpoint["settled_ms"]:
        vehicle.checkpoint = None
    vehicle.pieces = [(from_ms, to_ms, rows) for from_ms, to_ms, rows, *_ in touches]
    vehicle.clock_ms = clocks.get(str(vehicle.slot), min(clocks.values(), default=0))
    return vehicle


async def rows(connection: psycopg.AsyncConnection, vehicle: int, from_ms: int, to_ms: int | None) -> list[Sample]:
    """Rows of evidence from a time (inclusive) to another (exclusive; None: all), by time."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(ROWS.encode(), {"vehicle": vehicle, "from": from_ms, "to": to_ms})
    return [
        Sample(
            ts,
            lat=lat,
            lon=lon,
            speed_kmh=speed_kmh,
            ignition=ignition,
            gear=gear,
            rpm=rpm,
            odometer_km=odometer_km,
            accuracy_m=accuracy_m,
            hdop=hdop,
            alt_m=alt_m,
            heading_deg=heading_deg,
            soc_pct=soc_pct,
            fuel_pct=fuel_pct,
        )
        for (
            ts,
            lat,
            lon,
            alt_m,
            speed_kmh,
            heading_deg,
            accuracy_m,
            hdop,
            ignition,
            gear,
            rpm,
            odometer_km,
            soc_pct,
            fuel_pct,
        ) in await cursor.fetchall()
    ]


async def neighbour(connection: psycopg.AsyncConnection, vehicle: int, at_ms: int, later: bool) -> int | None:
    """Time of the newest row before a time, or of the oldest at or after it."""
    row = await (await connection.execute((AFTER if later else BEFORE).encode(), (vehicle, at_ms))).fetchone()
    return row[0] if row else None


async def trips(connection: psycopg.AsyncConnection, vehicle: int, left_ms: int, right_ms: int | None) -> list[Stored]:
    """Stored trips that overlap a window, oldest first."""
    cursor = await connection.execute(TRIPS.encode(), {"vehicle": vehicle, "left": left_ms, "right": right_ms})
    return [Stored(*row) for row in await cursor.fetchall()]


async def edits(connection: psycopg.AsyncConnection, vehicle: int, left_ms: int, right_ms: int | None) -> list[Edit]:
    """Edits in force that overlap a window."""
    cursor = await connection.execute(EDITS.encode(), {"vehicle": vehicle, "left": left_ms, "right": right_ms})
    return [Edit(str(id_), *rest) for id_, *rest in await cursor.fetchall()]


async def write(connection: psycopg.AsyncConnection, vehicle: Vehicle, written: Sequence[Written]) -> None:
    """Insert or update trips."""
    for one in written:
        await connection.execute(WRITE.encode(), _columns(vehicle, one))


def _columns(vehicle: Vehicle, one: Written) -> dict[str, Any]:
    trip: Trip = one.trip
    return {name: getattr(trip, name) for name in (*_TRIP_COLUMNS, "state", "micro", "start_ms", "end_ms")} | {
        "id": one.id,
        "vehicle": vehicle.id,
        "tenant": vehicle.tenant,
        "device": vehicle.device,
        "rev": one.rev,
        "edited": one.edited,
        "detail": Jsonb(one.detail),
    }


async def remove(connection: psycopg.AsyncConnection, ids: Sequence[UUID]) -> None:
    """Delete trips that are none any more."""
    if ids:
        await connection.execute(REMOVE, (list(ids),))


async def latest(connection: psycopg.AsyncConnection, vehicle: int) -> tuple[UUID, int, bool, dict[str, Any]] | None:
    """(id, rev, edited, detail) of the newest trip."""
    return await (await connection.execute(LATEST, (vehicle,))).fetchone()


async def postpone(connection: psycopg.AsyncConnection, vehicle: int) -> None:
    """Look at it again in a minute."""
    await connection.execute(POSTPONE, (vehicle,))


async def settle(connection: psycopg.AsyncConnection, vehicle: Vehicle, pause_s: float) -> None:
    """Write back what was learnt of the vehicle, and when it may be looked at again."""
    await connection.execute(
        SETTLE.encode(),
        {
            "vehicle": vehicle.id,
            "moves": vehicle.moves,
            "first": vehicle.first_ms,
            "last": vehicle.last_ms,
            "received": vehicle.received_ms,
            "slot": vehicle.slot,
            "frozen": vehicle.frozen,
            "state": vehicle.state,
            "since": vehicle.since_ms,
            "as_of": vehicle.as_of_ms,
            "due": vehicle.due_ms,
            "window_from": vehicle.hint_ms,
            "checkpoint": vehicle.checkpoint and Jsonb(vehicle.checkpoint),
            "pause_s": pause_s,
        },
    )


async def candidates(connection: psycopg.AsyncConnection, limit: int) -> list[int]:
    """Vehicles to segment, the one that waits longest first."""
    return [id_ for (id_,) in await (await connection.execute(CANDIDATES.encode(), (limit,))).fetchall()]


async def waiting(connection: psycopg.AsyncConnection) -> tuple[int, float]:
    """How many vehicles wait, and how long the first one has, in seconds."""
    row = await (await connection.execute(WAITING)).fetchone()
    return (row[0], row[1]) if row else (0, 0.0)
