"""The ledger: one transaction takes samples, events, their accounting and what is refused; then the acks may go out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg

from outrider.contract import limits, topics
from outrider.contract.batch import BatchNumber, Header, Record, RecordBatch, SampleBatch, Shape
from outrider.contract.reasons import EXPLANATION, Reason
from outrider.runtime import rejects
from outrider.runtime.accounting import Accounting, Key
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider.runtime.records import RecordTable
from outrider.runtime.rejects import Rejection
from outrider.runtime.tombstones import Tombstones, TombstonesChanged
from outrider.runtime.verdicts import Verdicts, count, judge
from outrider_writer_timeseries import gone, samples, touched
from outrider_writer_timeseries.samples import Column
from outrider_writer_timeseries.series import REFUSED, SeriesMap

BEGIN = "SELECT telemetry.ledger_id()::text, (extract(epoch FROM now()) * 1000)::bigint"
PARTITIONS = "SELECT runtime.ensure_partitions(%s, %s)"
DAY_MS = 86_400_000
_TABLES = tuple(samples.TYPES)


@dataclass(slots=True)
class Work:
    """Bus batches of one transaction with the topic each came on."""

    samples: list[tuple[str, SampleBatch]] = field(default_factory=list)
    events: list[tuple[str, RecordBatch]] = field(default_factory=list)

    def numbers(self) -> list[tuple[str, BatchNumber]]:
        """(topic, batch number) of each batch."""
        return [(topic, b.number) for topic, b in self.samples] + [(topic, b.number) for topic, b in self.events]

    def without(self, tombstones: Tombstones) -> tuple[Work, list[Header]]:
        """The same without what is of erased devices, and the headers of that."""
        if not tombstones.devices:
            return self, []
        work, erased = Work(), []
        for topic, samples_ in self.samples:
            headers, content, gone = tombstones.sort(samples_.headers, samples_.samples)
            work.samples.append((topic, SampleBatch(samples_.number, headers, content)))
            erased += gone
        for topic, events in self.events:
            headers, records, gone = tombstones.sort(events.headers, events.records)
            work.events.append((topic, RecordBatch(events.number, headers, records)))
            erased += gone
        return work, erased


@dataclass(slots=True)
class Stored:
    """What was committed: the ledger's id, the verdicts to acknowledge, and counts for the metrics."""

    ledger: str
    verdicts: list[Verdicts]
    samples: int
    events: int
    newest_received_ms: int


@dataclass(slots=True)
class _Samples:
    """The samples of a transaction as columns, with what is needed to word a refusal.

    `message[i]`, `ts[i]` (epoch ms) and `value[i]` belong to sample i; sample `start[m]` is the first of message m.
    """

    headers: list[Header]
    shapes: list[Shape]
    start: NDArray[np.int64]
    message: NDArray[np.int64]
    ts: NDArray[np.int64]
    value: list[Any]

    def metric(self, i: int) -> str:
        """Of what metric sample i is."""
        message = int(self.message[i])
        at = i - int(self.start[message])
        ends = accumulate(count for *_, count in self.shapes[message].runs)
        return next(run[0] for run, end in zip(self.shapes[message].runs, ends, strict=True) if at < end)


class _Layout(NamedTuple):
    """A shape as numpy needs it: samples of each run, and the place of each run's table in `_TABLES`.

    None where it is the same for all: one sample a run, and the table of numbers.
    """

    counts: NDArray[np.int64] | None
    tables: NDArray[np.int8] | None


def _layout(shape: Shape) -> _Layout:
    if shape.note is None:
        counts = np.array([count for *_, count in shape.runs], dtype=np.int64)
        tables = np.array([_TABLES.index(samples.table_of(kind)) for _, kind, _ in shape.runs], dtype=np.int8)
        shape.note = _Layout(counts if (counts != 1).any() else None, tables if tables.any() else None)
    layout: _Layout = shape.note
    return layout


