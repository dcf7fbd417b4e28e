"""What a new segmentation changes of the stored trips: ids are kept by overlap, revisions count changes of final trips. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID, uuid4

from outrider.trips import Trip, to_json
from outrider_trips.overlay import Shown

Event = Literal["opened", "paused", "resumed", "closed", "changed", "removed"]
SUMMARY_MAX_BYTES = 8 * 1024
_BYTES_WITHOUT_TRACK = 1500
_SUMMED = (
    "distance_km",
    "distance_uncertainty_km",
    "duration_s",
    "moving_s",
    "idle_s",
    "stop_s",
    "avg_speed_kmh",
    "max_speed_kmh",
    "start_reason",
    "end_reason",
    "evidence",
    "confidence",
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A trip as the database has it."""

    id: UUID
    rev: int
    start_ms: int
    end_ms: int
    state: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A trip to insert or update."""

    id: UUID
    rev: int
    trip: Trip
    edited: bool
    detail: dict[str, Any]
    is_new: bool
    event: Event | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write and what to remove; nothing for a trip that is as it was."""

    written: list[Written]
    removed: list[Stored]


def detail_of(shown: Shown) -> dict[str, Any]:
    """All of a trip as stored in `trips.trip.detail`."""
    return to_json(shown.trip) | {"edits": list(shown.edits)}


def compare(stored: Sequence[Stored], shown: Sequence[Shown], *, late: bool) -> Changes:
    """Match by overlap, the longest first, and say what differs.

    `late`: what is new is older than what was known, or an operator's. Only that makes a new revision of a final trip:
    what follows it in order may still add to what is known of its end, the same in every run.
    """
    kept = _match(stored, shown)
    written: list[Written] = []
    for i, one in enumerate(shown):
        old, detail = kept.get(i), detail_of(one)
        if old is None:
            event: Event | None = "opened" if one.trip.open else "closed"
            written.append(Written(uuid4(), 1, one.trip, bool(one.edits), detail, True, event))
        elif old.detail != detail:
            rev = old.rev + (late and old.state == "final")
            event = _event(old.state, one.trip.state)
            written.append(Written(old.id, rev, one.trip, bool(one.edits), detail, False, event))
    ids = {old.id for old in kept.values()}
    return Changes(written, [old for old in stored if old.id not in ids])


def _match(stored: Sequence[Stored], shown: Sequence[Shown]) -> dict[int, Stored]:
    pairs = []
    for i, one in enumerate(shown):
        for old in stored:
            overlap = min(old.end_ms, one.trip.end_ms) - max(old.start_ms, one.trip.start_ms)
            if overlap >= 0:
                pairs.append((-overlap, one.trip.start_ms, old.start_ms, i, old))
    kept: dict[int, Stored] = {}
    used: set[UUID] = set()
    for *_, i, old in sorted(pairs, key=lambda pair: pair[:4]):
        if i not in kept and old.id not in used:
            kept[i] = old
            used.add(old.id)
    return kept


def _event(before: str, now: str) -> Event | None:
    if before == "final":
        return "changed"
    if now == "final":
        return "closed"
    if before != now:
        return "paused" if now == "paused" else "resumed"
    return None


def summary(id_: UUID | str, rev: int, edited: bool, detail: Mapping[str, Any]) -> dict[str, Any]:
    """A trip for MQTT: short, with its track where it fits into SUMMARY_MAX_BYTES."""
    short: dict[str, Any] = {
        "id": str(id_),
        "rev": rev,
        "state": detail["state"],
        "micro": detail["micro"],
        "edited": edited,
        "start": {"ts": detail["start_ms"], "lat": detail["start_lat"], "lon": detail["start_lon"]},
        "end": {"ts": detail["end_ms"], "lat": detail["end_lat"], "lon": detail["end_lon"]},
    }
    short |= {name: _rounded(detail[name]) for name in _SUMMED}
    # JSON doubles the backslashes of a polyline.
    track = detail["track"]
    if track and len(track) + track.count("\\") <= SUMMARY_MAX_BYTES - _BYTES_WITHOUT_TRACK:
        short["track"] = track
    return short


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
