"""Processes that number uploads, and the gaps that dead ones left in their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from outrider.contract.limits import GONE_MAX_RANGES
from outrider.runtime.database import Database
from outrider_gateway.store.transactions import SET_TENANT

BEAT_S = 30.0
DEAD_S = 600.0
"""A process that has not said for so long that it lives is dead."""
BEAT = """
INSERT INTO gateway.process (boot, replica) VALUES (%s, %s) ON CONFLICT (boot) DO UPDATE SET seen_at = now()
"""
DEAD = "SELECT boot FROM gateway.process WHERE seen_at < now() - %s * interval '1 second' ORDER BY boot LIMIT 100"
FORGET = "DELETE FROM gateway.process WHERE boot = %s"
GAPS = """
SELECT tenant, device, stream, boot, ARRAY(
    SELECT ARRAY[lower(g), upper(g) - 1] FROM unnest(s.gaps) g ORDER BY lower(g) LIMIT %s)
FROM {} s WHERE s.gapped AND s.boot = ANY (%s) LIMIT 1000
"""
VIEWS = (("telemetry", "tenant_sequence"), ("logs", "tenant_sequence"))
EXISTS = "SELECT to_regclass(%s) IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers of a boot that were never stored, as ranges."""

    tenant: str
    device: str
    stream: str
    boot: int
    ranges: list[Any]


async def beat(database: Database, boot: int, replica: str) -> None:
    """This process lives. Raises Transient."""
    async with database.transaction() as connection:
        await connection.execute(BEAT, (boot, replica))


async def dead(database: Database, after_s: float | None = None) -> list[int]:
    """Boots of processes that do not live any more. Raises Transient."""
    async with database.transaction() as connection:
        cursor = await connection.execute(DEAD, (DEAD_S if after_s is None else after_s,))
        return [boot for (boot,) in await cursor.fetchall()]


async def gaps(database: Database, boots: Sequence[int]) -> list[Gap]:
    """What these boots left open in the accounting of any writer. Crosses tenants. Raises Transient."""
    found: list[Gap] = []
    async with database.transaction() as connection:
        await connection.execute(SET_TENANT, ("*",))
        for schema, view in VIEWS:
            row = await (await connection.execute(EXISTS, (f"{schema}.{view}",))).fetchone()
            if row and row[0]:
                statement = sql.SQL(GAPS).format(sql.Identifier(schema, view))
                cursor = await connection.execute(statement, (GONE_MAX_RANGES, list(boots)))
                found += [Gap(*gap) for gap in await cursor.fetchall()]
    return found


async def forget(database: Database, boot: int) -> None:
    """Nothing of this process is open. Raises Transient."""
    async with database.transaction() as connection:
        await connection.execute(FORGET, (boot,))
