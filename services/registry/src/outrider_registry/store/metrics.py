"""The metric catalogue: what a tenant says of its metrics, and which ones its devices send."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from outrider_registry.store.rows import Row, many, one, value
from outrider_registry.store.views import available

CATALOGUE: LiteralString = """
SELECT name, kind, unit, description, version FROM registry.metric
WHERE tenant = current_setting('outrider.tenant') ORDER BY name
"""
GET: LiteralString = """
SELECT name, kind, unit, description, version FROM registry.metric
WHERE tenant = current_setting('outrider.tenant') AND name = %s FOR UPDATE
"""
PUT: LiteralString = """
INSERT INTO registry.metric AS m (tenant, name, kind, unit, description)
VALUES (current_setting('outrider.tenant'), %(name)s, %(kind)s, %(unit)s, %(description)s)
ON CONFLICT (tenant, name) DO UPDATE
    SET kind = excluded.kind, unit = excluded.unit, description = excluded.description, version = m.version + 1
RETURNING name, kind, unit, description, version
"""
SEEN: LiteralString = """
SELECT metric AS name, min(kind) AS kind FROM telemetry.tenant_series
WHERE tenant = current_setting('outrider.tenant') GROUP BY metric
"""
SEEN_ONE: LiteralString = """
SELECT EXISTS (SELECT FROM telemetry.tenant_series WHERE tenant = current_setting('outrider.tenant') AND metric = %s)
"""


async def catalogue(connection: psycopg.AsyncConnection) -> list[Row]:
    """What is said of metrics, by name."""
    return await many(connection, CATALOGUE)


async def seen(connection: psycopg.AsyncConnection) -> dict[str, str]:
    """Metrics that devices have sent, with a kind of each."""
    if not await available(connection, "telemetry.tenant_series"):
        return {}
    return {row["name"]: row["kind"] for row in await many(connection, SEEN)}


async def is_seen(connection: psycopg.AsyncConnection, name: str) -> bool:
    """True if some device has sent this metric."""
    return await available(connection, "telemetry.tenant_series") and bool(await value(connection, SEEN_ONE, (name,)))


async def get(connection: psycopg.AsyncConnection, name: str) -> Row | None:
    """What is said of a metric; held until the transaction ends."""
    return await one(connection, GET, (name,))


async def put(connection: psycopg.AsyncConnection, values: Row) -> Row:
    """Say it."""
    row = await one(connection, PUT, values)
    assert row is not None
    return row
