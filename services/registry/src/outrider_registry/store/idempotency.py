"""Requests with an Idempotency-Key and their answers."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

ABANDONED_S = 120
"""A first try that has not answered for so long died with its replica; the next one does it."""
# One statement decides who is first; a key older than a day, or of a try that died, is free again.
BEGIN = """
INSERT INTO registry.idempotency AS i (principal, key, tenant, request) VALUES (%(principal)s, %(key)s, %(tenant)s, %(request)s)
ON CONFLICT (principal, key) DO UPDATE SET request = excluded.request, status = NULL, body = NULL, created_at = now()
WHERE i.created_at < now() - interval '1 day'
   OR (i.status IS NULL AND i.request = excluded.request AND i.created_at < now() - %(abandoned)s * interval '1 second')
RETURNING key
"""
FIND = "SELECT request, status, headers, body FROM registry.idempotency WHERE principal = %s AND key = %s"
KEEP = """
UPDATE registry.idempotency SET status = %s, headers = %s, body = %s WHERE principal = %s AND key = %s
"""
FORGET = "DELETE FROM registry.idempotency WHERE principal = %s AND key = %s AND status IS NULL"


async def begin(
    connection: psycopg.AsyncConnection, principal: str, key: str, tenant: str | None, request: bytes
) -> dict[str, Any] | None:
    """None for the one that shall do it; else the row of whoever came first: `request`, `status` (None: still at work),
    `headers`, `body`."""
    arguments = {
        "principal": principal,
        "key": key,
        "tenant": tenant,
        "request": request,
        "abandoned": ABANDONED_S,
    }
    while True:
        if await (await connection.execute(BEGIN, arguments)).fetchone() is not None:
            return None
        async with connection.cursor(row_factory=dict_row) as cursor:
            row = await (await cursor.execute(FIND, (principal, key))).fetchone()
        if row is not None:  # None: the first one failed and freed the key in between
            return row


async def keep(
    connection: psycopg.AsyncConnection,
    principal: str,
    key: str,
    status: int,
    headers: dict[str, str],
    body: bytes,
) -> None:
    """The answer to give again."""
    await connection.execute(KEEP, (status, Jsonb(headers), body, principal, key))


async def forget(connection: psycopg.AsyncConnection, principal: str, key: str) -> None:
    """It did not succeed: the key is free."""
    await connection.execute(FORGET, (principal, key))
