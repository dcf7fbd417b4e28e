"""Rejected messages of a tenant: kept by the runtime, looked at, marked and removed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from outrider.runtime.replay import TOPICS, Kept
from outrider_registry.store.rows import Row, many, one, value

COLUMNS: LiteralString = """
SELECT id, device, stream, boot, seq, reason, detail, topic, length(payload) AS bytes, digest, service, received_at,
       rejected_at, replayed_at
"""
FROM: LiteralString = """
FROM rejected.tenant_message WHERE tenant = current_setting('outrider.tenant')
"""
ONE: LiteralString = COLUMNS + ", payload" + FROM + "AND id = %s"
COUNT: LiteralString = "SELECT reason, count(*) AS count" + FROM
KEPT: LiteralString = (
    "SELECT id, topic, payload, (extract(epoch FROM received_at) * 1000)::bigint AS received_ms"
    + FROM
    + "AND id = ANY (%s) ORDER BY id"
)
MARK: LiteralString = "SELECT rejected.tenant_mark_replayed(%s)"
PURGE: LiteralString = "SELECT rejected.tenant_purge(%s)"
REPLAYABLE = ["^" + template.filter().replace("+", "[^/]+") + "$" for template in TOPICS]
"""As regular expressions."""


@dataclass(frozen=True)
class Filter:
    """Which messages; None does not narrow."""

    reason: str | None = None
    device: str | None = None
    replayed: bool | None = None
    replayable: bool = False
    """Only of topics that are sent again (`outrider.runtime.replay`), under the tenant's own name."""

    def sql(self) -> tuple[LiteralString, dict[str, Any]]:
        """More conditions for FROM, with their parameters."""
        text: LiteralString = ""
        values: dict[str, Any] = {}
        if self.reason is not None:
            text += " AND reason = %(reason)s"
            values["reason"] = self.reason
        if self.device is not None:
            text += " AND device = %(device)s"
            values["device"] = self.device
        if self.replayed is not None:
            text += " AND replayed_at IS NOT NULL" if self.replayed else " AND replayed_at IS NULL"
        if self.replayable:
            text += " AND topic ~ ANY (%(topics)s) AND split_part(topic, '/', 3) = tenant"
            values["topics"] = REPLAYABLE
        return text, values


async def page(
    connection: psycopg.AsyncConnection, filter_: Filter, before: int | None, limit: int
) -> tuple[list[Row], list[Any] | None]:
    """Messages newest first, and the id of the last one if there are more."""
    conditions, values = filter_.sql()
    statement: LiteralString = COLUMNS + FROM + conditions
    if before is not None:
        statement += " AND id < %(before)s"
        values["before"] = before
    rows = await many(connection, statement + " ORDER BY id DESC LIMIT %(limit)s", values | {"limit": limit + 1})
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, [rows[-1]["id"]] if more else None


async def count(connection: psycopg.AsyncConnection, filter_: Filter) -> dict[str, int]:
    """How many there are of each reason."""
    conditions, values = filter_.sql()
    rows = await many(connection, COUNT + conditions + " GROUP BY reason ORDER BY count(*) DESC, reason", values)
    return {row["reason"]: row["count"] for row in rows}


async def get(connection: psycopg.AsyncConnection, id_: int) -> Row | None:
    """One message with its payload."""
    return await one(connection, ONE, (id_,))


async def choose(connection: psycopg.AsyncConnection, filter_: Filter, limit: int) -> list[tuple[int, str]]:
    """(id, topic) of the oldest such messages."""
    conditions, values = filter_.sql()
    statement: LiteralString = "SELECT id, topic" + FROM + conditions + " ORDER BY id LIMIT %(limit)s"
    cursor = await connection.execute(statement, values | {"limit": limit})
    return await cursor.fetchall()


async def kept(connection: psycopg.AsyncConnection, ids: Sequence[int]) -> list[Kept]:
    """Those of the messages that there are, as they can be sent again."""
    return [Kept(**row) for row in await many(connection, KEPT, (list(ids),))]


async def mark_replayed(connection: psycopg.AsyncConnection, ids: Sequence[int]) -> None:
    """Note that they were sent again."""
    await connection.execute(MARK, (list(ids),))


async def purge(connection: psycopg.AsyncConnection, ids: Sequence[int]) -> int:
    """Remove messages for good; how many there were."""
    return int(await value(connection, PURGE, (list(ids),)))
