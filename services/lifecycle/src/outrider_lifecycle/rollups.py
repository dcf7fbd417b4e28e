"""Rollups: five minutes that changed are computed anew from the ledger, minute by minute; longer steps are composed.

A rollup is a function of what the ledger holds, so nothing depends on order, repetition or where a crash was: a step computes
first and forgets what it was told after. Late data costs what it touched and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import psycopg
from prometheus_client import Counter, Gauge
from psycopg import errors as pg

from outrider.runtime.errors import Transient
from outrider_lifecycle.context import Lifecycle
from outrider_lifecycle.jobs import Job, Progress
from outrider_lifecycle.late import merge_late
from outrider_lifecycle.store import FROM_SAMPLES, PLAN, compose
from outrider_lifecycle.touched import Pass, Touched, gather

BUCKETS = Counter(
    "outrider_lifecycle_rollup_buckets", "Buckets of one series computed, by the tier they belong to", ["tier"]
)
ROWS = Counter("outrider_lifecycle_rollup_rows", "Rows written to the rollups, by tier", ["tier"])
LAG = Gauge(
    "outrider_lifecycle_rollup_lag_seconds", "End of the oldest five minutes that wait to be rolled up, until now"
)

log = logging.getLogger(__name__)

Part = dict[str, Any]
"""Parameters of one step: `bucket` (epoch seconds), `series`, `again`."""

FIVE_MINUTES_S, HOUR_S, DAY_S = 300, 3600, 86_400
INTERVAL_S = 10.0
"""What comes late is gathered for so long, so that a backlog sent in many messages costs its buckets once."""

CLOSED = """
SELECT floor((extract(epoch FROM now()) - %s) / 300)::bigint * 300, coalesce((SELECT max(id) FROM telemetry.touched), 0),
       extract(epoch FROM now() - (SELECT min(bucket) FROM telemetry.touched))::float8
