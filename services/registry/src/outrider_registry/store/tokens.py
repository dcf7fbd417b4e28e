"""API tokens. Only SHA-256 of their random values is stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row

from outrider_registry.store.sessions import Found

FIND = """
SELECT k.account, a.name, a.tenant, a.role, NULL::text AS acting_in, NULL::bytea AS session, k.id AS token, k.scopes,
       CASE WHEN a.disabled_at IS NOT NULL THEN 'The account of this token is disabled. Ask an administrator.'
            WHEN t.disabled_at IS NOT NULL THEN 'The tenant is disabled. Ask an administrator of the platform.' END AS refused,
       coalesce(k.last_used_at < now() - interval '1 minute', true) AS stale
FROM registry.token k JOIN registry.account a ON a.id = k.account LEFT JOIN registry.tenant t ON t.name = a.tenant
WHERE k.hash = %s AND k.expires_at > now() AND k.revoked_at IS NULL
"""
USED = "UPDATE registry.token SET last_used_at = now() WHERE hash = %s"
_COLUMNS = """
SELECT k.id, k.account, k.name, a.name AS owner, a.role AS owner_role, a.tenant AS owner_tenant, k.scopes,
       k.created_at, k.expires_at, k.last_used_at, k.revoked_at
FROM registry.token k JOIN registry.account a ON a.id = k.account
"""
LIST = (
    _COLUMNS
    + """
WHERE (%(account)s::uuid IS NULL OR k.account = %(account)s)
  AND (%(before)s::timestamptz IS NULL OR (k.created_at, k.id) < (%(before)s::timestamptz, %(id)s::uuid))
ORDER BY k.created_at DESC, k.id DESC LIMIT %(limit)s
"""
)
GET = _COLUMNS + "WHERE k.id = %s"
ADD = """
INSERT INTO registry.token (account, tenant, name, hash, scopes, expires_at)
SELECT id, tenant, %(name)s, %(hash)s, %(scopes)s, now() + %(days)s * interval '1 day'
FROM registry.account WHERE id = %(account)s RETURNING id
"""
KEEP = """
INSERT INTO registry.token (account, tenant, name, hash, scopes, expires_at)
SELECT id, tenant, %(name)s, %(hash)s, %(scopes)s, now() + %(days)s * interval '1 day'
FROM registry.account WHERE id = %(account)s
ON CONFLICT (hash) DO UPDATE SET expires_at = excluded.expires_at, scopes = excluded.scopes, revoked_at = NULL
"""
END_OTHERS_NAMED = """
UPDATE registry.token SET revoked_at = now()
WHERE account = %s AND name = %s AND hash <> %s AND revoked_at IS NULL
"""
COUNT = "SELECT count(*) FROM registry.token WHERE account = %s AND revoked_at IS NULL AND expires_at > now()"
END = "UPDATE registry.token SET revoked_at = now() WHERE id = %s AND revoked_at IS NULL"


async def find(connection: psycopg.AsyncConnection, hash_: bytes) -> Found | None:
    """Whose token this is; notes the use, at most once a minute. None for one that is unknown, over or revoked."""
    async with connection.cursor(row_factory=class_row(Found)) as cursor:
        found = await (await cursor.execute(FIND, (hash_,))).fetchone()
    if found is not None and found.stale:
        await connection.execute(USED, (hash_,))
    return found


async def listed(
    connection: psycopg.AsyncConnection, account: UUID | None, after: tuple[Any, Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Tokens of an account, or of everybody the transaction sees, the newest first."""
    before, id_ = after or (None, None)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(LIST, {"account": account, "before": before, "id": id_, "limit": limit})
        return await cursor.fetchall()


async def get(connection: psycopg.AsyncConnection, id_: UUID) -> dict[str, Any] | None:
    """One token with its owner."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(GET, (id_,))).fetchone()


async def add(
    connection: psycopg.AsyncConnection, account: UUID, name: str, hash_: bytes, scopes: Iterable[str], days: float
) -> UUID:
    """A new token; returns its id."""
    arguments = {"account": account, "name": name, "hash": hash_, "scopes": sorted(scopes), "days": days}
    row = await (await connection.execute(ADD, arguments)).fetchone()
    if row is None:
        raise LookupError(account)
    id_: UUID = row[0]
    return id_


async def keep(
    connection: psycopg.AsyncConnection, account: UUID, name: str, hash_: bytes, scopes: Iterable[str], days: float
) -> None:
    """Make sure that this token exists and ends in so many days; others of its owner with its name end."""
    arguments = {"account": account, "name": name, "hash": hash_, "scopes": sorted(scopes), "days": days}
    await connection.execute(KEEP, arguments)
    await connection.execute(END_OTHERS_NAMED, (account, name, hash_))


async def end(connection: psycopg.AsyncConnection, id_: UUID) -> bool:
    """End a token; False for one that has ended."""
    return (await connection.execute(END, (id_,))).rowcount > 0


async def count(connection: psycopg.AsyncConnection, account: UUID) -> int:
    """How many tokens of an account have not ended."""
    row = await (await connection.execute(COUNT, (account,))).fetchone()
    return int(row[0]) if row else 0
