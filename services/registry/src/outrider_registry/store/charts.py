"""Saved charts: a person's own, or shared with the tenant."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.store.rows import Row, many, one, value

_SELECT: LiteralString = """
SELECT c.id, c.name, c.shared, c.definition, c.created_at, c.updated_at, c.version, c.owner AS owner_id, a.name AS owner
FROM registry.chart c LEFT JOIN registry.account a ON a.id = c.owner
WHERE c.tenant = current_setting('outrider.tenant') AND (c.shared OR c.owner = %(account)s)
"""
LIST: LiteralString = (
    _SELECT
    + """
AND (%(after_name)s::text IS NULL OR (lower(c.name), c.id) > (%(after_name)s, %(after_id)s::uuid))
ORDER BY lower(c.name), c.id LIMIT %(limit)s
"""
)
GET: LiteralString = _SELECT + "AND c.id = %(id)s"
LOCK: LiteralString = GET + " FOR UPDATE OF c"
COUNT: LiteralString = """
SELECT count(*) FROM registry.chart WHERE tenant = current_setting('outrider.tenant') AND owner = %s
"""
INSERT: LiteralString = """
INSERT INTO registry.chart (tenant, owner, name, shared, definition)
VALUES (current_setting('outrider.tenant'), %s, %s, %s, %s) RETURNING id
"""
UPDATE: LiteralString = """
UPDATE registry.chart SET name = %s, shared = %s, definition = %s, version = version + 1, updated_at = now() WHERE id = %s
"""
DELETE: LiteralString = "DELETE FROM registry.chart WHERE id = %s"


async def page(
    connection: psycopg.AsyncConnection, account: UUID, after: list[Any] | None, limit: int
) -> tuple[list[Row], list[Any] | None]:
    """Charts that this account may see, by name, and the key of the last one if there are more."""
    name, id_ = after or (None, None)
    values = {"account": account, "after_name": name, "after_id": id_, "limit": limit + 1}
    rows = await many(connection, LIST, values)
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, [rows[-1]["name"].lower(), str(rows[-1]["id"])] if more else None


async def get(connection: psycopg.AsyncConnection, account: UUID, id_: UUID, *, hold: bool = False) -> Row | None:
    """A chart that this account may see; held until the transaction ends."""
    return await one(connection, LOCK if hold else GET, {"account": account, "id": id_})


async def count(connection: psycopg.AsyncConnection, account: UUID) -> int:
    """How many charts this account has."""
    return int(await value(connection, COUNT, (account,)))


async def insert(
    connection: psycopg.AsyncConnection, account: UUID, name: str, shared: bool, definition: dict[str, Any]
) -> UUID:
    """Save a new chart; its id."""
    id_: UUID = await value(connection, INSERT, (account, name, shared, Jsonb(definition)))
    return id_


async def update(
    connection: psycopg.AsyncConnection, id_: UUID, name: str, shared: bool, definition: dict[str, Any]
) -> None:
    """Save a chart again."""
    await connection.execute(UPDATE, (name, shared, Jsonb(definition), id_))


async def delete(connection: psycopg.AsyncConnection, id_: UUID) -> None:
    """Throw a chart away."""
    await connection.execute(DELETE, (id_,))