"""
LAST_HOUR_ID = "SELECT coalesce(max(id), 0) FROM lifecycle.touched_hour"
# What was removed from the ledger is never computed anew: its rollups stay as they are.
REMOVED = "SELECT extract(epoch FROM max(before))::float8 FROM lifecycle.removed WHERE name = 'telemetry.sample'"
STILL_THERE = """
SELECT k.n - 1 FROM unnest(%s::bigint[], %s::integer[]) WITH ORDINALITY AS k(bucket, series_id, n)
JOIN telemetry.series s ON s.id = k.series_id
WHERE to_timestamp(k.bucket) >= lifecycle.removed_before('telemetry.sample', s.tenant)
ORDER BY 1
"""
TOUCH_HOUR = """
INSERT INTO lifecycle.touched_hour (bucket, series)
SELECT date_bin('1 hour', to_timestamp(bucket), 'epoch'), array_agg(DISTINCT series_id)
FROM unnest(%(bucket)s::bigint[], %(series)s::integer[]) AS k(bucket, series_id) GROUP BY 1
"""
FORGET = "DELETE FROM {table} WHERE id = ANY (%s)"
COMPLETE = (
    "UPDATE lifecycle.tier SET complete_before = greatest(complete_before, to_timestamp(%s)) WHERE name = ANY (%s)"
)
ENSURE = "SELECT runtime.ensure_partitions(%s, %s)"


class Rollups:
    """Brings the rollups up to date, step by step; one pass does what was touched when it began."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._one_at_a_time = asyncio.Lock()
        self._days: dict[str, set[date]] = {}

    async def catch_up(self) -> None:
        """One whole pass, hours and late samples included. Raises Transient; what was done until then is kept."""
        async with self._one_at_a_time:
            await self._catch_up()

    async def _catch_up(self) -> None:
        fives, closed_s = await self.begin()
        while await self.five_minutes(fives):
            pass
        hours = await self.finish(closed_s)
        while await self.hours(hours):
            pass
        await self.complete_hours(closed_s)
        while await merge_late(self._lifecycle):
            pass

    async def begin(self) -> tuple[Pass, int]:
        """What is closed and touched now; also when that is (epoch seconds)."""
        async with self._lifecycle.transaction() as connection:
            row = await (await connection.execute(CLOSED, (self._lifecycle.settings.rollup_grace_s,))).fetchone()
        assert row is not None
        closed_s, last_id, oldest_s = row
        LAG.set(max(0.0, (oldest_s or 0.0) - FIVE_MINUTES_S))
        return Pass("telemetry.touched", closed_s, last_id), closed_s

    async def five_minutes(self, of: Pass) -> bool:
        """Compute some touched five minutes, with their minutes, from the ledger; False when there are none left."""
        touched = await gather(self._lifecycle, of, self._lifecycle.settings.rollup_step_series)
        kept = await self._still_there(touched)
        for part in self._parts(kept):
            await self._ensure(("lifecycle.rollup_1m", "lifecycle.rollup_5m"), kept)
            minutes, fives = await self._compute(FROM_SAMPLES, part, TOUCH_HOUR)
            BUCKETS.labels("5m").inc(len(part["series"]))
            ROWS.labels("1m").inc(minutes)
            ROWS.labels("5m").inc(fives)
        return await self._forget(of, touched)

    async def finish(self, closed_s: int) -> Pass:
        """Minutes and five minutes are complete; which hours follow."""
        async with self._lifecycle.transaction() as connection:
            await connection.execute(COMPLETE, (closed_s, ["1m", "5m"]))
            row = await (await connection.execute(LAST_HOUR_ID)).fetchone()
        assert row is not None
        return Pass("lifecycle.touched_hour", closed_s - HOUR_S + 1, row[0])

    async def hours(self, of: Pass) -> bool:
        """Compose some touched hours from their five minutes; False when there are none left."""
        touched = await gather(self._lifecycle, of, self._lifecycle.settings.rollup_step_series)
        for part in self._parts(touched):
            await self._ensure(("lifecycle.rollup_1h",), touched)
            (hours,) = await self._compute(compose("5m", "1h"), part)
            BUCKETS.labels("1h").inc(len(part["series"]))
            ROWS.labels("1h").inc(hours)
        return await self._forget(of, touched)

    async def complete_hours(self, closed_s: int) -> None:
        """Hours are complete."""
        async with self._lifecycle.transaction() as connection:
            await connection.execute(COMPLETE, (closed_s - closed_s % HOUR_S, ["1h"]))

    async def _compute(self, statement: str, part: Part, then: str | None = None) -> tuple[int, ...]:
        try:
            async with self._lifecycle.transaction() as connection:
                return await _write(connection, statement, part, then)
        except pg.CheckViolation as error:  # the database was restored: partitions we knew are not there
            self.forget_partitions()
            raise Transient("a partition is missing; it is created on the next try") from error
        except pg.UniqueViolation:
            log.warning("rollups_written_again", extra={"rows": len(part["series"])})
        async with self._lifecycle.transaction() as connection:
            return await _write(connection, statement, {**part, "again": True}, then)

    def _parts(self, touched: Touched) -> list[Part]:
        size = self._lifecycle.settings.rollup_step_series
        return [
            {
                "bucket": touched.bucket[at : at + size].tolist(),
                "series": touched.series[at : at + size].tolist(),
                "again": False,
            }
            for at in range(0, len(touched), size)
        ]

    async def _forget(self, of: Pass, touched: Touched) -> bool:
        # After, never before: a crash in between computes the same again.
        for at in range(0, len(touched.ids), 10_000):
            async with self._lifecycle.transaction() as connection:
                await connection.execute(FORGET.format(table=of.table).encode(), (touched.ids[at : at + 10_000],))
        return bool(touched.ids)

    async def _still_there(self, touched: Touched) -> Touched:
        if not len(touched):
            return touched
        async with self._lifecycle.transaction() as connection:
            row = await (await connection.execute(REMOVED)).fetchone()
            if row is None or row[0] is None or touched.bucket[0] >= row[0]:
                return touched
            cursor = await connection.execute(STILL_THERE, (touched.bucket.tolist(), touched.series.tolist()))
            kept = np.array([n for (n,) in await cursor.fetchall()], dtype=np.int64)
        return Touched(touched.ids, touched.bucket[kept], touched.series[kept])

    async def _ensure(self, tables: tuple[str, ...], touched: Touched) -> None:
        days = {datetime.fromtimestamp(day * DAY_S, UTC).date() for day in np.unique(touched.bucket // DAY_S).tolist()}
        for table in tables:
            missing = days - self._days.setdefault(table, set())
            if missing:
                async with self._lifecycle.transaction() as connection:
                    await connection.execute(ENSURE, (table, sorted(missing)))
                self._days[table] |= missing

    def forget_partitions(self) -> None:
        """Partitions were dropped: look anew which there are."""
        self._days.clear()


async def _write(
    connection: psycopg.AsyncConnection, statement: str, part: Part, then: str | None = None
) -> tuple[int, ...]:
    await connection.execute(PLAN)
    row = await (await connection.execute(statement.encode(), part)).fetchone()
    assert row is not None
    if then is not None:
        await connection.execute(then.encode(), part)
    return tuple(row)


def jobs(lifecycle: Lifecycle, rollups: Rollups) -> list[Job]:
    """A pass every few seconds."""

    async def run(progress: Progress) -> bool:
        await rollups.catch_up()
        return False

    return [Job("rollups", INTERVAL_S, run)]
