"""Commands: stored, sent while their device is online, ended in exactly one state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.store.rows import Row, many, value
from outrider_registry.store.rows import one as first

RANK = {"queued": 0, "sent": 1, "accepted": 2, "running": 3}
"""States a command goes through, only forward; every other one is an end."""
FINAL = frozenset({"succeeded", "failed", "rejected", "expired", "timed_out", "canceled"})
ENDED_BY_REGISTRY = frozenset({"expired", "timed_out", "canceled"})

COLUMNS: LiteralString = """id, device, name, params, state, result, created_by, created_at, expires_at, timeout_s,
    sent_at, accepted_at, finished_at"""
INSERT: LiteralString = (
    """
INSERT INTO registry.command (tenant, device, name, params, created_by, expires_at, timeout_s)
VALUES (current_setting('outrider.tenant'), %(device)s, %(name)s, %(params)s, %(actor)s,
        now() + make_interval(secs => %(expires_s)s), %(timeout_s)s)
RETURNING """
    + COLUMNS
)
# Locked, so that of two commands the second counts the first, and the device stays what it is.
STATUS: LiteralString = """
SELECT status FROM registry.device WHERE id = %s AND tenant = current_setting('outrider.tenant') FOR NO KEY UPDATE
"""
OPEN: LiteralString = "SELECT count(*) FROM registry.command WHERE device = %s AND finished_at IS NULL"
PAGE: LiteralString = (
    "SELECT "
    + COLUMNS
    + """ FROM registry.command
