"""Retention: what has expired is rolled up, archived, and then removed, by whole days (UTC).

The order makes it safe to stop anywhere. First the horizon moves (from its commit on the writer puts nothing older into the
ledger), then the rollups take all that is below it, then whoever wants to see it before it goes does (`before_drop`), then it
goes: whole partitions where nobody keeps them longer, else the rows of those tenants whose time is over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from prometheus_client import Counter, Gauge

from outrider_lifecycle.context import Expiring, Lifecycle
from outrider_lifecycle.jobs import Job, Progress
from outrider_lifecycle.policies import EVERYBODY, TRIPS, Kept, Policies, policies, tables_here
from outrider_lifecycle.rollups import Rollups

log = logging.getLogger(__name__)

DROPPED = Counter("outrider_lifecycle_partitions_dropped", "Partitions dropped by retention", ["table"])
REMOVED = Counter("outrider_lifecycle_rows_removed", "Rows that retention removed one by one", ["table"])
HORIZON = Gauge(
    "outrider_lifecycle_horizon_timestamp_seconds", "Rows of everybody before this time are gone", ["table"]
)

IDS_AT_ONCE = 500
ROWS_AT_ONCE = 50_000

HORIZONS = "SELECT tenant, before FROM runtime.horizon WHERE name = %s"
RAISE = "SELECT runtime.raise_horizon(%s, %s, %s)"
MARK = """
INSERT INTO lifecycle.removed AS r (name, tenant, before, done)
SELECT name, tenant, before, coalesce((SELECT d.done FROM lifecycle.removed d WHERE (d.name, d.tenant) = (h.name, '*')), 'epoch')
FROM runtime.horizon h WHERE name = %s
ON CONFLICT (name, tenant) DO UPDATE SET before = excluded.before
RETURNING tenant, before, done
"""
DONE = "UPDATE lifecycle.removed SET done = before WHERE name = %s"
REGISTERED = "SELECT starts_on, days FROM runtime.partitioned WHERE name = %s"
# Whoever wants to read or write the table meanwhile waits behind this: better to try again than to keep them waiting.
DO_NOT_WAIT = "SET LOCAL lock_timeout = '1s'"
TAKE_TIME = "SET LOCAL statement_timeout = '10min'"
DROP = "SELECT runtime.drop_partitions(%s, %s)"
ANY_ROW = "SELECT EXISTS (SELECT FROM {table} WHERE ts >= %s AND ts < %s)"
# Below starts_on there is one partition, which is nearly always empty.
OLD_DAYS = "SELECT DISTINCT (ts AT TIME ZONE 'UTC')::date FROM {table} WHERE ts < %s ORDER BY 1"
CAME_LATE = """
DELETE FROM runtime.expired
WHERE name = %s AND day < (runtime.horizon_of(name, tenant) AT TIME ZONE 'UTC')::date RETURNING tenant, day::text
"""
# Until the transaction ends nobody stores old rows; those stored since the rows were last shown round are marked.
HOLD = "SELECT pg_advisory_xact_lock(hashtext('outrider horizon'))"
NEW = "DELETE FROM runtime.expired WHERE name = %s AND day >= %s AND day < %s AND {condition}"
IDS = "SELECT id FROM {owner} WHERE id > %s AND {condition} ORDER BY id LIMIT %s"
REMOVE_OF_IDS = "DELETE FROM {table} WHERE {key} = ANY (%s) AND ts >= %s AND ts < %s"
REMOVE_ROWS = """
DELETE FROM {table} WHERE ts >= %s AND ts < %s AND (tableoid, ctid) IN (
    SELECT tableoid, ctid FROM {table} WHERE ts >= %s AND ts < %s AND {condition} LIMIT %s)
"""
HAS_TRIPS = "SELECT to_regclass('trips.trip') IS NOT NULL"
REMOVE_TRIPS = """
DELETE FROM trips.trip WHERE id IN (
    SELECT id FROM trips.trip WHERE state = 'final' AND end_at < %s AND {condition} LIMIT %s)
