"""Which tiers answer a question: raw samples or the 1 min, 5 min, 1 h rollups. Pure: no clock, no I/O.

What a plan reads equals what raw samples alone would give, wherever raw samples are there: edges that are no whole bucket,
the newest buckets that are not rolled up yet, and buckets that late samples touched since, are read from finer tiers, in
the end from raw. Where raw is gone a bucket belongs to the range that its start lies in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from outrider_gateway.query.asked import STEPS_MS, Asking, Range, duration_ms, iso

Tier = Literal["raw", "1m", "5m", "1h"]
TIERS: tuple[Tier, ...] = ("raw", "1m", "5m", "1h")
WIDTH_MS: Mapping[Tier, int] = {"raw": 1, "1m": 60_000, "5m": 300_000, "1h": 3_600_000}
SHORT_MS = 30 * 60_000
"""A range that raw samples answer as quickly."""
MOST_HOLES = 64
"""More separate touched places than that are read as fewer, wider ones."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store has, as of one snapshot; times in epoch ms."""

    raw_from_ms: int = 0
    """Raw samples before it are gone."""
    from_ms: Mapping[Tier, int] = field(default_factory=dict)
    """Buckets of a rollup tier before it are gone; a tier that is missing is not there at all."""
    until_ms: Mapping[Tier, int] = field(default_factory=dict)
    """Buckets that end later may not be rolled up yet."""
    touched: tuple[tuple[int, int], ...] = ()
    """Times whose samples changed since they were rolled up."""
    touched_hours: tuple[tuple[int, int], ...] = ()
    """Hours whose five minutes changed since the hour was composed of them."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of one tier whose time lies in [start, end)."""

    tier: Tier
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read, in order of time and without overlap; `step_ms` None: one bucket over everything."""

    source: Tier
    """The tier most of the range is read from."""
    step_ms: int | None
    segments: tuple[Segment, ...]
    notes: tuple[str, ...] = ()

    @property
    def reads_raw(self) -> bool:
        """True if raw samples are part of it."""
        return any(segment.tier == "raw" for segment in self.segments)


class TooFine(Asking):
    """Only buckets wider than the step are left."""

    def __init__(self, text: str, width_ms: int) -> None:
        super().__init__(text)
        self.width_ms = width_ms


def tier_of(name: str | None) -> Tier | None:
    """The tier that `source` forces; None for `auto`."""
    if name in (None, "", "auto"):
        return None
    for tier in TIERS:
        if name == tier:
            return tier
    raise Asking(f"There is no source {str(name)[:40]!r}: ask for auto, raw, 1m, 5m or 1h.")


def plan(asked: Range, step_ms: int | None, kept: Kept, forced: Tier | None = None) -> Plan:
    """What to read for this range in buckets of `step_ms` (aligned to 1970, UTC).

    Raises Asking when a forced tier does not fit the step or is not there, TooFine when the step is finer than what is
    left of the range.
    """
    kept = _aligned(kept)
    if forced == "raw":
        segments = [Segment("raw", max(asked.start_ms, kept.raw_from_ms), asked.end_ms)]
        segments = [segment for segment in segments if segment.start_ms < segment.end_ms]
        note = f"Raw samples before {iso(kept.raw_from_ms)} are gone; rollups of that time are kept."
        return Plan("raw", step_ms, tuple(segments), (note,) if asked.start_ms < kept.raw_from_ms else ())
    top = TIERS.index(_best(asked, step_ms, kept) if forced is None else _fitting(forced, step_ms, kept))
    segments = _joined(_cover(asked.start_ms, asked.end_ms, top, kept))
    for segment in segments:
        width = WIDTH_MS[segment.tier]
        if step_ms is not None and step_ms % width:
            raise TooFine(
                f"Before {iso(segment.end_ms)} only rollups of {segment.tier} are left: ask for a `step` that is a "
                f"multiple of {segment.tier}, or for a later `from`.",
                width,
            )
    totals = {tier: sum(s.end_ms - s.start_ms for s in segments if s.tier == tier) for tier in TIERS}
    return Plan(max(TIERS, key=lambda tier: totals[tier]) if segments else TIERS[top], step_ms, tuple(segments))


def plan_rounded(asked: Range, step_ms: int, kept: Kept, forced: Tier | None = None) -> Plan:
    """As `plan`, for a step we chose ourselves: it becomes the next round one that what is left allows."""
    for step in [step_ms, *(wider for wider in STEPS_MS if wider > step_ms)]:
        if forced is not None and step % WIDTH_MS[forced]:
            continue
        try:
            return plan(asked, step, kept, forced)
        except TooFine:
            continue
    return plan(asked, step_ms, kept, forced)


def merged(intervals: Iterable[tuple[int, int]], most: int = MOST_HOLES) -> tuple[tuple[int, int], ...]:
    """The intervals in order, those that touch joined, and then the nearest until there are at most so many."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    if len(joined) > most:
        gaps = sorted(((b[0] - a[1], n) for n, (a, b) in enumerate(pairwise(joined))), reverse=True)
        cuts = sorted(n for _, n in gaps[: most - 1])
        edges = [-1, *cuts, len(joined) - 1]
        joined = [(joined[before + 1][0], joined[at][1]) for before, at in pairwise(edges)]
    return tuple(joined)


