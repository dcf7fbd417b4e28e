"""Tenants."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

_COLUMNS = """
SELECT t.name, t.title, t.created_at, t.disabled_at, t.version,
       (SELECT count(*) FROM registry.device d WHERE d.tenant = t.name) AS devices,
       (SELECT count(*) FROM registry.account a WHERE a.tenant = t.name) AS users
FROM registry.tenant t
"""
LIST = _COLUMNS + "WHERE %(after)s::text IS NULL OR t.name > %(after)s ORDER BY t.name LIMIT %(limit)s"
GET = _COLUMNS + "WHERE t.name = %s"
LOCK = "SELECT version FROM registry.tenant WHERE name = %s FOR UPDATE"
ADD = "INSERT INTO registry.tenant (name, title) VALUES (%s, %s)"
ENSURE = "INSERT INTO registry.tenant (name, title) VALUES (%s, %s) ON CONFLICT DO NOTHING"
CHANGE = """
UPDATE registry.tenant SET title = coalesce(%(title)s, title), version = version + 1,
    disabled_at = CASE %(disabled)s::boolean WHEN true THEN coalesce(disabled_at, now()) WHEN false THEN NULL ELSE disabled_at END
WHERE name = %(name)s
"""
# What a tenant without people and devices may still have, and nobody misses.
CLEAR = (
    "DELETE FROM registry.claim WHERE tenant = %s",
    "DELETE FROM registry.metric WHERE tenant = %s",
    "DELETE FROM registry.chart WHERE tenant = %s",
    "DELETE FROM registry.configuration WHERE tenant = %s",
    "DELETE FROM registry.configuration_key WHERE tenant = %s",
    "DELETE FROM registry.emergency_stop WHERE tenant = %s",
    "DELETE FROM registry.idempotency WHERE tenant = %s",
)
REMOVE = "DELETE FROM registry.tenant WHERE name = %s"


async def listed(connection: psycopg.AsyncConnection, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Tenants by name, with the number of their devices and people."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(LIST, {"after": after, "limit": limit})
        return await cursor.fetchall()


async def get(connection: psycopg.AsyncConnection, name: str) -> dict[str, Any] | None:
    """One tenant."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(GET, (name,))).fetchone()


async def lock(connection: psycopg.AsyncConnection, name: str) -> int | None:
    """Its version; nobody changes it until the transaction ends."""
    row = await (await connection.execute(LOCK, (name,))).fetchone()
    return row[0] if row else None


async def add(connection: psycopg.AsyncConnection, name: str, title: str) -> None:
    """A new tenant. Raises UniqueViolation."""
    await connection.execute(ADD, (name, title))


async def ensure(connection: psycopg.AsyncConnection, name: str, title: str) -> bool:
    """Make it if it is not there; True if it was made."""
    return (await connection.execute(ENSURE, (name, title))).rowcount > 0


async def change(
    connection: psycopg.AsyncConnection, name: str, *, title: str | None = None, disabled: bool | None = None
) -> None:
    """Another title, or disabled or enabled; None leaves it."""
    await connection.execute(CHANGE, {"name": name, "title": title, "disabled": disabled})


async def remove(connection: psycopg.AsyncConnection, name: str) -> None:
    """Delete a tenant without people and devices. Raises ForeignKeyViolation for another one."""
    for statement in CLEAR:
        await connection.execute(statement.encode(), (name,))
    await connection.execute(REMOVE, (name,))