WHERE tenant = current_setting('outrider.tenant') AND (%(device)s::text IS NULL OR device = %(device)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
  AND (%(at)s::timestamptz IS NULL OR (created_at, id) < (%(at)s, %(id)s::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
)
ONE: LiteralString = (
    "SELECT " + COLUMNS + " FROM registry.command WHERE id = %s AND tenant = current_setting('outrider.tenant')"
)
CANCEL: LiteralString = """
UPDATE registry.command SET state = 'canceled', finished_at = now() WHERE id = %s AND state IN ('queued', 'sent')
"""
# A device that says nothing gets it again when it comes back, and now and then; it knows the ids it has seen.
DUE: LiteralString = """
SELECT c.id, c.tenant, c.device, c.name, c.params, c.expires_at
FROM registry.command c
JOIN registry.device d ON d.id = c.device AND d.status = 'active'
JOIN registry.tenant t ON t.name = c.tenant AND t.disabled_at IS NULL
JOIN registry.presence p ON p.device = c.device AND p.state = 'online'
WHERE c.state IN ('queued', 'sent') AND c.finished_at IS NULL AND c.expires_at > now()
  AND (c.tried_at IS NULL OR p.status_at > c.tried_at
       OR c.tried_at < now() - make_interval(secs => CASE c.state WHEN 'queued' THEN %(queued)s ELSE %(sent)s END))
  AND NOT EXISTS (SELECT FROM registry.emergency_stop s WHERE s.tenant IN ('*', c.tenant))
ORDER BY c.created_at LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED
"""
TRIED: LiteralString = "UPDATE registry.command SET tried_at = now() WHERE id = ANY (%s)"
SENT: LiteralString = """
UPDATE registry.command SET state = 'sent', sent_at = now() WHERE id = ANY (%s) AND state = 'queued'
"""
# Nobody can say of a command that was sent and not answered whether it was carried out: that is no `expired`.
ENDED: LiteralString = """
UPDATE registry.command c
SET finished_at = now(),
    state = CASE WHEN state = 'queued' THEN 'expired' ELSE 'timed_out' END,
    result = coalesce(result, jsonb_build_object('detail', CASE
        WHEN state = 'queued' THEN 'it was not sent before it expired'
        WHEN state = 'sent' THEN 'it was sent, and the device did not answer'
        ELSE 'the device began and did not end it in time' END))
WHERE finished_at IS NULL AND CASE
    WHEN state = 'queued' THEN expires_at <= now()
    WHEN state = 'sent' THEN expires_at + make_interval(secs => %(grace)s) <= now()
    ELSE accepted_at + make_interval(secs => timeout_s) <= now() END
RETURNING id, tenant, device, name, state
"""
LOCK: LiteralString = """
SELECT id, tenant, device, name, state, result, accepted_at, finished_at FROM registry.command
WHERE id = ANY (%s) ORDER BY id FOR UPDATE
"""
ANSWERED: LiteralString = """
UPDATE registry.command c
SET state = new.state, result = new.result::jsonb, accepted_at = new.accepted_at, finished_at = new.finished_at,
    sent_at = coalesce(c.sent_at, now())
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
     AS new (id, state, result, accepted_at, finished_at)
WHERE c.id = new.id
"""


@dataclass(frozen=True)
class Due:
    """A command to be sent now."""

    id: UUID
    tenant: str
    device: str
    name: str
    params: dict[str, Any]
    expires_at: datetime


@dataclass
class Known:
    """How far a command got."""

    id: UUID
    tenant: str
    device: str
    name: str
    state: str
    result: Any
    accepted_at: datetime | None
    finished_at: datetime | None

    def answer(self, status: str, result: Any, at: datetime) -> bool:
        """Take an answer in, in whatever order they come: only forward, never out of an end. True if it says anything new.

        Where the registry ended it, a device's end that comes later is kept beside the result, and changes no state.
        """
        if self.state in FINAL:
            known = self.result if isinstance(self.result, dict) else {}
            if self.state not in ENDED_BY_REGISTRY or status not in FINAL or "late" in known:
                return False
            self.result = {**known, "late": {"status": status, "result": result}}
            return True
        if status in FINAL:
            self.state, self.result, self.finished_at = status, result, at
        elif RANK[status] > RANK[self.state]:
            self.state = status
            if result is not None:
                self.result = result
        else:
            return False
        self.accepted_at = self.accepted_at or at
        return True


async def insert(connection: psycopg.AsyncConnection, values: Row) -> Row:
    """Store a command: device, name, params, actor, expires_s, timeout_s."""
    return (await many(connection, INSERT, {**values, "params": Jsonb(values["params"])}))[0]


async def status_of(connection: psycopg.AsyncConnection, device: str) -> str | None:
    """A device's status, held until the transaction ends; None for no device of this tenant."""
    status: str | None = await value(connection, STATUS, (device,))
    return status


async def open_of(connection: psycopg.AsyncConnection, device: str) -> int:
    """How many commands of a device have not ended."""
    return int(await value(connection, OPEN, (device,)))


async def page(
    connection: psycopg.AsyncConnection,
    device: str | None,
    states: Sequence[str] | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Row]:
    """Commands of the tenant, or of one of its devices, the newest first."""
    at, id_ = after or (None, None)
    return await many(
        connection,
        PAGE,
        {"device": device, "states": list(states) if states else None, "at": at, "id": id_, "limit": limit},
    )


async def one(connection: psycopg.AsyncConnection, id_: UUID) -> Row | None:
    """A command of this tenant."""
    return await first(connection, ONE, (id_,))


async def cancel(connection: psycopg.AsyncConnection, id_: UUID) -> bool:
    """End a command that no device has accepted; False if one has, or it has ended."""
    return (await connection.execute(CANCEL, (id_,))).rowcount == 1


async def due(connection: psycopg.AsyncConnection, limit: int, retry_queued_s: float, retry_sent_s: float) -> list[Due]:
    """Commands to send now, held until the transaction ends; none of a tenant that is stopped (call `stops.sending` first)."""
    cursor = await connection.execute(DUE, {"limit": limit, "queued": retry_queued_s, "sent": retry_sent_s})
    return [Due(*row) for row in await cursor.fetchall()]


async def sent(connection: psycopg.AsyncConnection, tried: Sequence[UUID], taken: Sequence[UUID]) -> None:
    """These were tried, and of these the broker had a subscriber."""
    await connection.execute(TRIED, (list(tried),))
    await connection.execute(SENT, (list(taken),))


async def end(connection: psycopg.AsyncConnection, grace_s: float) -> list[Row]:
    """End what has expired or timed out; as (id, tenant, device, name, state)."""
    return await many(connection, ENDED, {"grace": grace_s})


async def lock(connection: psycopg.AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Known]:
    """Commands by id, held until the transaction ends."""
    rows = await (await connection.execute(LOCK, (sorted(set(ids)),))).fetchall()
    return {row[0]: Known(*row) for row in rows}


async def answered(connection: psycopg.AsyncConnection, commands: Sequence[Known]) -> None:
    """Keep how far these got."""
    if commands:
        await connection.execute(
            ANSWERED,
            (
                [c.id for c in commands],
                [c.state for c in commands],
                [None if c.result is None else json.dumps(c.result) for c in commands],
                [c.accepted_at for c in commands],
                [c.finished_at for c in commands],
            ),
        )
