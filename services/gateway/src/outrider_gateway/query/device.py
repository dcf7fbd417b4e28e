"""What one device measured: samples, or buckets of them, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider_gateway.errors import NotFound
from outrider_gateway.query import store
from outrider_gateway.query.asked import OF_TEXT, Asking, Range, round_step_ms, unknown_metric
from outrider_gateway.query.columns import NUMERIC, Column, Page, Series, column_of
from outrider_gateway.query.plan import Plan, Tier, plan, plan_rounded
from outrider_gateway.query.store import Snapshot, Store

MAX_METRICS = 50
STREAM_ROWS = 20_000
"""Rows of a page that is streamed, for one column; fewer with more columns."""
MOST_VALUES = 500_000
"""In one page, whatever was asked for: it is in memory as a whole. A text or JSON counts for twenty numbers."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a device. `step_ms` None: samples as they are when `aggregates` is `raw`, else one bucket over all."""

    tenant: str
    device: str
    series: tuple[Series, ...]
    range: Range
    step_ms: int | None
    aggregates: tuple[str, ...]
    """() for the usual ones: the mean of numbers, the last of texts."""
    forced: Tier | None = None

    @property
    def raw(self) -> bool:
        """True if samples are asked for, not buckets."""
        return self.aggregates == ("raw",)

    def wanted(self) -> list[tuple[Series, str | None]]:
        """Series and aggregate of each column."""
        if self.raw:
            return [(one, None) for one in self.series]
        usual = dict.fromkeys(NUMERIC, "mean")
        return [(one, name) for one in self.series for name in (self.aggregates or (usual.get(one.kind, "last"),))]

    def columns(self) -> list[Column]:
        """The columns of the answer."""
        return [column_of(one, name, len(self.aggregates) <= 1) for one, name in self.wanted()]


@dataclass(slots=True)
class Read:
    """A page, where the next one begins (None: at the end), and what it was read from."""

    page: Page
    next_ms: int | None
    plan: Plan
    at_ms: int
    """When, by the database's clock: nothing committed before is missing."""


async def resolve(snapshot: Snapshot, device: str, names: Sequence[str]) -> tuple[Series, ...]:
    """The series of these metrics; of a name such as `gear:string` the one of that kind; all numbers where none is named.

    Raises NotFound for a device that neither the registry nor the ledger has, Asking for an unknown metric with near names.
    """
    found = await store.series(snapshot, [device])
    if not found and not await store.devices(snapshot, [device]):
        raise NotFound(f"There is no device {device[:63]!r}.")
    return choose(found, device, names)


def choose(found: Sequence[Series], device: str, names: Sequence[str]) -> tuple[Series, ...]:
    """Of all series of a device (the number of a metric first) those that are named."""
    by_name: dict[str, Series] = {}
    for one in found:
        by_name.setdefault(one.metric, one)
        by_name[f"{one.metric}:{one.kind}"] = one
    if len(names) > MAX_METRICS:
        raise Asking(f"{len(names)} metrics are too many for one question: ask for {MAX_METRICS} at a time.")
    if not names:
        raise Asking(
            f"Name one metric or more: `metric=…`. {device} has: {', '.join(dict.fromkeys(one.metric for one in found))}."
            if found
            else f"Name one metric or more: `metric=…`. Nothing has been stored of {device} yet."
        )
    for name in names:
        if name not in by_name:
            raise Asking(unknown_metric(name, device, list(dict.fromkeys(one.metric for one in found))))
    return tuple(dict.fromkeys(by_name[name] for name in names))


def checked(question: Question, rounded_to: int | None = None) -> Question:
    """The question with its step, a round one for `rounded_to` points where none is given. Raises Asking for aggregates
    that a metric does not have."""
    for one in question.series:
        for name in question.aggregates:
            if one.kind not in NUMERIC and name not in (*OF_TEXT, "raw"):
                what = "text" if one.kind == "string" else "JSON"
                raise Asking(f"{one.metric} is {what}: it has no {name}. Ask for last, first, count or raw.")
    if rounded_to is not None:
        return replace(question, step_ms=round_step_ms(question.range.width_ms, rounded_to))
    return question


