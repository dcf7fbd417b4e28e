"""Reads what a plan says from PostgreSQL: one tenant, one snapshot, one time limit a page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg.rows import dict_row, tuple_row

from outrider.contract import topics
from outrider.runtime.database import Database
from outrider_gateway.errors import Invalid, Unavailable
from outrider_gateway.query.asked import Range
from outrider_gateway.query.columns import KINDS, Series
from outrider_gateway.query.plan import Kept, Plan, Tier

BEGIN: LiteralString = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
SETTINGS: LiteralString = """
SELECT set_config('outrider.tenant', %s, true), set_config('statement_timeout', %s, true),
       (extract(epoch FROM now()) * 1000)::bigint
"""
DEVICES: LiteralString = "SELECT device, name, type, tags FROM gateway.tenant_devices(%s, %s, %s)"
SERIES: LiteralString = "SELECT id, device, metric, kind, unit FROM gateway.tenant_series(%s, %s)"
METRICS: LiteralString = "SELECT metric FROM gateway.tenant_metrics() ORDER BY 1"
SAMPLES: LiteralString = """
SELECT series_id, t, number, string, document FROM gateway.tenant_samples(%s::int[], %s::int[], %s::int[], %s, %s, %s)
"""
BUCKETS: LiteralString = """
SELECT series_id, t, count, sum, min, max, first, last FROM gateway.tenant_buckets(%s, %s, %s, %s, %s, %s)
"""
FLEET: LiteralString = """
SELECT t, devices, count, sum, min, max, percentiles FROM gateway.tenant_fleet(%s, %s, %s, %s, %s, %s, %s, %s)
"""
STAMP: LiteralString = "SELECT gateway.tenant_stamp(%s)"
LEDGER_DEVICES: LiteralString = "SELECT DISTINCT device FROM gateway.tenant_series(NULL, NULL)"
LATEST: LiteralString = "SELECT device, metric, kind, unit, t, value FROM gateway.tenant_latest(%s, %s)"
KEPT: LiteralString = "SELECT raw_from, tiers, tier_from, tier_until FROM gateway.tenant_kept()"
TOUCHED: LiteralString = "SELECT bucket, hour FROM gateway.tenant_touched(%s, %s, %s)"
NOTE_READ: LiteralString = "SELECT gateway.note_position_read(%s, %s, %s)"
TOUCHED_MS = 300_000
HOUR_MS = 3_600_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A transaction that sees one tenant as it was at one moment."""

    connection: psycopg.AsyncConnection
    at_ms: int
    """When it began, by the database's clock: it sees everything committed before."""


