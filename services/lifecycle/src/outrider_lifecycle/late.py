"""Samples that came after those of their day were gone (delivery rule 17): added to the rollups that are left, and archived."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg
from prometheus_client import Counter

from outrider_lifecycle.context import LateRow, Lifecycle
from outrider_lifecycle.store import PLAN, STEPS, add, compose

MERGED = Counter(
    "outrider_lifecycle_late_samples", "Samples from before the raw horizon, merged into the rollups and archived"
)

ROWS_AT_ONCE = 5_000
# The writer puts no more of what is before the horizon into the ledger. What it put there before must be rolled up first:
# a bucket computed from the ledger after this would lose what is added here. Other series may wait as long as they like.
WAITING = """
SELECT EXISTS (
    SELECT FROM (SELECT DISTINCT date_bin('1 hour', ts, 'epoch') AS hour FROM unnest(%s::timestamptz[]) ts) late
    JOIN telemetry.touched t ON t.bucket >= late.hour AND t.bucket < late.hour + interval '1 hour'
    WHERE t.series && %s::integer[])
"""
NEXT = "SELECT series_id, ts FROM telemetry.late_sample ORDER BY series_id, ts LIMIT %s"
TAKE = """
WITH taken AS (
    DELETE FROM telemetry.late_sample l USING unnest(%s::integer[], %s::timestamptz[]) AS k(series_id, ts)
    WHERE (l.series_id, l.ts) = (k.series_id, k.ts) RETURNING l.*
)
SELECT s.tenant, s.device, s.metric, t.series_id, t.ts, t.value FROM taken t JOIN telemetry.series s ON s.id = t.series_id
ORDER BY t.series_id, t.ts
"""
HORIZONS = "SELECT name, tenant, before FROM runtime.horizon WHERE name = ANY (%s)"
ENSURE = "SELECT runtime.ensure_partitions(%s, %s)"
STEPS_S = {"1m": 60, "5m": 300, "1h": 3600}


async def merge_late(lifecycle: Lifecycle) -> bool:
    """Merge, archive and delete some late samples in one transaction; False when there are none left. Raises Transient."""
    async with lifecycle.transaction() as connection:
        keys = await (await connection.execute(NEXT, (ROWS_AT_ONCE,))).fetchall()
    if not keys:
        return False
    days = sorted({ts.astimezone(UTC).date() for _, ts in keys})
    for tier in STEPS:
        async with lifecycle.transaction() as connection:
            await connection.execute(ENSURE, (f"lifecycle.rollup_{tier}", days))
    async with lifecycle.transaction() as connection:
        series, times = zip(*keys, strict=True)
        waiting = await (await connection.execute(WAITING, (list(times), list(series)))).fetchone()
        if waiting is None or waiting[0]:
            return False
        rows: list[LateRow] = await (await connection.execute(TAKE, (list(series), list(times)))).fetchall()
        await _merge(connection, rows)
        for hook in lifecycle.on_late:
            await hook(connection, rows)
    MERGED.inc(len(rows))
    return True


async def _merge(connection: psycopg.AsyncConnection, rows: Sequence[LateRow]) -> None:
    """Into each tier that still has their time: composed of the shorter tier where that has it too, else added."""
    found = await (await connection.execute(HORIZONS, ([f"lifecycle.rollup_{tier}" for tier in STEPS],))).fetchall()
    horizons: dict[tuple[str, str], datetime] = {(name, tenant): before for name, tenant, before in found}

    def is_kept(row: LateRow, tier: str) -> bool:
        name = f"lifecycle.rollup_{tier}"
        before = horizons.get((name, row[0]), horizons.get((name, "*")))
        return before is None or row[4] >= before

    await connection.execute(PLAN)
    shorter: str | None = None
    for tier, step_s in STEPS_S.items():
        kept = [row for row in rows if is_kept(row, tier)]
        alone = [row for row in kept if shorter is None or not is_kept(row, shorter)]
        if alone:
            *_, series, times, values = zip(*alone, strict=True)
            await connection.execute(
                add(tier).encode(), {"series": list(series), "ts": list(times), "value": list(values)}
            )
        if shorter is not None:
            starts = {(int(row[4].timestamp()) // step_s * step_s, row[3]) for row in kept if is_kept(row, shorter)}
            if starts:
                buckets, series = zip(*sorted(starts), strict=True)
                part = {"bucket": list(buckets), "series": list(series), "again": True}
                await connection.execute(compose(shorter, tier).encode(), part)
        shorter = tier
