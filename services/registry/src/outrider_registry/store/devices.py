"""Devices: the fleet list a page at a time, one device, its changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg

from outrider_registry.store.rows import Row, many, one, value

COLUMNS: LiteralString = (
    """id, name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial, owner, gateway, status"""
)
"""What people and devices' claims say of a device; the rest is kept by the registry itself."""
JOINS: LiteralString = """
LEFT JOIN registry.presence p ON p.device = d.id
LEFT JOIN telemetry.tenant_seen s ON s.device = d.id AND s.tenant = d.tenant
"""
WHERE: LiteralString = "WHERE d.tenant = current_setting('outrider.tenant')\n"
FROM: LiteralString = "\nFROM registry.device d" + JOINS + WHERE
SEEN_AT: LiteralString = "greatest(p.seen_at, s.seen_at)"
SELECT: LiteralString = (
    """
SELECT d.id, d.name, d.type, d.tier, d.tags, d.latitude, d.longitude, d.location, d.firmware, d.hardware, d.serial,
       d.owner, d.gateway, d.status, d.created_at, d.updated_at, d.version, coalesce(p.state, 'unknown') AS state,
       p.since, coalesce(p.reason, '') AS reason, coalesce(p.boots, 0) AS boots,
       coalesce(p.firmware, '') AS reported_firmware, coalesce(p.tier, '') AS reported_tier, """
    + SEEN_AT
    + " AS seen_at"
)
ONE: LiteralString = SELECT + FROM + "AND d.id = %s"
LOCK: LiteralString = "SELECT " + COLUMNS + ", version FROM registry.device WHERE id = %s FOR UPDATE"
INSERT: LiteralString = """
INSERT INTO registry.device (id, tenant, name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial,
                             owner, gateway, status)
VALUES (%(id)s, %(tenant)s, %(name)s, %(type)s, %(tier)s, %(tags)s, %(latitude)s, %(longitude)s, %(location)s, %(firmware)s,
        %(hardware)s, %(serial)s, %(owner)s, %(gateway)s, %(status)s)
ON CONFLICT (id) DO NOTHING RETURNING version
"""
UPDATE: LiteralString = """
UPDATE registry.device
SET (name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial, owner, gateway, status)
  = (%(name)s, %(type)s, %(tier)s, %(tags)s, %(latitude)s, %(longitude)s, %(location)s, %(firmware)s, %(hardware)s,
     %(serial)s, %(owner)s, %(gateway)s, %(status)s), version = version + 1, updated_at = now()
WHERE id = %(id)s RETURNING version
"""
CHILDREN: LiteralString = "SELECT count(*) FROM registry.device WHERE gateway = %s"
# Locked, so that a gateway does not become a child itself, or go, before this transaction ends.
GATEWAYS: LiteralString = "SELECT id, gateway FROM registry.device WHERE id = ANY (%s) ORDER BY id FOR SHARE"
DELETE_EVENTS: LiteralString = "DELETE FROM registry.presence_event WHERE device = %s"
DELETE: LiteralString = "DELETE FROM registry.device WHERE id = %s"
EXISTS: LiteralString = "SELECT EXISTS (SELECT FROM registry.device WHERE id = %s)"
TAGS: LiteralString = """
SELECT tag AS name, count(*) FROM registry.device, unnest(tags) tag
WHERE tenant = current_setting('outrider.tenant') GROUP BY tag ORDER BY tag
"""
TYPES: LiteralString = """
SELECT type AS name, count(*) FROM registry.device
WHERE tenant = current_setting('outrider.tenant') AND type <> '' GROUP BY type ORDER BY type
"""

SORTS: dict[str, tuple[LiteralString, LiteralString]] = {
    "id": ("d.id", "text"),
    "name": ("lower(coalesce(nullif(d.name, ''), d.id))", "text"),
    "presence": ("coalesce(p.state, 'unknown')", "text"),
    "seen_at": ("coalesce((extract(epoch FROM " + SEEN_AT + ") * 1000000)::bigint, 0)", "bigint"),
}
"""What a list can be sorted by: expression and type of its key; the device's id comes second."""

OWN_SORTS = ("id", "name")
"""Those that need nothing but the device."""

MERGED_FROM = ("type", "tier", "tags")
"""What a device's configurations are chosen by: a change of it changes the desired state."""


