"""Going on from a checkpoint gives what all samples give, whatever came before and however late the new ones are."""

from __future__ import annotations

import random

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.testing.journeys import Journey
from outrider.trips import Behind, Checkpoint, Columns, Rules, Sample, Trip, follow, segment
from outrider.trips.checkpoint import needed_ms, settled_ms
from outrider.trips.motion import motion
from outrider.trips.rest import Tempo

from .test_trips_invariance import histories

RULES = Rules()
MINUTE = 60_000


class Follower:
    """Keeps the trips of one device up to date as the service does."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.trips: list[Trip] = []
        self.checkpoint: Checkpoint | None = None
        self.read = self.went_on = 0

    def add(self, samples: list[Sample], as_of_ms: int) -> None:
        """Samples come, and are looked at."""
        self.samples = sorted([*self.samples, *samples], key=lambda sample: sample.ts)
        since = self.checkpoint
        if since is not None and min(sample.ts for sample in samples) > since.settled_ms:
            rows = [sample for sample in self.samples if sample.ts >= since.read_ms]
            try:
                found, self.checkpoint = follow(rows, RULES, as_of_ms, since)
            except Behind:
                pass
            else:
                self.trips = [trip for trip in self.trips if trip.start_ms < since.start_ms] + list(found.trips)
                self.read, self.went_on = len(rows), self.went_on + 1
                whole = segment(self.samples, RULES, as_of_ms)
                assert (found.state, found.since_ms, found.due_ms) == (whole.state, whole.since_ms, whole.due_ms)
                assert self.trips == list(whole.trips)
                self._pack()
                return
        found, self.checkpoint = follow(self.samples, RULES, as_of_ms)
        self.trips, self.read = list(found.trips), len(self.samples)
        self._pack()

    def _pack(self) -> None:
        if self.checkpoint is not None:
            packed = Checkpoint.from_json(orjson.loads(orjson.dumps(self.checkpoint.to_json())))
            assert packed == self.checkpoint
            self.checkpoint = packed


@st.composite
def rounds(draw: st.DrawFn) -> list[Sample]:
    """A day of short drives and stops, with what sensors say, sometimes not all the same way."""
    journey = Journey(every_s=draw(st.sampled_from([10.0, 30.0])))
    journey.fixes, journey.speeds = draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True)]))
    on, off = draw(
        st.sampled_from([({}, {}), ({"ignition": True}, {"ignition": False}), ({"rpm": 900.0}, {"rpm": 0.0})])
    )
    for _ in range(draw(st.integers(6, 14))):
        journey.turn(draw(st.integers(0, 359)))
        word = draw(st.sampled_from([on, on, on, {}, off]))
        journey.drive(draw(st.integers(20, 900)), draw(st.sampled_from([4.0, 30.0, 50.0])), **word)
        journey.stand(draw(st.sampled_from([20, 60, 200, 1000, 1500])), **draw(st.sampled_from([off, off, {}, on])))
        if draw(st.booleans()):
            journey.silence(draw(st.sampled_from([40, 150, 900, 2000])), draw(st.sampled_from([0.0, 0.0, 30.0])))
    return journey.samples


def grow(samples: list[Sample], chance: random.Random, late: float) -> Follower:
    follower = Follower()
    waiting: list[Sample] = []
    place = 0
    while place < len(samples):
        size = chance.choice([5, 20, 60])
        part, place = samples[place : place + size], place + size
        if chance.random() < late:
            waiting += part
            continue
        if chance.random() < 0.3:
            part, waiting = [*part, *waiting], []
        newest = max(sample.ts for sample in [*part, *follower.samples])
        follower.add(part, newest + chance.choice([0, 0, 20_000, 200_000]))
    return follower


@settings(max_examples=40, deadline=None)
@given(rounds() | histories(12), st.integers(0, 10**6), st.sampled_from([0.0, 0.0, 0.1]))
def test_follow_gives_what_all_samples_give(samples: list[Sample], seed: int, late: float) -> None:
    grow(samples, random.Random(seed), late)


@pytest.mark.parametrize("word", [{}, {"ignition": True}])
def test_follow_reads_as_much_in_the_evening_as_in_the_morning(word: dict[str, bool]) -> None:
    journey = Journey(every_s=10.0)
    read = []
    follower = Follower()
    for _hour in range(10):
        seen = len(journey.samples)
        for _ in range(3):
            journey.turn(90)
            journey.drive(600, 50.0, **word)
            journey.stand(150, **dict.fromkeys(word, False))
            journey.silence(450)
        for place in range(seen, len(journey.samples), 40):
            part = journey.samples[place : place + 40]
            follower.add(part, part[-1].ts)
        read.append(follower.read)
    assert len(follower.trips) == 30
    assert max(read[3:]) <= max(read[:3])
    assert follower.went_on > 40


def test_settled_waits_for_the_next_fix_and_needed_reaches_the_one_before() -> None:
    """An interval between two fixes is judged as one, however many rows without lie in it."""
    rows = [
        Sample(1000 * s, lat=48.2 if s in (0, 2000) else None, lon=16.3, speed_kmh=50.0) for s in range(0, 4000, 10)
    ]
    moves = motion(Columns.of(rows), np.empty(0), RULES)
    last = 50  # at 500 s; verdicts look ahead for 120 s
    assert settled_ms(moves, last, RULES) == 2_000_000
    assert settled_ms(moves, 300, RULES) == 3_010_000 + 120_000 + 1_800_000
    tempo = Tempo.of(10_000, 10_000, RULES)
    assert needed_ms(moves, 3_900_000, tempo, RULES) == 2_000_000 - 120_000
    assert needed_ms(moves, 5_000_000, tempo, RULES) == 5_000_000 - (100_000 + 900_000 + 120_000) - 1_800_000
