"""Many devices in one statement each: those of an import, those the ledger knows already, their first secrets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import LiteralString

import orjson
import psycopg

from outrider.access.keys import KeyRing
from outrider_registry.store import credentials
from outrider_registry.store.credentials import Secret
from outrider_registry.store.rows import Row, many
from outrider_registry.store.views import available

_RECORD: LiteralString = """
jsonb_to_recordset(%(rows)s::jsonb) AS r(id text, name text, type text, tier text, tags text[], latitude float8,
    longitude float8, location text, firmware text, hardware text, serial text, owner text, gateway text, status text)
"""
EXISTING: LiteralString = """
SELECT id, name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial, owner, gateway, status
FROM registry.device WHERE id = ANY (%s) ORDER BY id FOR UPDATE
"""
INSERT: LiteralString = (
    """
INSERT INTO registry.device (id, tenant, name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial,
                             owner, gateway, status)
SELECT id, %(tenant)s, name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial, owner, gateway, status
FROM """
    + _RECORD
    + "ORDER BY id ON CONFLICT (id) DO NOTHING RETURNING id"
)
UPDATE: LiteralString = (
    """
UPDATE registry.device d
SET (name, type, tier, tags, latitude, longitude, location, firmware, hardware, serial, owner, gateway, status)
  = (r.name, r.type, r.tier, r.tags, r.latitude, r.longitude, r.location, r.firmware, r.hardware, r.serial, r.owner, r.gateway,
     r.status), version = d.version + 1, updated_at = now()
FROM """
    + _RECORD
    + "WHERE d.id = r.id"
)
PARENTS: LiteralString = "SELECT DISTINCT gateway FROM registry.device WHERE gateway = ANY (%s)"
# A device that has or had credentials keeps them: only a first secret is issued here.
NEVER_HAD: LiteralString = """
SELECT id FROM unnest(%s::text[]) AS id WHERE NOT EXISTS (SELECT FROM registry.credential c WHERE c.device = id)
"""
NEWEST: LiteralString = """
SELECT DISTINCT ON (device) device, generation, key_id FROM registry.credential
WHERE device = ANY (%s) AND kind = 'secret' AND state = 'active' ORDER BY device, generation DESC
"""
ADOPT_HEARD: LiteralString = """
INSERT INTO registry.device (id, tenant)
SELECT device, %(tenant)s FROM telemetry.tenant_seen WHERE tenant = %(tenant)s AND device ~ '^[a-z0-9][a-z0-9-]{0,62}$'
ORDER BY device ON CONFLICT (id) DO NOTHING RETURNING id
"""
ADOPT_MEASURED: LiteralString = """
INSERT INTO registry.device (id, tenant)
SELECT DISTINCT device, %(tenant)s FROM telemetry.tenant_series
WHERE tenant = %(tenant)s AND device ~ '^[a-z0-9][a-z0-9-]{0,62}$'
ORDER BY device ON CONFLICT (id) DO NOTHING RETURNING id
"""


async def existing(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> dict[str, Row]:
    """Those of the devices that the tenant has, held until the transaction ends."""
    return {row["id"]: row for row in await many(connection, EXISTING, (list(devices),))}


async def insert(connection: psycopg.AsyncConnection, tenant: str, rows: Sequence[Row]) -> set[str]:
    """Add devices; the ids that were free."""
    added = await many(connection, INSERT, {"tenant": tenant, "rows": _json(rows)})
    return {row["id"] for row in added}


async def update(connection: psycopg.AsyncConnection, rows: Sequence[Row]) -> None:
    """Set every column of devices that `existing` returned."""
    await connection.execute(UPDATE, {"rows": _json(rows)})


async def parents(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> set[str]:
    """Those of the devices that are somebody's gateway."""
    return {row["gateway"] for row in await many(connection, PARENTS, (list(devices),))}


async def adopt(connection: psycopg.AsyncConnection, tenant: str) -> list[str]:
    """Register every device that was heard or has samples under this tenant, and whose id is free; their ids, sorted."""
    adopted = await many(connection, ADOPT_HEARD, {"tenant": tenant})
    if await available(connection, "telemetry.tenant_series"):
        adopted += await many(connection, ADOPT_MEASURED, {"tenant": tenant})
    return sorted(row["id"] for row in adopted)


async def issue(
    connection: psycopg.AsyncConnection, devices: Sequence[str], keys: KeyRing, rotation: timedelta
) -> dict[str, Secret]:
    """Issue a first secret to those devices that never had credentials; device → secret."""
    new = [row["id"] for row in await many(connection, NEVER_HAD, (list(devices),))]
    issued = await credentials.issue_many(connection, keys, new, rotation / timedelta(days=1))
    return {secret.device: secret for secret in issued}


async def newest(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> dict[str, Row]:
    """Of each device its active secret's generation and key id."""
    return {row["device"]: row for row in await many(connection, NEWEST, (list(devices),))}


def _json(rows: Sequence[Row]) -> str:
    return orjson.dumps(rows).decode()