@dataclass(frozen=True)
class Filter:
    """Which devices; what is empty does not narrow."""

    words: Sequence[str] = ()
    """Patterns for ILIKE; each must be found in id, name, serial number or tags."""
    tags: Sequence[str] = ()
    equal: dict[str, str] = field(default_factory=dict)
    """type, tier, status, gateway or presence."""

    def sql(self) -> tuple[LiteralString, dict[str, Any]]:
        """More conditions for FROM, with their parameters."""
        text: LiteralString = ""
        values: dict[str, Any] = {}
        if self.tags:
            text += " AND d.tags @> %(tags)s::text[]"
            values["tags"] = list(self.tags)
        if self.words:
            text += (
                """ AND concat_ws(' ', d.id, d.name, d.serial, array_to_string(d.tags, ' ')) ILIKE ALL (%(words)s)"""
            )
            values["words"] = list(self.words)
        for name, wanted in self.equal.items():
            text += _EQUAL[name]
            values[name] = wanted
        return text, values


_EQUAL: dict[str, LiteralString] = {
    "type": " AND d.type = %(type)s",
    "tier": " AND d.tier = %(tier)s",
    "status": " AND d.status = %(status)s",
    "gateway": " AND d.gateway = %(gateway)s",
    "presence": " AND coalesce(p.state, 'unknown') = %(presence)s",
}


async def page(
    connection: psycopg.AsyncConnection,
    filter_: Filter,
    sort: str,
    descending: bool,
    after: list[Any] | None,
    limit: int,
) -> tuple[list[Row], list[Any] | None]:
    """Devices in order, and the key of the last one if there are more.

    Raises KeyError for an unknown sort, psycopg.DataError for a key of another sort.
    """
    key, type_ = SORTS[sort]
    conditions, values = filter_.sql()
    direction: LiteralString = "DESC" if descending else "ASC"
    order: LiteralString = " ORDER BY " + key + " " + direction + ", d.id " + direction
    if after is not None:
        compared: LiteralString = "<" if descending else ">"
        conditions += " AND (" + key + ", d.id) " + compared + " (%(after_key)s::" + type_ + ", %(after_id)s)"
        values |= {"after_key": after[0], "after_id": after[1]}
    statement: LiteralString = SELECT + ", " + key + " AS sort_key"
    if sort in OWN_SORTS and "presence" not in filter_.equal:  # only those of the page are joined then
        chosen: LiteralString = "SELECT d.* FROM registry.device d " + WHERE + conditions + order + " LIMIT %(limit)s"
        statement += " FROM (" + chosen + ") d" + JOINS + order
    else:
        statement += FROM + conditions + order + " LIMIT %(limit)s"
    rows = await many(connection, statement, values | {"limit": limit + 1})
    more = len(rows) > limit
    rows = rows[:limit]
    last = [rows[-1]["sort_key"], rows[-1]["id"]] if more else None
    return rows, last


async def count(connection: psycopg.AsyncConnection, filter_: Filter) -> int:
    """How many devices these are."""
    conditions, values = filter_.sql()
    source: LiteralString = FROM
    if "presence" not in filter_.equal:
        source = " FROM registry.device d " + WHERE
    return int(await value(connection, "SELECT count(*)" + source + conditions, values))


async def get(connection: psycopg.AsyncConnection, device: str) -> Row | None:
    """A device with its presence."""
    return await one(connection, ONE, (device,))


async def lock(connection: psycopg.AsyncConnection, device: str) -> Row | None:
    """A device's COLUMNS and version, held until the transaction ends."""
    return await one(connection, LOCK, (device,))


async def insert(connection: psycopg.AsyncConnection, tenant: str, values: Row) -> bool:
    """Add a device of all COLUMNS; False if the id is taken, by whomever."""
    return await value(connection, INSERT, {"tenant": tenant, **values}) is not None


async def update(connection: psycopg.AsyncConnection, values: Row) -> int:
    """Set all COLUMNS of a device; its new version."""
    return int(await value(connection, UPDATE, values))


async def gateways(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> dict[str, str | None]:
    """Of those of the devices that exist, the gateway of each; they are held until the transaction ends."""
    rows = await many(connection, GATEWAYS, (list(devices),))
    return {row["id"]: row["gateway"] for row in rows}


async def children(connection: psycopg.AsyncConnection, device: str) -> int:
    """How many devices this one publishes for."""
    return int(await value(connection, CHILDREN, (device,)))


async def delete(connection: psycopg.AsyncConnection, device: str) -> None:
    """Remove a device with everything the registry keeps of it, except the audit."""
    await connection.execute(DELETE_EVENTS, (device,))
    await connection.execute(DELETE, (device,))


async def exists(connection: psycopg.AsyncConnection, device: str) -> bool:
    """True if the tenant has this device."""
    return bool(await value(connection, EXISTS, (device,)))


async def tags(connection: psycopg.AsyncConnection) -> list[Row]:
    """Every tag with how many devices have it."""
    return await many(connection, TAGS)


async def types(connection: psycopg.AsyncConnection) -> list[Row]:
    """Every type with how many devices are of it."""
    return await many(connection, TYPES)
