"""Ids, revisions and events of stored trips; the summary for MQTT."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import orjson
import pytest

from outrider.contract.payloads import TripSummary
from outrider.trips import Rules, Sample, Trip, segment
from outrider_trips.changes import SUMMARY_MAX_BYTES, Stored, compare, detail_of, summary
from outrider_trips.overlay import Shown
from outrider_trips.testing import T0, drive

TRIP: Trip = segment([Sample(**row) for row in drive(T0)], Rules(), T0 + 10**8).trips[0]
ID = UUID(int=7)


def stored(trip: Trip, id_: UUID = ID, rev: int = 1) -> Stored:
    detail = orjson.loads(orjson.dumps(detail_of(Shown(trip))))
    return Stored(id_, rev, trip.start_ms, trip.end_ms, trip.state, detail)


def shifted(trip: Trip, ms: int) -> Trip:
    return replace(trip, start_ms=trip.start_ms + ms, end_ms=trip.end_ms + ms)


def test_what_is_the_same_is_not_written() -> None:
    changes = compare([stored(TRIP)], [Shown(TRIP)], late=True)
    assert (changes.written, changes.removed) == ([], [])


@pytest.mark.parametrize(
    ("before", "now", "late", "rev", "event"),
    [
        ("driving", "driving", False, 1, None),
        ("driving", "paused", False, 1, "paused"),
        ("paused", "driving", True, 1, "resumed"),
        ("paused", "final", True, 1, "closed"),
        ("final", "final", True, 2, "changed"),
        ("final", "driving", True, 2, "changed"),
        ("final", "final", False, 1, "changed"),
    ],
)
def test_revisions_and_events(before: str, now: str, late: bool, rev: int, event: str | None) -> None:
    old = replace(TRIP, state=before, points=1)  # type: ignore[arg-type]
    new = replace(TRIP, state=now)  # type: ignore[arg-type]
    (written,) = compare([stored(old)], [Shown(new)], late=late).written
    assert (written.id, written.rev, written.event, written.is_new) == (ID, rev, event, False)


@pytest.mark.parametrize(("state", "event"), [("driving", "opened"), ("final", "closed")])
def test_new_trip(state: str, event: str) -> None:
    (written,) = compare([], [Shown(replace(TRIP, state=state))], late=True).written  # type: ignore[arg-type]
    assert (written.rev, written.event, written.is_new) == (1, event, True)


def test_id_goes_to_the_longest_overlap_and_the_rest_is_removed() -> None:
    length = TRIP.end_ms - TRIP.start_ms
    ids = [uuid4() for _ in range(3)]
    before = [stored(shifted(TRIP, ms), id_) for ms, id_ in zip((0, length // 4, 5 * length), ids, strict=True)]
    (written,) = compare(before, [Shown(shifted(TRIP, length // 3))], late=True).written
    assert written.id == ids[1]
    removed = compare(before, [Shown(shifted(TRIP, length // 3))], late=True).removed
    assert [trip.id for trip in removed] == [ids[0], ids[2]]


def test_summary_fits_whatever_the_track() -> None:
    detail = detail_of(Shown(TRIP))
    assert summary(ID, 1, False, detail)["track"] == TRIP.track
    for track in ("\\" * 5_000, "x" * 20_000, "\\" * 3_300):
        payload = orjson.dumps(summary(ID, 1, False, {**detail, "track": track}))
        assert len(payload) <= SUMMARY_MAX_BYTES


@pytest.mark.parametrize(
    "trip", [TRIP, replace(TRIP, start_lat=None, start_lon=None, end_reason=None, state="driving")]
)
def test_summary_is_the_contracts(trip: Trip) -> None:
    short = summary(ID, 1, True, detail_of(Shown(trip)))
    assert TripSummary.model_validate_json(orjson.dumps(short)).model_dump(exclude_unset=True) == short