class Ledger:
    """Stores `Work` in PostgreSQL exactly once, whatever comes twice."""

    def __init__(self, database: Database, group: str, series_cache: int) -> None:
        self._database = database
        self._group = group
        self._series = SeriesMap(database, series_cache)
        self._accounting = Accounting("telemetry", group)
        self._events = RecordTable("telemetry.event", "type", "event")
        self._days: dict[str, set[int]] = {table: set() for table in samples.TYPES}
        self._ledger: str | None = None
        self._tombstones = Tombstones()

    async def store(self, work: Work) -> Stored:
        """Commit samples, events, accounting, conflicts and batch numbers in one transaction.

        Raises Transient when nothing was stored (or when the commit's reply was lost: storing again changes nothing).
        """
        while True:
            tombstones = self._tombstones.version
            kept, erased = work.without(self._tombstones)
            try:
                stored = await self._store(kept, tombstones)
            except TombstonesChanged:
                self._series.forget()  # an id that is free again gets new series
                continue
            stored.verdicts[0].erased = erased
            return stored

    async def _store(self, work: Work, tombstones: int | None) -> Stored:
        ledger_before = self._ledger  # by which the ids below hold; another slot's transaction may change it meanwhile
        gathered = _gather([batch for _, batch in work.samples])
        ids = await self._series.of(list(zip(gathered.headers, gathered.shapes, strict=True)))
        records = [r for _, batch in work.events for r in batch.records]
        await self._prepare(gathered, records)
        try:
            try:
                return await self._commit(work, gathered, ids, records, ledger_before, tombstones, straight=True)
            except samples.SomeAreThere:  # seldom: a redelivery, or a conflict
                return await self._commit(work, gathered, ids, records, ledger_before, tombstones, straight=False)
        except pg.CheckViolation as error:  # a partition we knew was dropped meanwhile
            self._forget()
            raise Transient("a partition is missing; it is created on the next try") from error

    async def _commit(
        self,
        work: Work,
        gathered: _Samples,
        ids: list[NDArray[np.int32]],
        records: Sequence[Sequence[Record]],
        ledger_before: str | None,
        tombstones: int | None,
        *,
        straight: bool,
    ) -> Stored:
        """The transaction; `straight`: with COPY into the table itself, which raises SomeAreThere if it cannot."""
        event_headers = [header for _, batch in work.events for header in batch.headers]
        async with self._database.transaction() as connection:
            async with connection.pipeline():  # what needs no answer in between goes in one round trip
                begun = await connection.execute(BEGIN)
                erased = await self._tombstones.ask(connection)
                sample_verdicts = await judge(connection, self._accounting, gathered.headers)
            ledger, now_ms = await begun.fetchone() or ("", 0)
            await self._tombstones.check(connection, erased, tombstones, gathered.headers, event_headers)
            same = ledger_before in (None, ledger)
            if same:
                too_late = await gone.look(connection, gathered.headers, gathered.message, gathered.ts, now_ms)
                stored, numbers = await self._store_samples(
                    connection, gathered, ids, sample_verdicts, too_late, straight
                )
                event_verdicts = await judge(connection, self._accounting, event_headers)
                events = await self._events.store(connection, event_verdicts, records)
                both = [sample_verdicts, event_verdicts]
                async with connection.pipeline():
                    if numbers is not None:
                        await touched.note(connection, numbers.series, numbers.ts)
                    for verdicts in both:
                        await self._accounting.count(connection, count(verdicts))
                    await rejects.keep(connection, self._group, [r for verdicts in both for r in verdicts.rejections])
                    await self._accounting.commit_numbers(connection, work.numbers())
        self._ledger = ledger  # only now: a transaction that was not committed must find it changed again
        if not same:
            self._forget()
            raise Transient("the database was restored: series ids and partitions are looked up anew on the next try")
        received = [h.received_ms for verdicts in both for h in verdicts.headers]
        return Stored(ledger, both, stored, events, max(received, default=0))

    async def needs(self) -> tuple[str | None, list[tuple[Key, list[tuple[int, int]]]]]:
        """The ledger's id and the gaps to ask devices for."""
        async with self._database.transaction() as connection:
            return self._ledger, await self._accounting.needs(connection)

    def _forget(self) -> None:
        self._series.forget()
        self._events.forget()
        for days in self._days.values():
            days.clear()

    async def _prepare(self, gathered: _Samples, records: Sequence[Sequence[Record]]) -> None:
        # Creating a partition locks the table, so it is done before, and committed.
        days = _days(gathered.ts)
        tables = {samples.table_of(kind) for shape in set(gathered.shapes) for _, kind, _ in shape.runs}
        for table in sorted(tables):
            missing = days - self._days[table]
            if missing:
                dates = [datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date() for day in sorted(missing)]
                async with self._database.transaction() as connection:
                    await connection.execute(PARTITIONS, (f"telemetry.{table}", dates))
                self._days[table] |= missing
        await self._events.prepare(self._database, records)

    async def _store_samples(
        self,
        connection: psycopg.AsyncConnection,
        gathered: _Samples,
        ids: list[NDArray[np.int32]],
        verdicts: Verdicts,
        too_late: gone.Masks,
        straight: bool,
    ) -> tuple[int, Column | None]:
        # How many samples were stored, and the numbers among them.
        if not len(gathered.ts):
            return 0, None
        series, table_of = _spread(gathered.shapes, ids)
        refusals = _Refusals(gathered, verdicts)
        usable = np.ones(len(series), dtype=bool)
        for mask, reason in (
            (_of_messages(gathered, verdicts.full), Reason.TOO_MANY_GAPS),
            (series == REFUSED, Reason.TOO_MANY_METRICS),
            (~_plausible(gathered.ts), Reason.CLOCK_INVALID),
        ):
            for i in np.flatnonzero(mask & usable).tolist():
                refusals.add(i, reason, EXPLANATION[reason])
            usable &= ~mask
        fresh = ~_of_messages(gathered, verdicts.stale)
        stored, numbers = 0, None
        for number, table in enumerate(_TABLES):
            if table_of is None:
                rows = np.flatnonzero(usable) if number == 0 else np.zeros(0, dtype=np.int64)
            else:
                rows = np.flatnonzero(usable & (table_of == number))
            if table in too_late:  # what is counted already is a duplicate, whose stored rows may be gone
                rows = rows[fresh[rows] | ~too_late[table][rows]]
            if not len(rows):
                continue
            chosen = gathered.value if len(rows) == len(gathered.value) else [gathered.value[i] for i in rows.tolist()]
            value = samples.numbers(chosen) if table == "sample" else _objects(chosen)
            column = Column(table, gathered.message[rows], series[rows], gathered.ts[rows], value, fresh[rows])
            if table == "sample":
                finite = np.isfinite(value)
                if not finite.all():
                    for i in rows[~finite].tolist():
                        refusals.add(i, Reason.BAD_VALUE, "not a finite number")
                    column, rows = column.where(finite), rows[finite]

            def on_conflict(i: int, value: Any, rows: Any = rows) -> None:
                refusals.add(int(rows[i]), Reason.CONFLICT, _conflict(value))

            def on_bad(i: int, why: str, rows: Any = rows) -> None:
                refusals.add(int(rows[i]), Reason.BAD_VALUE, why)

            stored += int(column.fresh.sum())
            if table in too_late:
                late = too_late[table][rows]
                if table != "sample":
                    await gone.note(connection, table, gathered.headers, column.message[late], column.ts[late])
                elif late.any():
                    aside = replace(column.where(late), table=samples.LATE)
                    await samples.store(connection, aside, on_conflict, on_bad, straight=False)
                    column, rows = column.where(~late), rows[~late]
            await samples.store(connection, column, on_conflict, on_bad, straight=straight)
            if table == "sample":
                numbers = column if column.fresh.all() else column.where(column.fresh)
        refusals.settle()
        return stored, numbers


