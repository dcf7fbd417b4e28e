"""Trips are a function of a set of samples: no order, batch, duplicate or hour of asking makes others."""

from __future__ import annotations

import itertools
import random
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.testing.journeys import NOON_MS, Journey
from outrider.trips import Rules, Sample, Trip, cuts, from_json, segment, to_json

RULES = Rules()
DAY_MS = 86_400_000
REPORTED = st.fixed_dictionaries({}, optional={"ignition": st.booleans(), "rpm": st.sampled_from([0.0, 800.0])})


@st.composite
def histories(draw: Any, steps: int = 8) -> list[Sample]:
    """Some days of a device: drives, stands and silences of any length, reported at any interval, with faults in it."""
    journey = Journey(every_s=draw(st.sampled_from([5.0, 10.0, 30.0, 60.0])))
    journey.fixes, journey.speeds = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    for _ in range(draw(st.integers(min(3, steps), steps))):
        what = draw(st.sampled_from(["drive", "stand", "silence", "long", "interval", "fault"]))
        if what == "drive":
            journey.turn(draw(st.integers(0, 359)))
            journey.drive(
                draw(st.integers(10, 1200)), draw(st.sampled_from([3.0, 8.0, 30.0, 50.0, 120.0])), **draw(REPORTED)
            )
        elif what == "stand":
            journey.stand(draw(st.integers(10, 3000)), **draw(REPORTED))
        elif what == "silence":
            journey.silence(draw(st.integers(20, 4000)), draw(st.sampled_from([0.0, 0.0, 2.0, 40.0])))
        elif what == "long":
            if draw(st.booleans()):
                journey.silence(draw(st.integers(4000, 40_000)))
            else:
                usual, journey.every_s = journey.every_s, 300.0
                journey.stand(draw(st.integers(8000, 20_000)))
                journey.every_s = usual
        elif what == "interval":
            journey.every_s = draw(st.sampled_from([1.0, 5.0, 60.0])) if len(journey.samples) < 800 else 60.0
        else:
            journey.now_ms += 700
            journey.row(**draw(st.sampled_from(FAULTS)))
    return journey.samples or [Sample(NOON_MS)]


FAULTS: list[dict[str, Any]] = [
    {"lat": 0.0, "lon": 0.0, "speed_kmh": 0.0},
    {"lat": 49.9, "lon": 16.4},
    {"lat": 48.2},
    {"speed_kmh": 4000.0},
    {"rpm": 900.0},
    {"ignition": False},
    {"lat": 48.2, "lon": 16.37, "accuracy_m": 3000.0},
    {"speed_kmh": 60.0},
]


def after(samples: list[Sample]) -> int:
    return max(sample.ts for sample in samples) + DAY_MS


