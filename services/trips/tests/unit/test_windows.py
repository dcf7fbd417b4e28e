"""The window of what was touched is enough: replacing its trips gives the trips of all rows, whatever is late."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.trips import Rules, Sample, Trip, segment
from outrider_trips.windows import Bounds, Loader, Window

RULES = Rules.of({"idle_resume_s": 1000, "still_resume_s": 600, "bridge_s": 600, "wake_s": 300})
T0 = 1_750_000_000_000
MINUTE = 60_000
FOREVER = T0 + 10**12


def life(seed: int, parts: int = 14) -> list[Sample]:
    """Drives, standing with heartbeats, and silences, one after the other, with places that follow from each other."""
    chance = random.Random(seed)
    ts, lat = T0, 52.0
    rows: list[Sample] = []
    for _ in range(parts):
        kind = chance.choice(["drive", "drive", "stand", "silence"])
        minutes = chance.choice([2, 5, 12, 40, 90])
        if kind == "drive":
            for _ in range(minutes * 3):
                ts, lat = ts + 20_000, lat + 0.003
                rows.append(Sample(ts, lat=lat, lon=13.0, speed_kmh=60.0))
        elif kind == "stand":
            for _ in range(minutes):
                ts += MINUTE
                rows.append(Sample(ts, lat=lat, lon=13.0, speed_kmh=0.0))
        else:
            ts += minutes * MINUTE
    return rows or [Sample(T0, lat=lat, lon=13.0, speed_kmh=0.0)]


def load(rows: list[Sample], bounds: Bounds, stored: list[Trip]) -> tuple[Window, list[Trip]]:
    """The window, and which stored trips it replaces."""

    async def fetch(low_ms: int, high_ms: int | None) -> list[Sample]:
        return [row for row in rows if row.ts >= low_ms and (high_ms is None or row.ts < high_ms)]

    async def neighbour(at_ms: int, later: bool) -> int | None:
        if later:
            return min((row.ts for row in rows if row.ts >= at_ms), default=None)
        return max((row.ts for row in rows if row.ts < at_ms), default=None)

    replaced: list[Trip] = []

    async def reach(window: Window) -> tuple[int, int]:
        right_ms = FOREVER if window.right_ms is None else window.right_ms
        replaced[:] = [trip for trip in stored if trip.end_ms >= window.left_ms and trip.start_ms < right_ms]
        return (
            min([trip.start_ms for trip in replaced] or [window.left_ms]),
            max([trip.end_ms for trip in replaced] or [0]),
        )

    return asyncio.run(Loader(fetch, neighbour, RULES, bounds).load_all(reach)), replaced


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), begin=st.floats(0, 1), share=st.floats(0.01, 0.3))
def test_late_rows_change_only_their_window(seed: int, begin: float, share: float) -> None:
    rows = life(seed)
    first = int(begin * (len(rows) - 1))
    late = rows[first : first + max(1, int(share * len(rows)))]
    old = [row for row in rows if row not in late]
    stored = list(segment(old, RULES, FOREVER).trips)
    bounds = Bounds(late[0].ts, late[-1].ts, rows[0].ts, rows[-1].ts, 0)
    window, replaced = load(rows, bounds, stored)
    new = segment(window.samples, RULES, FOREVER).trips
    kept = [trip for trip in stored if trip not in replaced]
    assert sorted([*kept, *new], key=lambda trip: trip.start_ms) == list(segment(rows, RULES, FOREVER).trips)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), every=st.integers(5, 60))
def test_row_by_row_with_the_hint_of_the_time_before(seed: int, every: int) -> None:
    rows = life(seed, parts=8)
    stored: list[Trip] = []
    hint_ms = None
    last_ms = rows[0].ts
    for end in range(every, len(rows) + every, every):
        known = rows[:end]
        fresh = [row for row in known if row.ts >= last_ms]
        bounds = Bounds(fresh[0].ts, known[-1].ts, rows[0].ts, known[-1].ts, 0, hint_ms)
        window, replaced = load(known, bounds, stored)
        stored = [trip for trip in stored if trip not in replaced]
        stored += segment(window.samples, RULES, FOREVER).trips
        hint_ms, last_ms = window.resume_from_ms, known[-1].ts
    assert stored == list(segment(rows, RULES, FOREVER).trips)


def test_silence_is_an_edge_without_reading_over_it() -> None:
    drives = [
        Sample(T0 + day * 86_400_000 + i * 10_000, lat=52 + (day * 60 + i) * 0.0015, lon=13.0, speed_kmh=60.0)
        for day in range(5)
        for i in range(60)
    ]
    late = drives[130]
    window, _ = load(drives, Bounds(late.ts, late.ts, drives[0].ts, drives[-1].ts, 0), [])
    assert window.samples == drives[120:180]
    assert window.rows_read == 60
    assert (window.left_ms, window.right_ms) == (drives[120].ts, drives[180].ts)


def test_too_large_a_window_is_clipped() -> None:
    rows = [Sample(T0 + i * 10_000, lat=52 + i * 0.0015, lon=13.0, speed_kmh=60.0) for i in range(2_000)]
    bounds = Bounds(rows[-1].ts, rows[-1].ts, rows[0].ts, rows[-1].ts, 0, max_rows=500)
    window, _ = load(rows, bounds, [])
    assert window.clipped
    assert len(window.samples) < len(rows)


@pytest.mark.parametrize("silence", [1, 3 * 3_600_000])
def test_behind_the_horizon_it_begins_at_a_cut_or_a_silence(silence: int) -> None:
    rows = life(3, parts=30)
    horizon = rows[0].ts - silence if silence > 1 else rows[len(rows) // 2].ts
    known = [row for row in rows if row.ts >= horizon]
    bounds = Bounds(known[1].ts, known[-1].ts, T0 - 10**10, known[-1].ts, horizon)
    window, _ = load(known, bounds, [])
    assert window.frozen == (silence == 1)
    assert window.samples
    whole = segment(rows, RULES, FOREVER).trips
    assert list(segment(window.samples, RULES, FOREVER).trips) == [
        trip
        for trip in whole
        if trip.start_ms >= window.left_ms and (window.right_ms is None or trip.start_ms < window.right_ms)
    ]
    assert all(before.ts < after.ts for before, after in pairwise(window.samples))


def test_nothing_to_begin_at_behind_the_horizon() -> None:
    rows = [Sample(T0 + i * 10_000, lat=52 + i * 0.0015, lon=13.0, speed_kmh=60.0) for i in range(100)]
    window, replaced = load(rows, Bounds(rows[5].ts, rows[5].ts, T0 - 10**10, rows[-1].ts, T0), [])
    assert window.frozen
    assert (window.samples, replaced) == ([], [])