class _Refusals:
    """Refused samples, gathered into one rejection per message and reason."""

    def __init__(self, gathered: _Samples, verdicts: Verdicts) -> None:
        self._gathered = gathered
        self._verdicts = verdicts
        self._found: dict[tuple[int, Reason], tuple[list[dict[str, Any]], str]] = {}

    def add(self, i: int, reason: Reason, why: str) -> None:
        """Sample i is refused."""
        metric = self._gathered.metric(i)
        ts, value = int(self._gathered.ts[i]), self._gathered.value[i]
        parts, _ = self._found.setdefault((int(self._gathered.message[i]), reason), ([], f"{metric} at {ts}: {why}"))
        parts.append({"ts": ts, metric: value})

    def settle(self) -> None:
        """Hand them to the verdicts, in the flat JSON of the wire contract so that they can be replayed."""
        for (message, reason), (parts, detail) in self._found.items():
            header = self._verdicts.headers[message]
            self._verdicts.refuse(
                message,
                reason,
                Rejection(
                    header.tenant,
                    header.device,
                    header.stream,
                    header.boot,
                    header.seq,
                    reason,
                    detail,
                    topics.TELEMETRY.name(tenant=header.tenant, device=header.device),
                    rejects.as_payload(parts),
                    header.received_ms,
                ),
            )


