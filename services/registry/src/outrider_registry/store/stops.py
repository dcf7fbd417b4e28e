"""Emergency stops: while one stands, nothing starts. A sender holds the brake open while it sends; a stop waits for that."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

PLATFORM = "*"
LOCK = 7_305_413
SENDING: LiteralString = "SELECT pg_advisory_xact_lock_shared(%s)"
STOPPING: LiteralString = "SELECT pg_advisory_xact_lock(%s)"
STANDING: LiteralString = """
SELECT tenant, reason, stopped_by, stopped_at FROM registry.emergency_stop WHERE tenant IN ('*', %s)
ORDER BY tenant = '*' DESC
"""
PUT: LiteralString = """
INSERT INTO registry.emergency_stop (tenant, reason, stopped_by) VALUES (%s, %s, %s) ON CONFLICT (tenant) DO NOTHING
"""
DELETE: LiteralString = "DELETE FROM registry.emergency_stop WHERE tenant = %s RETURNING reason, stopped_by, stopped_at"


async def sending(connection: psycopg.AsyncConnection) -> None:
    """Whoever starts something calls this first, then looks for stops, then starts it, in one transaction."""
    await connection.execute(SENDING, (LOCK,))


async def standing(connection: psycopg.AsyncConnection, tenant: str) -> list[dict[str, Any]]:
    """The stops in force for a tenant: the platform's, its own."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(STANDING, (tenant,))
        return await cursor.fetchall()


async def put(connection: psycopg.AsyncConnection, tenant: str, reason: str, actor: str) -> bool:
    """Stop a tenant, or the platform; False if it is stopped already. Whatever is being sent now is sent when this
    returns, and once the transaction is committed nothing starts."""
    await connection.execute(STOPPING, (LOCK,))
    return (await connection.execute(PUT, (tenant, reason, actor))).rowcount == 1


async def delete(connection: psycopg.AsyncConnection, tenant: str) -> dict[str, Any] | None:
    """Lift a stop; what it was, None if there was none."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(DELETE, (tenant,))
        return await cursor.fetchone()