def _aligned(kept: Kept) -> Kept:
    """What is left from whole hours on: a bucket is never counted beside the raw samples of its second half."""
    hour = WIDTH_MS["1h"]
    return Kept(
        _up(kept.raw_from_ms, hour),
        {tier: _up(start, hour) for tier, start in kept.from_ms.items()},
        kept.until_ms,
        merged(kept.touched),
        merged(kept.touched_hours),
    )


def _best(asked: Range, step_ms: int | None, kept: Kept) -> Tier:
    if asked.width_ms <= SHORT_MS and asked.start_ms >= kept.raw_from_ms:
        return "raw"
    fitting = [tier for tier in TIERS if step_ms is None or step_ms % WIDTH_MS[tier] == 0]
    return fitting[-1]


def _fitting(tier: Tier, step_ms: int | None, kept: Kept) -> Tier:
    if tier not in kept.from_ms:
        raise Asking(f"There are no rollups of {tier} here: ask for source=auto.")
    if step_ms is not None and step_ms % duration_ms(tier):
        raise Asking(f"source={tier} needs a `step` that is a multiple of {tier}.")
    return tier


def _cover(start: int, end: int, level: int, kept: Kept) -> list[Segment]:
    """Segments for [start, end), from whole clean buckets of this tier and what is finer."""
    if start >= end:
        return []
    if level == 0:
        raw = max(start, kept.raw_from_ms)
        left = _by_start(start, min(end, kept.raw_from_ms), kept)
        return [*left, Segment("raw", raw, end)] if raw < end else left
    tier = TIERS[level]
    width = WIDTH_MS[tier]
    low = _up(max(start, kept.from_ms.get(tier, end)), width)
    high = min(end, kept.until_ms.get(tier, start)) // width * width
    if low >= high:
        return _cover(start, end, level - 1, kept)
    found = _cover(start, low, level - 1, kept)
    for hole_start, hole_end in _holes(low, high, width, kept):
        found += [Segment(tier, low, hole_start)] if low < hole_start else []
        found += _cover(hole_start, hole_end, level - 1, kept)
        low = hole_end
    found += [Segment(tier, low, high)] if low < high else []
    return [*found, *_cover(high, end, level - 1, kept)]


def _holes(low: int, high: int, width: int, kept: Kept) -> Sequence[tuple[int, int]]:
    """The buckets in [low, high) that were touched and can be read again from what is finer."""
    touched = [(max(start, kept.raw_from_ms), end) for start, end in kept.touched if end > kept.raw_from_ms]
    if width == WIDTH_MS["1h"]:
        touched += kept.touched_hours
    return merged(
        (max(low, start // width * width), min(high, _up(end, width)))
        for start, end in touched
        if end > low and start < high
    )


def _by_start(start: int, end: int, kept: Kept) -> list[Segment]:
    """Where raw is gone: the finest tier that is left, a bucket by its start."""
    found: list[Segment] = []
    for tier in TIERS[1:]:
        if start >= end or tier not in kept.from_ms:
            continue
        low = max(start, kept.from_ms[tier])
        if low < end:
            found.insert(0, Segment(tier, low, end))
            end = low
    return found


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """Neighbours of one tier as one."""
    found: list[Segment] = []
    for segment in segments:
        if found and found[-1].tier == segment.tier and found[-1].end_ms == segment.start_ms:
            found[-1] = Segment(segment.tier, found[-1].start_ms, segment.end_ms)
        else:
            found.append(segment)
    return found


def _up(value: int, width: int) -> int:
    return -(-value // width) * width