def most_rows(question: Question, rows: int) -> int:
    """At most so many `rows`, fewer where a row is wide."""
    wide = sum(1 if one.kind in NUMERIC else 20 for one, _ in question.wanted())
    return max(1, min(rows, MOST_VALUES // max(1, wide)))


async def read(snapshot: Snapshot, question: Question, start_ms: int, rows: int, rounded: bool = False) -> Read:
    """The page of at most `rows` rows that begins at `start_ms`; `rounded`: the step may become a wider one."""
    rest = Range(start_ms, question.range.end_ms)
    if question.raw:
        return await _samples(snapshot, question, rest, rows)
    return await _buckets(snapshot, question, rest, rows, rounded)


async def pages(of: Store, question: Question, first: Read) -> AsyncIterator[Page]:
    """The first page and all that follow, each of a transaction of its own."""
    yield first.page
    next_ms = first.next_ms
    rows = max(1000, STREAM_ROWS // max(1, len(question.wanted())))
    while next_ms is not None:
        async with of.snapshot(question.tenant) as snapshot:
            found = await read(snapshot, question, next_ms, rows)
        yield found.page
        next_ms = found.next_ms


async def _samples(snapshot: Snapshot, question: Question, rest: Range, rows: int) -> Read:
    kept = await store.kept(snapshot, (), rest)
    planned = plan(rest, None, kept, "raw")
    start_ms = planned.segments[0].start_ms if planned.segments else rest.end_ms
    found = await store.samples(snapshot, question.series, start_ms, rest.end_ms, rows + 1)
    page, next_ms = aligned(found, question.series, rows)
    return Read(page, next_ms, planned, snapshot.at_ms)


def aligned(found: Iterable[tuple[int, int, Any]], series: Sequence[Series], rows: int) -> tuple[Page, int | None]:
    """At most `rows` rows of (series id, time, value), where of each series the first `rows` + 1 are given; and the time
    of the row after them."""
    at = {one.id: n for n, one in enumerate(series)}
    by_time: dict[int, list[Any]] = {}
    width = len(at)
    for id_, t, value in found:
        row = by_time.get(t)
        if row is None:
            row = by_time[t] = [None] * width
        row[at[id_]] = value
    times = sorted(by_time)
    next_ms = times[rows] if len(times) > rows else None
    times = times[:rows]
    picked = [by_time[t] for t in times]
    return Page(times, [[row[n] for row in picked] for n in range(width)]), next_ms


async def _buckets(snapshot: Snapshot, question: Question, rest: Range, rows: int, rounded: bool) -> Read:
    step = question.step_ms
    numeric = [one for one in question.series if one.kind in NUMERIC]
    kept = await store.kept(snapshot, [one.id for one in numeric], rest)
    if rounded and step is not None:
        planned = plan_rounded(rest, step, kept, question.forced)
    else:
        planned = plan(rest, step, kept, question.forced)
    step = planned.step_ms
    next_ms: int | None = None
    if step is not None:
        end = rest.start_ms // step * step + rows * step
        if end < rest.end_ms:
            next_ms, rest = end, Range(rest.start_ms, end)
            planned = plan(rest, step, kept, question.forced)
    edges = any(name in ("first", "last") for _, name in question.wanted())
    by_bucket: dict[int, dict[int, tuple[Any, ...]]] = {}
    if numeric and planned.segments:
        for id_, t, *values in await store.buckets(snapshot, [one.id for one in numeric], planned, edges):
            by_bucket.setdefault(t, {})[id_] = tuple(values)
    texts = [one for one in question.series if one.kind not in NUMERIC]
    if texts:
        await _fold_texts(snapshot, texts, rest, step, kept.raw_from_ms, by_bucket)
    if step is None and by_bucket:
        by_bucket = {question.range.start_ms: by_bucket[0]}
    times = sorted(by_bucket)
    page = Page(times)
    for one, name in question.wanted():
        assert name is not None
        page.values.append([aggregate(by_bucket[t].get(one.id), name, one.kind) for t in times])
    return Read(page, next_ms, planned, snapshot.at_ms)


def aggregate(row: tuple[Any, ...] | None, name: str, kind: str) -> Any:
    """One aggregate of (count, sum, min, max, first, last); None where there is no row."""
    if row is None:
        return None
    count, total, low, high, first, last = row
    if name == "mean":
        return total / count
    value = {"count": count, "sum": total, "min": low, "max": high, "first": first, "last": last}[name]
    return value != 0 if kind == "boolean" and name in ("min", "max", "first", "last") else value


async def _fold_texts(
    snapshot: Snapshot,
    texts: Sequence[Series],
    rest: Range,
    step: int | None,
    raw_from_ms: int,
    into: dict[int, dict[int, tuple[Any, ...]]],
) -> None:
    """Count, first and last of texts and JSON per bucket, of which there are no rollups."""
    for one in texts:
        start: int | None = max(rest.start_ms, raw_from_ms)
        while start is not None and start < rest.end_ms:
            found = await store.samples(snapshot, [one], start, rest.end_ms, STREAM_ROWS)
            for _, t, value in sorted(found, key=lambda row: row[1]):
                rows = into.setdefault(0 if step is None else t // step * step, {})
                before = rows.get(one.id)
                rows[one.id] = (
                    (1, None, None, None, value, value) if before is None else (before[0] + 1, *before[1:5], value)
                )
            start = max(t for _, t, _ in found) + 1 if len(found) == STREAM_ROWS else None
