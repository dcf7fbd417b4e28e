"""Samples that came after those of their day were gone (delivery rule 17): added to the rollups that are left, and archived."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from prometheus_client import Counter

from outrider_lifecycle.context import LateRow, Lifecycle
from outrider_lifecycle.store import PLAN, STEPS, add, compose

MERGED = Counter(
    "outrider_lifecycle_late_samples", "Samples from before the raw horizon, merged into the rollups and archived"
)

ROWS_AT_ONCE = 5_000
# The writer puts no more of what is before the horizon into the ledger. What it put there before must be rolled up first:
# a bucket computed from the ledger after this would lose what is added here.
WAITING = """
SELECT EXISTS (SELECT FROM telemetry.touched
               WHERE bucket < (SELECT max(before) FROM runtime.horizon WHERE name = 'telemetry.sample'))
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
SECONDS = {"1m": 60, "5m": 300, "1h": 3600}
LONG_AGO = datetime.min.replace(tzinfo=UTC)


async def merge_late(lifecycle: Lifecycle) -> bool:
    """Merge, archive and delete some late samples in one transaction; False when there are none left. Raises Transient."""
    async with lifecycle.transaction() as connection:
        keys = await (await connection.execute(NEXT, (ROWS_AT_ONCE,))).fetchall()
    if not keys:
        return False
    for tier in STEPS:
        async with lifecycle.transaction() as connection:
            await connection.execute(ENSURE, (f"lifecycle.rollup_{tier}", sorted({ts.date() for _, ts in keys})))
    async with lifecycle.transaction() as connection:
        waiting = await (await connection.execute(WAITING)).fetchone()
        if waiting is None or waiting[0]:
            return False
        series, times = zip(*keys, strict=True)
        rows: Sequence[LateRow] = await (await connection.execute(TAKE, (list(series), list(times)))).fetchall()
        names = [f"lifecycle.rollup_{tier}" for tier in STEPS]
        found = await (await connection.execute(HORIZONS, (names,))).fetchall()
        horizons = {(name, tenant): before for name, tenant, before in found}
        await connection.execute(PLAN)
        lower: str | None = None
        for tier in STEPS:
            name = f"lifecycle.rollup_{tier}"
            there: list[LateRow] = []
            composed: set[tuple[int, int]] = set()
            for row in rows:
                at = row[4]
                if at < horizons.get((name, row[0]), horizons.get((name, "*"), LONG_AGO)):
                    continue
                below = f"lifecycle.rollup_{lower}"
                if lower and at >= horizons.get((below, row[0]), horizons.get((below, "*"), LONG_AGO)):
                    seconds = int(at.timestamp())
                    composed.add((seconds - seconds % SECONDS[tier], row[3]))
                else:
                    there.append(row)
            if there:
                columns = zip(*there, strict=True)
                *_, ids, ts, value = columns
                await connection.execute(
                    add(tier).encode(), {"series": list(ids), "ts": list(ts), "value": list(value)}
                )
            if composed and lower:
                pairs = sorted(composed)
                part = {"bucket": [bucket for bucket, _ in pairs], "series": [of for _, of in pairs]}
                await connection.execute(compose(lower, tier).encode(), part)
            lower = tier
        for hook in lifecycle.on_late:
            await hook(connection, rows)
    MERGED.inc(len(rows))
    return True