"""
EPOCH = date(1970, 1, 1)
"""Stands for never: nothing in the ledger is older than 2000."""


@dataclass(frozen=True, slots=True)
class Group:
    """A tenant with a horizon of its own ('*': all others): what is before `before` has expired, before `done` it is gone."""

    tenant: str
    before: date
    done: date


class Retention:
    """One run over all tables."""

    def __init__(self, lifecycle: Lifecycle, rollups: Rollups) -> None:
        self._lifecycle = lifecycle
        self._rollups = rollups

    async def run(self, progress: Progress) -> None:
        """Remove what has expired. Raises Transient; what was done until then stays done."""
        async with self._lifecycle.transaction() as connection:
            now = await policies(connection)
            tables = await tables_here(connection)
        for kept in tables:
            await self._raise_horizons(kept, now)
        await self._rollups.catch_up()  # takes all that is below a horizon; nothing comes after it any more
        for kept in tables:
            await self._remove(kept)
            await self._remove_what_came_late(kept, progress)
        await self._remove_trips(now)

    async def _remove_trips(self, now: Policies) -> None:
        # After their positions, or they would be made again.
        async with self._lifecycle.transaction() as connection:
            row = await (await connection.execute(HAS_TRIPS)).fetchone()
        if row is None or not row[0]:
            return
        for tenant in now.of:
            before = now.before(TRIPS, tenant)
            if before is None:
                continue
            others = tuple(sorted(other for other in now.of if other != EVERYBODY))
            of = Expiring(TRIPS.name, EPOCH, before, *(((tenant,),) if tenant != EVERYBODY else (None, others)))
            condition, tenants = of.condition()
            removed = ROWS_AT_ONCE
            while removed == ROWS_AT_ONCE:
                async with self._lifecycle.transaction() as connection:
                    statement = REMOVE_TRIPS.format(condition=condition).encode()
                    removed = (await connection.execute(statement, (_midnight(before), tenants, ROWS_AT_ONCE))).rowcount
                REMOVED.labels(TRIPS.name).inc(removed)

    async def _raise_horizons(self, kept: Kept, now: Policies) -> None:
        async with self._lifecycle.transaction() as connection:
            rows = await (await connection.execute(HORIZONS, (kept.name,))).fetchall()
        horizons = {tenant: before.date() for tenant, before in rows}
        everybody = now.before(kept, EVERYBODY)
        # Whoever keeps rows longer than everybody needs a horizon of its own before everybody's moves: '*' comes last.
        for tenant in sorted(now.of, reverse=True):
            before = now.before(kept, tenant)
            if tenant not in horizons and (before is None if tenant == EVERYBODY else before == everybody):
                continue
            if tenant not in horizons or (before or EPOCH) > horizons[tenant]:
                async with self._lifecycle.transaction() as connection:
                    await connection.execute(RAISE, (kept.name, tenant, _midnight(before or EPOCH)))

    async def _remove(self, kept: Kept) -> None:
        async with self._lifecycle.transaction() as connection:
            rows = await (await connection.execute(MARK, (kept.name,))).fetchall()
        groups = [Group(tenant, before.date(), done.date()) for tenant, before, done in rows]
        everybody = next((group.before for group in groups if group.tenant == EVERYBODY), EPOCH)
        HORIZON.labels(kept.name).set(_midnight(everybody).timestamp())
        if all(group.done >= group.before for group in groups):
            return
        # Up to here nobody keeps anything.
        common = min([everybody, *(group.before for group in groups)])
        await self._drop(kept, common)
        day = max(common, min(group.done for group in groups if group.done < group.before))
        while day < max(group.before for group in groups):
            await self._remove_day(kept, day, groups)
            day += timedelta(days=1)
        async with self._lifecycle.transaction() as connection:
            await connection.execute(DONE, (kept.name,))

    async def _drop(self, kept: Kept, before: date) -> None:
        # Whole partitions only: rows of one that holds several days stay until its last day has expired.
        async with self._lifecycle.transaction() as connection:
            row = await (await connection.execute(REGISTERED, (kept.name,))).fetchone()
            assert row is not None
            starts_on, width = row
            await connection.execute(TAKE_TIME)
            cursor = await connection.execute(
                OLD_DAYS.format(table=kept.name).encode(), (_midnight(min(starts_on, before)),)
            )
            old = [day for (day,) in await cursor.fetchall()]
        for day in old:
            await self._expire(kept, Expiring(kept.name, day, day + timedelta(days=1)))
        start = starts_on
        while (end := start + timedelta(days=width)) <= before:
            async with self._lifecycle.transaction() as connection:
                arguments = (_midnight(start), _midnight(end))
                cursor = await connection.execute(ANY_ROW.format(table=kept.name).encode(), arguments)
                row = await cursor.fetchone()
            if row and row[0]:
                await self._before_drop(Expiring(kept.name, start, end))
                await self._drop_until(kept, Expiring(kept.name, start, end))
            start = end
        if start > starts_on:
            await self._drop_until(kept, Expiring(kept.name, starts_on, start))

    async def _drop_until(self, kept: Kept, expiring: Expiring) -> None:
        dropped: list[str] | None = None
        while dropped is None:
            async with self._lifecycle.transaction() as connection:
                await connection.execute(DO_NOT_WAIT)
                await connection.execute(TAKE_TIME)
                if not await self._came_since(connection, expiring):
                    row = await (await connection.execute(DROP, (kept.name, expiring.end))).fetchone()
                    dropped = row[0] if row else []
            if dropped is None:
                await self._before_drop(expiring)
        self._rollups.forget_partitions()
        if dropped:
            DROPPED.labels(kept.name).inc(len(dropped))
            log.info("partitions_dropped", extra={"table": kept.name, "partitions": dropped})

    async def _remove_day(self, kept: Kept, day: date, groups: list[Group]) -> None:
        expired = {group.tenant for group in groups if group.done <= day < group.before}
        if not expired:
            return
        end = day + timedelta(days=1)
        if EVERYBODY in expired:
            longer = tuple(sorted(group.tenant for group in groups if day >= group.before))
            await self._expire(kept, Expiring(kept.name, day, end, but_not=longer))
        else:
            await self._expire(kept, Expiring(kept.name, day, end, tenants=tuple(sorted(expired))))

    async def _remove_what_came_late(self, kept: Kept, progress: Progress) -> None:
        async with self._lifecycle.transaction() as connection:
            # Whoever stores rows just now may have found the mark there already: its rows are seen before they go, too.
            await connection.execute(HOLD)
            found = await (await connection.execute(CAME_LATE, (kept.name,))).fetchall()
            days = [*progress.values.get("late", []), *([kept.name, tenant, day] for tenant, day in found)]
            if found:
                await progress.save(connection, late=days)
        for entry in [entry for entry in days if entry[0] == kept.name]:
            day = date.fromisoformat(entry[2])
            await self._expire(kept, Expiring(kept.name, day, day + timedelta(days=1), tenants=(entry[1],)))
            days.remove(entry)
            await progress.save(late=days)

    async def _before_drop(self, expiring: Expiring) -> None:
        for hook in self._lifecycle.before_drop:
            await hook(expiring)

    async def _came_since(self, connection: psycopg.AsyncConnection, expiring: Expiring) -> bool:
        """True if rows were stored there since `before_drop`, which must see them first. None are until the end of the
        transaction."""
        await connection.execute(HOLD)
        condition, of = expiring.condition()
        statement = NEW.format(condition=condition).encode()
        return (await connection.execute(statement, (expiring.table, expiring.start, expiring.end, of))).rowcount > 0

    async def _expire(self, kept: Kept, expiring: Expiring) -> None:
        await self._before_drop(expiring)
        remove = self._remove_rows if kept.owner is None else self._remove_by_owner
        removed = await remove(kept, expiring)
        if removed:
            REMOVED.labels(kept.name).inc(removed)
            log.info("rows_removed", extra={"table": kept.name, "day": str(expiring.start), "rows": removed})

    async def _remove_by_owner(self, kept: Kept, expiring: Expiring) -> int:
        condition, of = expiring.condition()
        ids = IDS.format(owner=kept.owner, condition=condition).encode()
        remove = REMOVE_OF_IDS.format(table=kept.name, key=kept.key).encode()
        last, removed = 0, 0
        while True:
            async with self._lifecycle.transaction() as connection:
                new = await self._came_since(connection, expiring)
                if not new:
                    found = [
                        id_ for (id_,) in await (await connection.execute(ids, (last, of, IDS_AT_ONCE))).fetchall()
                    ]
                    if not found:
                        return removed
                    span = (_midnight(expiring.start), _midnight(expiring.end))
                    removed += (await connection.execute(remove, (found, *span))).rowcount
                    last = found[-1]
            if new:
                await self._before_drop(expiring)

    async def _remove_rows(self, kept: Kept, expiring: Expiring) -> int:
        condition, of = expiring.condition()
        remove = REMOVE_ROWS.format(table=kept.name, condition=condition).encode()
        span = (_midnight(expiring.start), _midnight(expiring.end))
        removed = 0
        while True:
            async with self._lifecycle.transaction() as connection:
                new = await self._came_since(connection, expiring)
                found = 0 if new else (await connection.execute(remove, (*span, *span, of, ROWS_AT_ONCE))).rowcount
            removed += found
            if new:
                await self._before_drop(expiring)
            elif found < ROWS_AT_ONCE:
                return removed


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def jobs(lifecycle: Lifecycle, rollups: Rollups) -> list[Job]:
    """Look every hour; most runs of a day find nothing."""
    retention = Retention(lifecycle, rollups)

    async def run(progress: Progress) -> bool:
        await retention.run(progress)
        return False

    return [Job("retention", lifecycle.settings.retention_interval_s, run)]
