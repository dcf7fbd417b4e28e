"""Partitions are there before their days begin, so that no writer waits for one."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import Gauge

from outrider_lifecycle.context import Lifecycle
from outrider_lifecycle.jobs import Job, Progress

AHEAD = Gauge(
    "outrider_lifecycle_partitions_ahead_days", "Days from today that every partitioned table has partitions for"
)

TABLES = "SELECT name FROM runtime.partitioned WHERE NOT hypertable ORDER BY name"
TODAY = "SELECT (now() AT TIME ZONE 'UTC')::date"
ENSURE = "SELECT runtime.ensure_partitions(%s, %s)"
INTERVAL_S = 3600.0


async def make_ahead(lifecycle: Lifecycle) -> int:
    """Partitions from today to `partitions_ahead_days` on, of every table; returns how many tables. Raises Transient.

    Each table in a transaction of its own: a new partition locks the table for an instant. Hypertables make their own.
    """
    async with lifecycle.transaction() as connection:
        tables = [name for (name,) in await (await connection.execute(TABLES)).fetchall()]
        row = await (await connection.execute(TODAY)).fetchone()
    assert row is not None
    days = [row[0] + timedelta(days=n) for n in range(lifecycle.settings.partitions_ahead_days + 1)]
    for table in tables:
        async with lifecycle.transaction() as connection:
            await connection.execute(ENSURE, (table, days))
    AHEAD.set(lifecycle.settings.partitions_ahead_days)
    return len(tables)


def jobs(lifecycle: Lifecycle) -> list[Job]:
    """Look every hour."""

    async def run(progress: Progress) -> bool:
        await make_ahead(lifecycle)
        return False

    return [Job("partitions", INTERVAL_S, run)]
