"""How much is kept where, how fast it grows, and when the disk is full: measured now and then, so that asking is cheap."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from prometheus_client import Gauge
from psycopg.types.json import Jsonb

from outrider_lifecycle.context import Lifecycle
from outrider_lifecycle.jobs import Job, Progress
from outrider_lifecycle.policies import EVERYBODY, TABLES, policies

BYTES = Gauge("outrider_lifecycle_storage_bytes", "Bytes of a table with its indexes", ["table"])
DEAD = Gauge("outrider_lifecycle_storage_dead_rows", "Rows that vacuum has not removed yet", ["table"])
FULL = Gauge(
    "outrider_lifecycle_storage_full_days",
    "Days until the disk is full at today's growth; -1: never, or its size is not known",
)
DEVICES_INTERVAL_S = 3600.0
FORECAST_DAYS = 3650
"""Further than this nobody looks."""

MEASURE = "SELECT lifecycle.measure_tables()"
MEASURE_DEVICES = "SELECT lifecycle.measure_devices()"
MEASURED = "SELECT name, bytes, dead_rows, bytes_day FROM lifecycle.storage_table"
DATABASE = "SELECT pg_database_size(current_database())"
ARCHIVE_DAY = """
SELECT coalesce(sum(bytes), 0) / 30.0 FROM lifecycle.archive
WHERE state = 'complete' AND created_at > now() - interval '30 days'
"""
SAVE = """
INSERT INTO lifecycle.storage_forecast (forecast) VALUES (%s)
ON CONFLICT (only_row) DO UPDATE SET forecast = excluded.forecast, made_at = now()
"""


@dataclass(frozen=True, slots=True)
class Tier:
    """A table that grows by `bytes_day` until it has what it keeps: `days` of it (0: for ever)."""

    table: str
    bytes: int
    bytes_day: float
    days: int

    def after(self, days: int) -> float:
        """Bytes so many days from now."""
        grown = self.bytes + self.bytes_day * days
        return min(grown, max(self.bytes, self.full_bytes)) if self.days else grown

    @property
    def full_bytes(self) -> float:
        """Bytes once it has all the days it keeps; meaningless for one that keeps all."""
        return self.bytes_day * (self.days + 1)  # a day is removed when it is over


def full_in_days(tiers: Sequence[Tier], free_bytes: float) -> int | None:
    """Days until these tables took the free bytes; None: not within FORECAST_DAYS."""
    now = sum(tier.bytes for tier in tiers)

    def is_full(days: int) -> bool:
        return sum(tier.after(days) for tier in tiers) - now >= free_bytes

    if not is_full(FORECAST_DAYS):
        return None
    low, high = 0, FORECAST_DAYS  # it only grows
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_full(middle) else (middle + 1, high)
    return low


def forecast(
    today: date, tiers: Sequence[Tier], database_bytes: int, free_bytes: int | None, archive_bytes_day: float
) -> dict[str, Any]:
    """The forecast as it is shown."""
    days = full_in_days(tiers, free_bytes) if free_bytes is not None else None
    return {
        "tiers": [
            {
                "table": tier.table,
                "bytes": tier.bytes,
                "bytes_day": round(tier.bytes_day),
                "days": tier.days,
                "full_bytes": round(tier.full_bytes) if tier.days else None,
            }
            for tier in tiers
        ],
        "database_bytes": database_bytes,
        "growth_bytes_day": round(sum(tier.after(1) - tier.bytes for tier in tiers)),
        "in_30_days_bytes": round(database_bytes + sum(tier.after(30) - tier.bytes for tier in tiers)),
        "in_a_year_bytes": round(database_bytes + sum(tier.after(365) - tier.bytes for tier in tiers)),
        "free_bytes": free_bytes,
        "full_on": (today + timedelta(days=days)).isoformat() if days is not None else None,
        "full_in_days": days,
        "archive_bytes_day": round(archive_bytes_day),
    }


async def measure(lifecycle: Lifecycle) -> dict[str, Any]:
    """Measure the tables and store a new forecast; the forecast. Raises Transient."""
    settings = lifecycle.settings
    async with lifecycle.transaction() as connection:
        await connection.execute(MEASURE)
        rows = await (await connection.execute(MEASURED)).fetchall()
        now = await policies(connection)
        (database,) = await (await connection.execute(DATABASE)).fetchone() or (0,)
        (archived,) = await (await connection.execute(ARCHIVE_DAY)).fetchone() or (0,)
        BYTES.clear()
        DEAD.clear()
        for name, size, dead, _ in rows:
            BYTES.labels(name).set(size)
            DEAD.labels(name).set(dead)
        sizes = {name: (size, growth) for name, size, _, growth in rows}
        tiers = [
            Tier(kept.name, size, growth or 0.0, now.of[EVERYBODY][kept.days])
            for kept in TABLES
            if kept.name in sizes
            for size, growth in [sizes[kept.name]]
        ]
        free: int | None = None
        if settings.storage_capacity_bytes:
            free = max(0, settings.storage_capacity_bytes - database)
        elif settings.storage_disk_path is not None and settings.storage_disk_path.exists():
            free = (await asyncio.to_thread(shutil.disk_usage, settings.storage_disk_path)).free
        made = forecast(now.today, tiers, database, free, float(archived))
        await connection.execute(SAVE, (Jsonb(made),))
    FULL.set(-1 if made["full_in_days"] is None else made["full_in_days"])
    return made


async def measure_devices(lifecycle: Lifecycle) -> None:
    """Count what each device sent in the last 24 hours. Raises Transient."""
    async with lifecycle.transaction() as connection:
        await connection.execute("SET LOCAL statement_timeout = '10min'")
        await connection.execute(MEASURE_DEVICES)


def jobs(lifecycle: Lifecycle) -> list[Job]:
    """Tables often, devices every hour."""

    async def tables(progress: Progress) -> bool:
        await measure(lifecycle)
        return False

    async def devices(progress: Progress) -> bool:
        await measure_devices(lifecycle)
        return False

    interval_s = lifecycle.settings.storage_interval_s
    return [
        Job("storage", interval_s, tables),
        Job("storage-devices", max(interval_s, DEVICES_INTERVAL_S), devices),
    ]