class Store:
    """What the query API reads. At most `at_once` pages are read at the same time, so that sessions are left for the rest."""

    def __init__(self, database: Database, at_once: int, limit_s: float) -> None:
        self._database = database
        self._turns = {False: asyncio.Semaphore(at_once), True: asyncio.Semaphore(max(1, at_once // 3))}
        self._limit_s = limit_s

    @asynccontextmanager
    async def snapshot(self, tenant: str, heavy: bool = False) -> AsyncIterator[Snapshot]:
        """`heavy`: for a question over many devices, of which a third as many are read at a time.

        Raises Unavailable when it is not one's turn in time, Invalid when reading takes too long, Transient.
        """
        if not topics.is_name(tenant):
            raise ValueError(f"not a tenant: {tenant!r}")
        try:
            async with asyncio.timeout(self._limit_s):
                await self._turns[heavy].acquire()
        except TimeoutError:
            raise Unavailable("Many long questions are being answered just now. Try again in a moment.") from None
        try:
            async with asyncio.timeout(self._limit_s), self._database.transaction() as connection:
                await connection.execute(BEGIN)
                asked = (tenant, str(int(self._limit_s * 1000)))
                row = await (await connection.execute(SETTINGS, asked)).fetchone()
                assert row is not None
                try:
                    yield Snapshot(connection, row[2])
                except pg.QueryCanceled:
                    raise self._too_long() from None
        except TimeoutError:
            raise self._too_long() from None
        finally:
            self._turns[heavy].release()

    def _too_long(self) -> Invalid:
        return Invalid(
            f"Reading this took longer than {self._limit_s:g} s. Ask for a shorter range, a wider step, or fewer devices or "
            "metrics."
        )

    async def moved(self, tenant: str, plan: Plan) -> bool:
        """True if raw samples that this plan read were removed meanwhile: it must be made anew."""
        raw = [segment.start_ms for segment in plan.segments if segment.tier == "raw"]
        if not raw:
            return False
        async with self._database.transaction() as connection:
            await connection.execute("SELECT set_config('outrider.tenant', %s, true)", (tenant,))
            row = await (await connection.execute(KEPT)).fetchone()
        return row is not None and ms(row[0]) > min(raw)

    async def note_read(self, tenant: str, actor: str, object_: str, address: str) -> None:
        """Note in the audit that somebody reads positions, unless it was noted within the hour."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT set_config('outrider.tenant', %s, true)", (tenant,))
            await connection.execute(NOTE_READ, (actor, object_, address))


async def devices(
    snapshot: Snapshot, names: Sequence[str] | None = None, tag: str | None = None, type_: str | None = None
) -> list[dict[str, Any]]:
    """Registered devices of the tenant: `device`, `name`, `type`, `tags`."""
    async with snapshot.connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(DEVICES, (None if names is None else list(names), tag, type_))
        return await cursor.fetchall()


async def series(
    snapshot: Snapshot, devices: Sequence[str] | None, metrics: Sequence[str] | None = None
) -> list[Series]:
    """All series of these devices and metrics; of one metric in several kinds the number comes first."""
    asked = (None if devices is None else list(devices), None if metrics is None else list(metrics))
    async with snapshot.connection.cursor(row_factory=tuple_row) as cursor:
        found = [Series(*row) for row in await (await cursor.execute(SERIES, asked)).fetchall()]
    return sorted(found, key=lambda one: (one.device, one.metric, KINDS.index(one.kind)))


async def metrics(snapshot: Snapshot) -> list[str]:
    """Every metric that a device of the tenant has."""
    return [row[0] for row in await (await snapshot.connection.execute(METRICS)).fetchall()]


async def kept(snapshot: Snapshot, series_ids: Sequence[int] | None, asked: Range) -> Kept:
    """What there is of these series (None: of whichever) in this range."""
    row = await (await snapshot.connection.execute(KEPT)).fetchone()
    if row is None:
        return Kept()
    raw_from, tiers, starts, ends = row
    tiers = tiers or []
    from_ms: dict[Tier, int] = dict(zip(tiers, map(ms, starts or ()), strict=True))
    until_ms: dict[Tier, int] = dict(zip(tiers, map(ms, ends or ()), strict=True))
    touched: list[tuple[int, int]] = []
    hours: list[tuple[int, int]] = []
    if tiers:
        ids = None if series_ids is None else list(series_ids)
        start = asked.start_ms // HOUR_MS * HOUR_MS  # what lies in an hour at the edge touches the hour
        cursor = await snapshot.connection.execute(TOUCHED, (ids, moment(start), moment(asked.end_ms + HOUR_MS)))
        for bucket, hour in await cursor.fetchall():
            (hours if hour else touched).append((ms(bucket), ms(bucket) + (HOUR_MS if hour else TOUCHED_MS)))
    return Kept(ms(raw_from), from_ms, until_ms, tuple(touched), tuple(hours))


async def samples(
    snapshot: Snapshot, of: Sequence[Series], start_ms: int, end_ms: int, most: int
) -> list[tuple[int, int, Any]]:
    """(series id, epoch ms, value): of each series its first `most` samples in [start, end)."""
    ids: dict[str, list[int]] = {"number": [], "string": [], "json": []}
    for one in of:
        ids["number" if one.kind == "boolean" else one.kind].append(one.id)
    boolean = {one.id for one in of if one.kind == "boolean"}
    asked = (*ids.values(), moment(start_ms), moment(end_ms), most)
    async with snapshot.connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        await cursor.execute(SAMPLES, asked)
        rows = await cursor.fetchall()
    found: list[tuple[int, int, Any]] = []
    for id_, t, number, text, json in rows:
        if number is not None:
            found.append((id_, t, number != 0 if id_ in boolean else number))
        else:
            found.append((id_, t, json if text is None else text))
    return found


async def buckets(
    snapshot: Snapshot, series_ids: Sequence[int], plan: Plan, edges: bool
) -> list[tuple[int, int, int, float, float, float, float | None, float | None]]:
    """(series id, bucket's start, count, sum, min, max, first, last), in order; first and last only with `edges`."""
    async with snapshot.connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        await cursor.execute(BUCKETS, (list(series_ids), *_segments(plan), edges))
        return await cursor.fetchall()


async def fleet(
    snapshot: Snapshot,
    series_ids: Sequence[int],
    plan: Plan,
    per_device: bool,
    extremes: bool,
    fractions: Sequence[float],
) -> list[tuple[int, int | None, int, float, float, float, list[float] | None]]:
    """(bucket's start, devices, count, sum, min, max, percentiles) over all series, in order."""
    async with snapshot.connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        await cursor.execute(FLEET, (list(series_ids), *_segments(plan), per_device, extremes, list(fractions)))
        return await cursor.fetchall()


async def latest(
    snapshot: Snapshot, devices: Sequence[str] | None, metrics: Sequence[str] | None
) -> list[tuple[str, str, str, str, int, Any]]:
    """(device, metric, kind, unit, epoch ms, value) of the newest sample of each series."""
    asked = (None if devices is None else list(devices), None if metrics is None else list(metrics))
    return await (await snapshot.connection.execute(LATEST, asked)).fetchall()


async def stamp(snapshot: Snapshot, devices: Sequence[str]) -> str:
    """What changes when these devices are heard, or a numbered message of theirs is stored."""
    row = await (await snapshot.connection.execute(STAMP, (list(devices),))).fetchone()
    assert row is not None
    return str(row[0])


async def ledger_devices(snapshot: Snapshot) -> list[str]:
    """Every device of the tenant of which the ledger has a series."""
    return [row[0] for row in await (await snapshot.connection.execute(LEDGER_DEVICES)).fetchall()]


def _segments(plan: Plan) -> tuple[list[str], list[datetime], list[datetime], timedelta | None]:
    return (
        [segment.tier for segment in plan.segments],
        [moment(segment.start_ms) for segment in plan.segments],
        [moment(segment.end_ms) for segment in plan.segments],
        None if plan.step_ms is None else timedelta(milliseconds=plan.step_ms),
    )


def moment(epoch_ms: int) -> datetime:
    """Epoch ms as a time in UTC."""
    return EPOCH + timedelta(milliseconds=epoch_ms)


def ms(when: datetime) -> int:
    """A time as epoch ms, rounded down."""
    return (when - EPOCH) // timedelta(milliseconds=1)
