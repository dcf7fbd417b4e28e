"""Rows of `gateway.upload`: which number an upload with an Idempotency-Key has; and what was refused of an upload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from outrider.runtime.database import Database
from outrider_gateway.store.transactions import of_tenant

KEEP_H = 24
FIND = """
SELECT stream, boot, seq, ts, digest, outcome FROM gateway.upload
WHERE (tenant, device, key) = (%s, %s, %s) AND created_at > now() - interval '24 hours'
"""
# A key that is older than a day is free again.
CLAIM = """
INSERT INTO gateway.upload AS u (tenant, device, key, stream, boot, seq, ts, digest)
VALUES (%(tenant)s, %(device)s, %(key)s, %(stream)s, %(boot)s, %(seq)s, %(ts)s, %(digest)s)
ON CONFLICT (tenant, device, key) DO UPDATE SET stream = excluded.stream, boot = excluded.boot, seq = excluded.seq,
    ts = excluded.ts, digest = excluded.digest, outcome = NULL, created_at = now()
    WHERE u.created_at <= now() - interval '24 hours'
RETURNING 1
"""
SETTLE = "UPDATE gateway.upload SET outcome = %s WHERE (tenant, device, key) = (%s, %s, %s) AND (boot, seq) = (%s, %s)"
EXPIRE = """
DELETE FROM gateway.upload WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM gateway.upload WHERE created_at <= now() - interval '24 hours' LIMIT 5000))
"""
REJECTIONS = """
SELECT id, reason, detail FROM rejected.tenant_message
WHERE (tenant, device, stream, boot, seq) = (%s, %s, %s, %s, %s) ORDER BY id LIMIT 100
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a key stands for."""

    stream: str
    boot: int
    seq: int
    ts: int
    digest: bytes
    outcome: dict[str, Any] | None


async def find(database: Database, tenant: str, device: str, key: str) -> Claimed | None:
    """What this key was used for in the last 24 hours. Raises Transient."""
    async with database.transaction() as connection, connection.cursor(row_factory=class_row(Claimed)) as cursor:
        return await (await cursor.execute(FIND, (tenant, device, key))).fetchone()


async def claim(database: Database, tenant: str, device: str, key: str, new: Claimed) -> bool:
    """Let the key stand for this upload; False where it stands for one already. Raises Transient."""
    async with database.transaction() as connection:
        cursor = await connection.execute(
            CLAIM,
            {
                "tenant": tenant,
                "device": device,
                "key": key,
                "stream": new.stream,
                "boot": new.boot,
                "seq": new.seq,
                "ts": new.ts,
                "digest": new.digest,
            },
        )
        return await cursor.fetchone() is not None


async def settle(
    database: Database, tenant: str, device: str, key: str, number: tuple[int, int], outcome: dict[str, Any]
) -> None:
    """Keep what became of it. Raises Transient."""
    async with database.transaction() as connection:
        await connection.execute(SETTLE, (Jsonb(outcome), tenant, device, key, *number))


async def expire(database: Database) -> None:
    """Remove keys that are older than a day. Raises Transient."""
    removed = 5000
    while removed == 5000:
        async with database.transaction() as connection:
            removed = (await connection.execute(EXPIRE)).rowcount


async def rejections(
    database: Database, tenant: str, device: str, stream: str, boot: int, seq: int
) -> list[dict[str, Any]]:
    """What was refused of this upload and kept: id, reason and detail of each. Raises Transient."""
    async with of_tenant(database, tenant) as connection:
        cursor = await connection.execute(REJECTIONS, (tenant, device, stream, boot, seq))
        return [{"id": id_, "reason": reason, "detail": detail} for id_, reason, detail in await cursor.fetchall()]
