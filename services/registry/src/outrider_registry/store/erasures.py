"""Erasures: asked for here, in the transaction that forgets the device or account; carried out by lifecycle."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from outrider_registry.store.rows import Row, many, one, value
from outrider_registry.store.views import available

VIEW = "lifecycle.tenant_erasure"
COLUMNS: LiteralString = """
SELECT id, kind, subject, parent, tombstone, state, problem, requested_at, finished_at, report FROM lifecycle.tenant_erasure
"""
PAGE: LiteralString = (
    COLUMNS
    + """
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(at)s::timestamptz IS NULL OR (requested_at, id) < (%(at)s, %(id)s::uuid))
ORDER BY requested_at DESC, id DESC LIMIT %(limit)s
"""
)
ONE: LiteralString = COLUMNS + "WHERE id = %(id)s AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)"
REQUEST: LiteralString = "SELECT lifecycle.tenant_request_erasure(%s, %s, %s, %s, %s, %s)"
ERASE_DEVICE: LiteralString = "SELECT registry.erase_device(%s, %s)"
ERASE_PERSON: LiteralString = "SELECT registry.erase_person(%s, %s)"
OPEN: LiteralString = """
SELECT id FROM lifecycle.tenant_erasure WHERE (tenant, kind, subject) = (%s, %s, %s) AND state <> 'done'
"""
ERASED: LiteralString = "SELECT EXISTS (SELECT FROM runtime.erased(ARRAY[%s]))"
LIFT: LiteralString = "SELECT lifecycle.lift_tombstone(%s)"
OWNER: LiteralString = "SELECT tenant FROM registry.device WHERE id = %s FOR UPDATE"
OWNED: LiteralString = "SELECT id FROM registry.device WHERE tenant = %s AND owner = %s ORDER BY id FOR UPDATE"
TAKEN: LiteralString = "SELECT registry.is_registered(%s)"
MEASURED: LiteralString = "SELECT EXISTS (SELECT FROM telemetry.tenant_series WHERE (tenant, device) = (%s, %s))"
HEARD: LiteralString = "SELECT EXISTS (SELECT FROM telemetry.tenant_seen WHERE (tenant, device) = (%s, %s))"


async def can(connection: psycopg.AsyncConnection) -> bool:
    """True where lifecycle is installed, which carries erasures out."""
    return await available(connection, VIEW)


async def page(
    connection: psycopg.AsyncConnection, tenant: str | None, after: list[Any] | None, limit: int
) -> tuple[list[Row], list[Any] | None]:
    """Erasures, the newest first, and the key of the last one if there are more."""
    at, id_ = after or (None, None)
    rows = await many(connection, PAGE, {"tenant": tenant, "at": at, "id": id_, "limit": limit + 1})
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, [rows[-1]["requested_at"].isoformat(), str(rows[-1]["id"])] if more else None


async def get(connection: psycopg.AsyncConnection, tenant: str | None, id_: UUID) -> Row | None:
    """One erasure."""
    return await one(connection, ONE, {"tenant": tenant, "id": id_})


async def open_one(connection: psycopg.AsyncConnection, tenant: str, kind: str, subject: str) -> UUID | None:
    """The erasure of the same subject that is not done yet."""
    found: UUID | None = await value(connection, OPEN, (tenant, kind, subject))
    return found


async def erase_device(
    connection: psycopg.AsyncConnection, tenant: str, device: str, parent: UUID | None = None
) -> UUID:
    """Forget a device of this tenant and have it erased everywhere, with a tombstone unless another tenant has the id."""
    found = await value(connection, ERASE_DEVICE, (tenant, device))
    tombstone = not await value(connection, TAKEN, (device,))
    id_: UUID = await value(connection, REQUEST, (tenant, "device", device, parent, tombstone, Jsonb(found)))
    return id_


async def erase_person(connection: psycopg.AsyncConnection, tenant: str, name: str) -> UUID:
    """Forget a person of this tenant (`-`: an administrator of the platform) and have them erased everywhere."""
    found = await value(connection, ERASE_PERSON, (tenant, name))
    id_: UUID = await value(connection, REQUEST, (tenant, "person", name, None, False, Jsonb(found)))
    return id_


async def owned(connection: psycopg.AsyncConnection, tenant: str, name: str) -> list[str]:
    """Devices whose owner this is, held until the transaction ends."""
    return [row["id"] for row in await many(connection, OWNED, (tenant, name))]


async def is_known(connection: psycopg.AsyncConnection, tenant: str, device: str) -> bool:
    """True if this tenant has the device, or has data of it; a registered one is held until the transaction ends."""
    if await value(connection, OWNER, (device,)) == tenant:
        return True
    if await value(connection, HEARD, (tenant, device)):
        return True
    return await available(connection, "telemetry.tenant_series") and bool(
        await value(connection, MEASURED, (tenant, device))
    )


async def is_erased(connection: psycopg.AsyncConnection, device: str) -> bool:
    """True if the id is that of an erased device."""
    return bool(await value(connection, ERASED, (device,)))


async def lift(connection: psycopg.AsyncConnection, device: str) -> bool:
    """Free the id of an erased device; False where it is not one. The transaction must be the platform's.

    Raises psycopg.errors.ObjectInUse while it is still being erased.
    """
    return bool(await value(connection, LIFT, (device,)))
