"""Operators' merges and splits laid over the segmentation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from outrider.trips import Rules, Sample, polyline, segment
from outrider_trips.overlay import Edit, Shown, segment_edited
from outrider_trips.testing import HOUR, MINUTE, T0, drive

RULES = Rules()
FIRST = [Sample(**row) for row in drive(T0)]
SECOND = [Sample(**row) for row in drive(T0 + 30 * MINUTE, lat=52.09)]
THIRD = [Sample(**row) for row in drive(T0 + 60 * MINUTE, lat=52.18)]
ALL = [*FIRST, *SECOND, *THIRD]
LATER = T0 + 9 * HOUR


def shown(samples: list[Sample], *edits: Edit, as_of_ms: int = LATER) -> list[Shown]:
    return segment_edited(samples, RULES, as_of_ms, edits)[0]


def merge(from_ms: int, to_ms: int, made_ms: int = 1, id_: str = "m") -> Edit:
    return Edit(id_, "merge", from_ms, to_ms, made_ms)


def split(at_ms: int, made_ms: int = 1, id_: str = "s") -> Edit:
    return Edit(id_, "split", at_ms, at_ms, made_ms)


def spans(trips: list[Shown]) -> list[tuple[int, int]]:
    return [(one.trip.start_ms, one.trip.end_ms) for one in trips]


def test_without_edits_it_is_the_segmentation() -> None:
    assert [one.trip for one in shown(ALL)] == list(segment(ALL, RULES, LATER).trips)


def test_merged_trips_add_up() -> None:
    a, b, c = (one.trip for one in shown(ALL))
    one, rest = shown(ALL, merge(a.start_ms, b.end_ms))
    trip = one.trip
    assert (rest.trip, rest.edits, one.edits) == (c, (), ("m",))
    assert (trip.start_ms, trip.end_ms) == (a.start_ms, b.end_ms)
    assert trip.distance_km == a.distance_km + b.distance_km
    assert trip.moving_s + trip.idle_s + trip.stop_s == trip.duration_s == (b.end_ms - a.start_ms) / 1000
    assert [(stop.start_ms, stop.end_ms) for stop in trip.stops] == [(a.end_ms, b.start_ms)]
    assert trip.points == a.points + b.points
    assert polyline.decode(trip.track) == [*polyline.decode(a.track), *polyline.decode(b.track)]
    assert (trip.start_lat, trip.end_lat) == (a.start_lat, b.end_lat)
    assert (trip.start_reason, trip.end_reason) == (a.start_reason, b.end_reason)


def test_merge_holds_what_lies_between_and_what_comes_late() -> None:
    a, c = shown([*FIRST, *THIRD])
    edit = merge(a.trip.start_ms, c.trip.end_ms)
    assert spans(shown(ALL, edit)) == [(a.trip.start_ms, c.trip.end_ms)]


def test_merge_with_an_open_trip_is_open() -> None:
    samples = [*FIRST, *SECOND[:20]]
    edit = merge(FIRST[0].ts, SECOND[10].ts)
    (one,) = shown(samples, edit, as_of_ms=SECOND[19].ts)
    assert (one.trip.state, one.trip.end_reason) == ("driving", None)


def test_merge_of_a_single_trip_changes_nothing() -> None:
    assert shown(FIRST, merge(T0 - HOUR, T0 + HOUR)) == shown(FIRST)


def test_split_gives_two_trips() -> None:
    (whole,) = shown(FIRST)
    first, second = shown(FIRST, split(T0 + 5 * MINUTE))
    assert first.trip.end_ms < T0 + 5 * MINUTE <= second.trip.start_ms
    assert (first.trip.end_reason, second.trip.start_reason) == ("split", "split")
    assert (first.trip.state, second.trip.state) == ("final", "final")
    assert (first.edits, second.edits) == (("s",), ("s",))
    assert first.trip.distance_km + second.trip.distance_km == pytest.approx(whole.trip.distance_km, rel=0.05)


def test_split_of_an_open_trip_ends_its_first_part_at_once() -> None:
    first, second = shown(FIRST[:50], split(T0 + 5 * MINUTE), as_of_ms=FIRST[49].ts)
    assert (first.trip.state, second.trip.state) == ("final", "driving")


@pytest.mark.parametrize("at_ms", [T0 - HOUR, T0 + 20 * MINUTE, T0 + 9 * HOUR])
def test_split_where_no_trip_is_changes_nothing(at_ms: int) -> None:
    assert shown(ALL, split(at_ms)) == shown(ALL)


def test_later_edit_wins() -> None:
    """Split after merge divides the merged trip again; merge after split joins it again."""
    a, b, _ = (one.trip for one in shown(ALL))
    at = T0 + 5 * MINUTE
    merged_then_split = shown(ALL, merge(a.start_ms, b.end_ms, made_ms=1), split(at, made_ms=2))
    assert len(merged_then_split) == 3
    assert merged_then_split[1].trip.end_ms == b.end_ms
    assert merged_then_split[1].edits == ("s", "m")
    split_then_merged = shown(ALL, split(at, made_ms=1), merge(a.start_ms, b.end_ms, made_ms=2))
    assert spans(split_then_merged)[0] == (a.start_ms, b.end_ms)
    assert len(split_then_merged) == 2


def test_order_of_edits_and_samples_does_not_matter() -> None:
    edits = [merge(FIRST[0].ts, SECOND[-1].ts, 1, "a"), split(T0 + 5 * MINUTE, 2, "b"), split(T0 + 35 * MINUTE, 3, "c")]
    results: list[Any] = [shown(list(reversed(ALL)), *some) for some in itertools.permutations(edits)]
    assert all(result == results[0] for result in results)
