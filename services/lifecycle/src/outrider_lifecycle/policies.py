"""Which table keeps its rows for how long, and whose rows they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import psycopg

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Kept:
    """A table whose rows expire by their `ts`, and the column of the policy that says when.

    `owner`: table that says the tenant of a row's `key`; without one the row has a column `tenant` itself.
    """

    name: str
    days: str
    owner: str | None = None
    key: str = "tenant"


TABLES = (
    Kept("telemetry.sample", "raw_days", "telemetry.series", "series_id"),
    Kept("telemetry.sample_text", "text_days", "telemetry.series", "series_id"),
    Kept("telemetry.sample_json", "text_days", "telemetry.series", "series_id"),
    Kept("telemetry.event", "event_days"),
    Kept("logs.line", "log_days"),
    Kept("trips.position", "position_days", "trips.vehicle", "vehicle"),
    Kept("lifecycle.rollup_1m", "rollup_1m_days", "telemetry.series", "series_id"),
    Kept("lifecycle.rollup_5m", "rollup_5m_days", "telemetry.series", "series_id"),
    Kept("lifecycle.rollup_1h", "rollup_1h_days", "telemetry.series", "series_id"),
)
"""In the order in which they expire: what a tier is made of before the tier."""

TRIPS = Kept("trips.trip", "trip_days")
"""By their end, and not by partitions: trips are few."""

THERE = "SELECT name FROM runtime.partitioned WHERE to_regclass(name) IS NOT NULL"
POLICIES = """
SELECT tenant, to_jsonb(lifecycle.policy_of(tenant)) FROM lifecycle.policy
UNION SELECT tenant, to_jsonb(lifecycle.policy_of(tenant)) FROM runtime.horizon
"""
TODAY = "SELECT (now() AT TIME ZONE 'UTC')::date"


@dataclass(frozen=True, slots=True)
class Policies:
    """What holds today: per tenant that says something of its own, and for everybody else ('*')."""

    today: date
    of: dict[str, dict[str, int]]

    def before(self, kept: Kept, tenant: str) -> date | None:
        """Rows of days before this one have expired; None: never."""
        days = self.of[tenant][kept.days]
        return self.today - timedelta(days=days) if days else None


async def tables_here(connection: psycopg.AsyncConnection) -> list[Kept]:
    """The tables there are: not every service is installed everywhere."""
    there = {name for (name,) in await (await connection.execute(THERE)).fetchall()}
    return [kept for kept in TABLES if kept.name in there]


async def policies(connection: psycopg.AsyncConnection) -> Policies:
    """The policies that hold now."""
    row = await (await connection.execute(TODAY)).fetchone()
    assert row is not None
    return Policies(row[0], dict(await (await connection.execute(POLICIES)).fetchall()))