def _gather(batches: Sequence[SampleBatch]) -> _Samples:
    headers: list[Header] = []
    shapes: list[Shape] = []
    ts: list[int] = []
    value: list[Any] = []
    for batch in batches:
        headers += batch.headers
        for message in batch.samples:
            shapes.append(message.shape)
            value += message.value
            if message.ts:
                ts += message.ts * (message.shape.size // len(message.ts))
    sizes = np.array([shape.size for shape in shapes], dtype=np.int64)
    start = np.cumsum(sizes) - sizes
    return _Samples(headers, shapes, start, np.repeat(np.arange(len(shapes)), sizes), _times(ts), value)


def _spread(
    shapes: Sequence[Shape], ids: Sequence[NDArray[np.int32]]
) -> tuple[NDArray[np.int32], NDArray[np.int8] | None]:
    """Series id and table (its place in `_TABLES`; None: all numbers) of each sample, from those of each run."""
    layouts = [_layout(shape) for shape in shapes]
    series = np.concatenate(
        [of if layout.counts is None else np.repeat(of, layout.counts) for of, layout in zip(ids, layouts, strict=True)]
    )
    if all(layout.tables is None for layout in layouts):
        return series, None
    tables = [
        np.repeat(
            np.zeros(len(shape.runs), dtype=np.int8) if layout.tables is None else layout.tables,
            1 if layout.counts is None else layout.counts,
        )
        for shape, layout in zip(shapes, layouts, strict=True)
    ]
    return series, np.concatenate(tables)


def _of_messages(gathered: _Samples, messages: set[int]) -> NDArray[np.bool_]:
    """The samples of these messages."""
    chosen = np.zeros(len(gathered.headers), dtype=bool)
    chosen[list(messages)] = True
    return chosen[gathered.message]


def _times(ts: Sequence[int]) -> NDArray[np.int64]:
    try:
        return np.array(ts, dtype=np.int64)
    except OverflowError:  # some year beyond the calendar: made implausible, so that only that sample is refused
        return np.array([t if abs(t) < 2**62 else -1 for t in ts], dtype=np.int64)


def _days(ts: NDArray[np.int64]) -> set[int]:
    """Days since 1970 on which plausible times lie."""
    if not len(ts):
        return set()
    first, last = int(ts.min()), int(ts.max())
    if first // DAY_MS == last // DAY_MS and first >= limits.TIME_MIN_MS and last <= limits.TIME_MAX_MS:
        return {first // DAY_MS}  # nearly always, and much quicker
    return set(np.unique(ts[_plausible(ts)] // DAY_MS).tolist())


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _plausible(ts: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray((ts >= limits.TIME_MIN_MS) & (ts <= limits.TIME_MAX_MS))


def _conflict(stored: Any) -> str:
    if stored is None:
        return "this boot and seq are counted as stored without it; two devices may share one identity"
    return f"stored is {str(stored)[:100]}"
