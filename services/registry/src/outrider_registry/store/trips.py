"""Trips, read for people; what an operator merges, splits and takes back; the rules. Empty where trips are not installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.store.rows import Row, many, one, value
from outrider_registry.store.views import available

VIEW = "trips.tenant_trip"
# What is long stays out of lists: the track of a day has thousands of points.
COLUMNS: LiteralString = """
SELECT id, device, rev, state, micro, edited, start_at, end_at, detail - ARRAY['track', 'gaps', 'stops'] AS detail,
       coalesce(jsonb_array_length(detail->'gaps'), 0) AS gaps, coalesce(jsonb_array_length(detail->'stops'), 0) AS stops
"""
FROM: LiteralString = """
FROM trips.tenant_trip WHERE tenant = current_setting('outrider.tenant')
"""
PAGE: LiteralString = (
    COLUMNS
    + FROM
    + """
  AND (%(device)s::text IS NULL OR device = %(device)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
  AND (%(micro)s::boolean IS NULL OR (micro AND state = 'final') = %(micro)s)
  AND (%(since)s::timestamptz IS NULL OR end_at > %(since)s)
  AND (%(until)s::timestamptz IS NULL OR start_at < %(until)s)
  AND (%(at)s::timestamptz IS NULL OR (start_at, id) < (%(at)s, %(id)s::uuid))
ORDER BY start_at DESC, id DESC LIMIT %(limit)s
"""
)
ONE: LiteralString = "SELECT id, device, rev, state, micro, edited, start_at, end_at, detail" + FROM + "AND id = %s"
OPEN: LiteralString = "SELECT count(*)" + FROM + "AND state <> 'final'"
DEVICES: LiteralString = "SELECT id, device" + FROM + "AND id = ANY (%s)"
EDITS: LiteralString = """
SELECT id, device, kind, ids, at, actor, made_at, undone_at, undone_by FROM trips.tenant_edit
WHERE tenant = current_setting('outrider.tenant') AND (%(device)s::text IS NULL OR device = %(device)s)
  AND (%(edit)s::uuid IS NULL OR id = %(edit)s)
ORDER BY made_at DESC, id DESC LIMIT %(limit)s
"""
MERGE: LiteralString = "SELECT trips.tenant_edit_merge(%s, %s)"
SPLIT: LiteralString = "SELECT trips.tenant_edit_split(%s, %s, %s)"
UNDO: LiteralString = "SELECT trips.tenant_edit_undo(%s, %s)"
AGAIN: LiteralString = "SELECT trips.tenant_resegment(%s, %s, %s)"
PROFILES: LiteralString = """
SELECT tenant = '*' AS everybody, type, rules, problem FROM trips.tenant_profile
WHERE tenant IN ('*', current_setting('outrider.tenant')) ORDER BY tenant = '*', type
"""
PUT_PROFILE: LiteralString = "SELECT trips.tenant_put_profile(%s, %s)"
DROP_PROFILE: LiteralString = "SELECT trips.tenant_drop_profile(%s)"


@dataclass(frozen=True)
class Filter:
    """Which trips; None does not narrow. Those that overlap `since` to `until` are meant."""

    device: str | None = None
    states: Sequence[str] | None = None
    micro: bool | None = None
    """One that is not final may still become long enough: it is none of those too short to count."""
    since: datetime | None = None
    until: datetime | None = None


async def installed(connection: psycopg.AsyncConnection) -> bool:
    """True if there is a service of trips on this database."""
    return await available(connection, VIEW)


async def page(
    connection: psycopg.AsyncConnection, filter_: Filter, after: tuple[datetime, UUID] | None, limit: int
) -> tuple[list[Row], list[Any] | None]:
    """Trips, the newest first, and the sort key of the last one if there are more."""
    if not await installed(connection):
        return [], None
    at, id_ = after or (None, None)
    states = None if filter_.states is None else list(filter_.states)
    asked: dict[str, Any] = {"device": filter_.device, "states": states, "micro": filter_.micro, "since": filter_.since}
    asked |= {"until": filter_.until, "at": at, "id": id_, "limit": limit + 1}
    rows = await many(connection, PAGE, asked)
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, [rows[-1]["start_at"].isoformat(), str(rows[-1]["id"])] if more else None


async def get(connection: psycopg.AsyncConnection, id_: UUID) -> Row | None:
    """One trip with everything that is known of it."""
    return await one(connection, ONE, (id_,)) if await installed(connection) else None


async def open_count(connection: psycopg.AsyncConnection) -> int:
    """How many trips are not final."""
    return int(await value(connection, OPEN)) if await installed(connection) else 0


async def devices_of(connection: psycopg.AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Whose trips these are; without those that do not exist."""
    if not await installed(connection):
        return {}
    return {row["id"]: row["device"] for row in await many(connection, DEVICES, (list(ids),))}


async def edits(
    connection: psycopg.AsyncConnection, device: str | None = None, edit: UUID | None = None, limit: int = 200
) -> list[Row]:
    """What operators changed, the newest first."""
    if not await installed(connection):
        return []
    return await many(connection, EDITS, {"device": device, "edit": edit, "limit": limit})


async def merge(connection: psycopg.AsyncConnection, ids: Sequence[UUID], actor: str) -> UUID:
    """Note that these trips are one; the edit's id. Raises psycopg.errors.RaiseException in words where they cannot be."""
    found: UUID = await value(connection, MERGE, (list(ids), actor))
    return found


async def split(connection: psycopg.AsyncConnection, id_: UUID, at: datetime, actor: str) -> UUID:
    """Note that this trip is two from there on; the edit's id. Raises psycopg.errors.RaiseException as `merge`."""
    found: UUID = await value(connection, SPLIT, (id_, at, actor))
    return found


async def undo(connection: psycopg.AsyncConnection, edit: UUID, actor: str) -> None:
    """Take an edit back."""
    await connection.execute(UNDO, (edit, actor))


async def again(connection: psycopg.AsyncConnection, device: str, since: datetime, until: datetime) -> bool:
    """Have a device's trips of this time made again, by today's rules; False if it has none then."""
    return await installed(connection) and bool(await value(connection, AGAIN, (device, since, until)))


async def profiles(connection: psycopg.AsyncConnection) -> list[Row]:
    """Rules that are not the defaults: the tenant's own, then the platform's."""
    return await many(connection, PROFILES) if await available(connection, "trips.tenant_profile") else []


async def put_profile(connection: psycopg.AsyncConnection, type_: str, rules: dict[str, Any]) -> None:
    """Sets the tenant's rules of a type of device (`*`: all); checked before."""
    await connection.execute(PUT_PROFILE, (type_, Jsonb(rules)))


async def drop_profile(connection: psycopg.AsyncConnection, type_: str) -> None:
    """Back to what is more general."""
    await connection.execute(DROP_PROFILE, (type_,))
