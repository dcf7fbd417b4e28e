"""Which tiers answer a question: tables, and what holds for every plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_gateway.query.asked import Asking, Range
from outrider_gateway.query.plan import (
    TIERS,
    WIDTH_MS,
    Kept,
    Segment,
    TooFine,
    merged,
    plan,
    plan_rounded,
    tier_of,
)

M, H, D = 60_000, 3_600_000, 86_400_000
ALL = {"1m": 0, "5m": 0, "1h": 0}


def kept(raw_from: int = 0, until: int = 100 * D, **more: object) -> Kept:
    return Kept(raw_from, ALL, dict.fromkeys(ALL, until), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "step", "store", "source", "segments"),
    [
        # whole buckets of the coarsest tier that fits the step
        ((0, D), H, kept(), "1h", [("1h", 0, D)]),
        ((0, D), 10 * M, kept(), "5m", [("5m", 0, D)]),
        ((0, D), 2 * M, kept(), "1m", [("1m", 0, D)]),
        ((0, D), 30_000, kept(), "raw", [("raw", 0, D)]),
        ((0, D), None, kept(), "1h", [("1h", 0, D)]),
        # short ranges are as quick from raw
        ((0, 20 * M), M, kept(), "raw", [("raw", 0, 20 * M)]),
        # edges that are no whole bucket
        (
            (H - 90_000, 3 * H + 5),
            H,
            kept(),
            "1h",
            [("raw", H - 90_000, H - M), ("1m", H - M, H), ("1h", H, 3 * H), ("raw", 3 * H, 3 * H + 5)],
        ),
        # the newest buckets are not rolled up yet
        (
            (0, 10 * H),
            H,
            kept(until=7 * H + 10 * M),
            "1h",
            [("1h", 0, 7 * H), ("5m", 7 * H, 7 * H + 10 * M), ("raw", 7 * H + 10 * M, 10 * H)],
        ),
        # late samples
        (
            (0, 10 * H),
            H,
            kept(touched=((5 * H + 10 * M, 5 * H + 15 * M),)),
            "1h",
            [
                ("1h", 0, 5 * H),
                ("5m", 5 * H, 5 * H + 10 * M),
                ("raw", 5 * H + 10 * M, 5 * H + 15 * M),
                ("5m", 5 * H + 15 * M, 6 * H),
                ("1h", 6 * H, 10 * H),
            ],
        ),
        # an hour that was not composed again yet, where raw is long gone
        (
            (0, 10 * H),
            H,
            kept(raw_from=50 * H, touched_hours=((2 * H, 3 * H),)),
            "1h",
            [("1h", 0, 2 * H), ("5m", 2 * H, 3 * H), ("1h", 3 * H, 10 * H)],
        ),
        # touched below the horizon: raw cannot say it any more, the rollups are all there is
        ((0, 10 * H), H, kept(raw_from=50 * H, touched=((2 * H, 2 * H + 5 * M),)), "1h", [("1h", 0, 10 * H)]),
        # where raw is gone a bucket belongs to the range its start lies in
        (
            (H + 1, 3 * H + 1),
            5 * M,
            kept(raw_from=50 * H),
            "5m",
            [("1m", H + 1, H + 5 * M), ("5m", H + 5 * M, 3 * H), ("1m", 3 * H, 3 * H + 1)],
        ),
    ],
)
def test_plan_reads(asked: tuple[int, int], step: int | None, store: Kept, source: str, segments: list[object]) -> None:
    found = plan(Range(*asked), step, store)
    assert found.source == source
    assert [(s.tier, s.start_ms, s.end_ms) for s in found.segments] == segments


def test_plan_forced_tier_is_taken_with_exact_edges() -> None:
    found = plan(Range(10, 2 * H), H, kept(), "5m")
    assert found.source == "5m"
    assert found.segments == (Segment("raw", 10, M), Segment("1m", M, 5 * M), Segment("5m", 5 * M, 2 * H))


def test_plan_forced_raw_says_what_is_gone() -> None:
    found = plan(Range(0, 10 * H), None, kept(raw_from=5 * H), "raw")
    assert found.segments == (Segment("raw", 5 * H, 10 * H),)
    assert "1970-01-01T05:00:00.000Z are gone" in found.notes[0]


@pytest.mark.parametrize(
    ("step", "forced", "words"), [(90_000, "1m", "multiple of 1m"), (10 * M, "1h", "multiple of 1h")]
)
def test_plan_forced_tier_that_does_not_fit_is_refused(step: int, forced: str, words: str) -> None:
    with pytest.raises(Asking, match=words):
        plan(Range(0, D), step, kept(), tier_of(forced))


def test_plan_a_tier_that_is_not_there_is_refused() -> None:
    with pytest.raises(Asking, match="no rollups of 1h"):
        plan(Range(0, D), H, Kept(0, {"1m": 0}, {"1m": D}), "1h")
    assert plan(Range(0, D), H, Kept(0, {"1m": 0}, {"1m": D})).source == "1m"
    assert plan(Range(0, D), H, Kept()).source == "raw"


def test_plan_a_step_finer_than_what_is_left_is_refused_or_made_wider() -> None:
    store = Kept(50 * H, {"1m": 40 * H, "5m": 0, "1h": 0}, dict.fromkeys(ALL, 100 * H))
    with pytest.raises(TooFine, match="only rollups of 5m are left"):
        plan(Range(0, 60 * H), M, store)
    assert plan_rounded(Range(0, 60 * H), M, store).step_ms == 5 * M
    assert plan_rounded(Range(0, 60 * H), M, store, "1h").step_ms == H


def test_merged_keeps_everything_in_at_most_so_many() -> None:
    assert merged([(5, 6), (1, 3), (2, 4)]) == ((1, 4), (5, 6))
    assert merged([(0, 1), (2, 3), (100, 101), (102, 103)], 2) == ((0, 3), (100, 103))


@st.composite
def stores(draw: st.DrawFn) -> Kept:
    raw = draw(st.integers(0, 20)) * H
    gone = sorted(draw(st.lists(st.integers(0, 20), min_size=3, max_size=3)), reverse=True)
    until = draw(st.integers(20, 40)) * 5 * M + 10 * H
    touched = tuple((n * 5 * M, (n + 1) * 5 * M) for n in draw(st.sets(st.integers(0, 400), max_size=8)))
    hours = tuple((n * H, (n + 1) * H) for n in draw(st.sets(st.integers(0, 40), max_size=4)))
    starts = dict(zip(("1m", "5m", "1h"), (n * H for n in gone), strict=True))
    return Kept(max(raw, starts["1m"]), starts, dict.fromkeys(starts, until), touched, hours)  # type: ignore[arg-type]


@given(
    st.integers(0, 40 * H),
    st.integers(1, 40 * H),
    st.sampled_from([None, 1000, M, 5 * M, 15 * M, H, D]),
    stores(),
    st.sampled_from([None, "1m", "5m", "1h"]),
)
def test_every_plan_is_whole_and_reads_nothing_twice_or_unready(
    start: int, width: int, step: int | None, store: Kept, forced: str | None
) -> None:
    try:
        found = plan(Range(start, start + width), step, store, tier_of(forced))
    except Asking:
        return
    at = start
    for segment in found.segments:
        assert segment.tier in TIERS
        assert at <= segment.start_ms < segment.end_ms <= start + width
        # a gap only where nothing is left
        if at < segment.start_ms:
            assert segment.start_ms <= max(store.raw_from_ms, *store.from_ms.values())
        at = segment.end_ms
        if segment.tier == "raw":
            assert segment.start_ms >= store.raw_from_ms
            continue
        assert step is None or step % WIDTH_MS[segment.tier] == 0
        assert segment.start_ms >= store.from_ms[segment.tier]
        if segment.end_ms > store.raw_from_ms:  # what raw could say better is whole, complete and clean
            assert segment.start_ms % WIDTH_MS[segment.tier] == 0 or segment.start_ms < store.raw_from_ms
            assert segment.end_ms <= store.until_ms[segment.tier]
            for low, high in store.touched:
                low = max(low, store.raw_from_ms)
                assert low >= high or high <= segment.start_ms or low >= segment.end_ms
    assert not found.segments or at == start + width