@settings(max_examples=40, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_segment_any_order_and_duplicates(samples: list[Sample], chance: random.Random) -> None:
    shuffled = samples + [sample for sample in samples if chance.random() < 0.3]
    chance.shuffle(shuffled)
    for as_of_ms in (after(samples), samples[-1].ts):
        assert segment(shuffled, RULES, as_of_ms) == segment(samples, RULES, as_of_ms)


@settings(max_examples=50, deadline=None)
@given(histories(), st.integers(0, 10**6))
def test_cuts_parts_have_the_trips_of_the_whole(samples: list[Sample], pick: int) -> None:
    places = cuts(samples, RULES)
    assert places == sorted(places)
    if not places:
        return
    whole = segment(samples, RULES, after(samples)).trips
    for place in {places[0], places[-1], places[pick % len(places)]}:
        parts = [segment(part, RULES, after(samples)).trips for part in (samples[:place], samples[place:])]
        assert [*parts[0], *parts[1]] == list(whole)
    bounds = [0, *places, len(samples)] if len(places) < 12 else [0, *places[:: len(places) // 5], len(samples)]
    days = [segment(samples[a:b], RULES, after(samples)).trips for a, b in itertools.pairwise(bounds)]
    assert [trip for day in days for trip in day] == list(whole)


@settings(max_examples=50, deadline=None)
@given(histories(), st.integers(0, 10**6))
def test_cuts_are_decided_within_reach(samples: list[Sample], pick: int) -> None:
    places = cuts(samples, RULES)
    if not places:
        return
    place = places[pick % len(places)]
    low, high = samples[place - 1].ts - RULES.reach_ms, samples[place].ts + RULES.reach_ms
    near = [sample for sample in samples if low <= sample.ts <= high]
    assert near.index(samples[place]) in cuts(near, RULES)


@settings(max_examples=50, deadline=None)
@given(histories(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cuts_seen_through_a_window_are_cuts_of_the_whole(samples: list[Sample], one: int, two: int) -> None:
    low, high = sorted((one % len(samples), two % len(samples)))
    window = samples[low : high + 1]
    known = [
        place
        for place in cuts(window, RULES)
        if window[place - 1].ts - window[0].ts >= RULES.reach_ms and window[-1].ts - window[place].ts >= RULES.reach_ms
    ]
    assert {low + place for place in known} <= set(cuts(samples, RULES))


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(0, 6000), st.integers(0, 6000))
def test_segment_later_turns_only_open_into_final(samples: list[Sample], soon_s: int, later_s: int) -> None:
    newest = max(sample.ts for sample in samples)
    early, late = sorted((newest + 1000 * soon_s, newest + 1000 * later_s))
    before, now = segment(samples, RULES, early), segment(samples, RULES, late)
    assert [trip for trip in before.trips if not trip.open] == list(now.trips[: sum(not t.open for t in before.trips)])
    assert [trip.start_ms for trip in before.trips] == [trip.start_ms for trip in now.trips]
    assert all(not trip.open for trip in before.trips[:-1])
    if before.due_ms is None or late < before.due_ms:
        assert now == before
    assert segment(samples, RULES, newest + DAY_MS).due_ms is None


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(0, 4000))
def test_segment_due_is_when_something_changes(samples: list[Sample], soon_s: int) -> None:
    now = segment(samples, RULES, max(sample.ts for sample in samples) + 1000 * soon_s)
    if now.due_ms is not None:
        at_due = segment(samples, RULES, now.due_ms)
        assert (at_due.state, at_due.trips) != (now.state, now.trips)


def sound(trips: tuple[Trip, ...]) -> None:
    for trip in trips:
        assert 0 <= trip.start_ms <= trip.end_ms
        assert min(trip.duration_s, trip.moving_s, trip.idle_s, trip.stop_s, trip.distance_km) >= 0
        assert abs(trip.moving_s + trip.idle_s + trip.stop_s - trip.duration_s) < 0.01
        assert 0 <= trip.confidence <= 1
        assert all(gap.start_ms < gap.end_ms for gap in trip.gaps)
        assert all(trip.start_ms <= stop.start_ms < stop.end_ms <= trip.end_ms for stop in trip.stops)
        assert from_json(orjson.loads(orjson.dumps(to_json(trip)))) == trip
    for one, two in itertools.pairwise(trips):
        assert one.end_ms <= two.start_ms


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(0, 4000))
def test_segment_trips_are_sound(samples: list[Sample], soon_s: int) -> None:
    sound(segment(samples, RULES, max(sample.ts for sample in samples) + 1000 * soon_s).trips)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-200, 200) | st.none()
ROWS = st.builds(
    Sample,
    ts=st.integers(-(10**9), 5 * 10**12) | st.integers(NOON_MS, NOON_MS + 600_000),
    lat=numbers | st.floats(48, 48.01),
    lon=numbers | st.floats(16, 16.01),
    speed_kmh=numbers,
    ignition=st.booleans() | st.none(),
    gear=st.sampled_from(["P", "D", "", "N", None, 3, 0]),
    rpm=numbers,
    odometer_km=numbers,
    accuracy_m=numbers,
    hdop=numbers,
    soc_pct=numbers,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=40), st.integers(NOON_MS, NOON_MS + DAY_MS))
def test_segment_any_rows_at_all(samples: list[Sample], as_of_ms: int) -> None:
    found = segment(samples, RULES, as_of_ms)
    sound(found.trips)
    assert segment(samples[::-1], RULES, as_of_ms) == found
    cuts(sorted(samples, key=lambda sample: sample.ts), RULES)
