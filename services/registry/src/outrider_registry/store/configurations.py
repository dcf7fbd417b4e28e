"""Configurations and typed keys of a tenant."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.merge import Configuration, Key
from outrider_registry.store.rows import Row, many

OF_TENANT: LiteralString = """
SELECT name, applies_to, selector, priority, state FROM registry.configuration WHERE tenant = %s
"""
COLUMNS: LiteralString = "name, applies_to, selector, priority, state, version, updated_at"
ALL: LiteralString = (
    "SELECT " + COLUMNS + " FROM registry.configuration WHERE tenant = current_setting('outrider.tenant')"
)
ONE: LiteralString = (
    "SELECT " + COLUMNS + " FROM registry.configuration WHERE tenant = current_setting('outrider.tenant') AND name = %s"
)
PUT: LiteralString = (
    """
INSERT INTO registry.configuration AS c (tenant, name, applies_to, selector, priority, state)
VALUES (current_setting('outrider.tenant'), %(name)s, %(applies_to)s, %(selector)s, %(priority)s, %(state)s)
ON CONFLICT (tenant, name) DO UPDATE
SET applies_to = EXCLUDED.applies_to, selector = EXCLUDED.selector, priority = EXCLUDED.priority, state = EXCLUDED.state,
    version = c.version + 1, updated_at = now()
RETURNING """
    + COLUMNS
)
DELETE: LiteralString = (
    "DELETE FROM registry.configuration WHERE tenant = current_setting('outrider.tenant') AND name = %s"
)
COUNT: LiteralString = "SELECT count(*) FROM registry.configuration WHERE tenant = current_setting('outrider.tenant')"
MATCHING: LiteralString = """
SELECT id FROM registry.device
WHERE tenant = current_setting('outrider.tenant')
  AND CASE %(applies_to)s WHEN 'all' THEN true WHEN 'type' THEN type = %(selector)s WHEN 'tier' THEN tier = %(selector)s
      ELSE tags @> ARRAY[%(selector)s] END
"""
KEY_COLUMNS: LiteralString = "key, type, minimum, maximum, choices, unit, description, version"
KEYS_OF: LiteralString = (
    "SELECT key, type, minimum, maximum, choices, unit FROM registry.configuration_key WHERE tenant = %s"
)
ALL_KEYS: LiteralString = (
    "SELECT "
    + KEY_COLUMNS
    + " FROM registry.configuration_key WHERE tenant = current_setting('outrider.tenant') ORDER BY key"
)
ONE_KEY: LiteralString = (
    "SELECT "
    + KEY_COLUMNS
    + " FROM registry.configuration_key WHERE tenant = current_setting('outrider.tenant') AND key = %s"
)
PUT_KEY: LiteralString = (
    """
INSERT INTO registry.configuration_key AS k (tenant, key, type, minimum, maximum, choices, unit, description)
VALUES (current_setting('outrider.tenant'), %(key)s, %(type)s, %(minimum)s, %(maximum)s, %(choices)s, %(unit)s,
        %(description)s)
ON CONFLICT (tenant, key) DO UPDATE
SET type = EXCLUDED.type, minimum = EXCLUDED.minimum, maximum = EXCLUDED.maximum, choices = EXCLUDED.choices,
    unit = EXCLUDED.unit, description = EXCLUDED.description, version = k.version + 1
RETURNING """
    + KEY_COLUMNS
)
DELETE_KEY: LiteralString = (
    "DELETE FROM registry.configuration_key WHERE tenant = current_setting('outrider.tenant') AND key = %s"
)
# Where a key has a value: in configurations, and among devices' own wishes.
USES: LiteralString = """
SELECT 'configuration ' || name, state -> %(key)s FROM registry.configuration
WHERE tenant = current_setting('outrider.tenant') AND state ? %(key)s
UNION ALL
SELECT 'device ' || device, overrides -> %(key)s FROM registry.shadow
WHERE tenant = current_setting('outrider.tenant') AND overrides ? %(key)s
"""


async def all_of(connection: psycopg.AsyncConnection, tenant: str) -> list[Configuration]:
    """Every configuration of a tenant."""
    return [Configuration(*row) for row in await (await connection.execute(OF_TENANT, (tenant,))).fetchall()]


async def keys_of(connection: psycopg.AsyncConnection, tenant: str) -> dict[str, Key]:
    """The typed keys of a tenant, by name."""
    rows = await (await connection.execute(KEYS_OF, (tenant,))).fetchall()
    return {row[0]: Key(*row) for row in rows}


async def all_rows(connection: psycopg.AsyncConnection) -> list[Row]:
    """The tenant's configurations, with version and time."""
    return await many(connection, ALL)


async def count(connection: psycopg.AsyncConnection) -> int:
    """How many configurations the tenant has."""
    row = await (await connection.execute(COUNT)).fetchone()
    return int(row[0]) if row else 0


async def one(connection: psycopg.AsyncConnection, name: str) -> Row | None:
    """A configuration."""
    return next(iter(await many(connection, ONE, (name,))), None)


async def put(connection: psycopg.AsyncConnection, values: Row) -> Row:
    """Make or replace a configuration; as it is now. Hold `shadows.lock` before, `shadows.recompute` after."""
    return (await many(connection, PUT, {**values, "state": Jsonb(values["state"])}))[0]


async def delete(connection: psycopg.AsyncConnection, name: str) -> None:
    """Remove a configuration. Hold `shadows.lock` before, `shadows.recompute` after."""
    await connection.execute(DELETE, (name,))


async def matching(connection: psycopg.AsyncConnection, applies_to: str, selector: str) -> set[str]:
    """Devices that a configuration with this selector applies to."""
    cursor = await connection.execute(MATCHING, {"applies_to": applies_to, "selector": selector})
    return {device for (device,) in await cursor.fetchall()}


async def all_keys(connection: psycopg.AsyncConnection) -> list[Row]:
    """The tenant's typed keys."""
    return await many(connection, ALL_KEYS)


async def one_key(connection: psycopg.AsyncConnection, key: str) -> Row | None:
    """A typed key."""
    return next(iter(await many(connection, ONE_KEY, (key,))), None)


async def put_key(connection: psycopg.AsyncConnection, values: Row) -> Row:
    """Make or replace a typed key; as it is now."""
    choices = values["choices"]
    return (await many(connection, PUT_KEY, {**values, "choices": None if choices is None else Jsonb(choices)}))[0]


async def delete_key(connection: psycopg.AsyncConnection, key: str) -> None:
    """Let a key hold anything again."""
    await connection.execute(DELETE_KEY, (key,))


async def uses(connection: psycopg.AsyncConnection, key: str) -> list[tuple[str, Any]]:
    """Where a key has a value, in words, and the value."""
    return [(where, value) for where, value in await (await connection.execute(USES, {"key": key})).fetchall()]
