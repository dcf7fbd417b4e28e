"""What operators changed, laid over the segmentation: a pure function of samples, rules and edits.

Edits are anchored in event time. A split is a forced cut where the data say that one trip goes on; a merge joins all
trips that overlap its span, but not across a split that was made after it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from outrider.trips import Evidence, Rules, Sample, Segmentation, Stop, Trip, polyline, segment

SPLIT = "split"
"""Start and end reason where an operator divided a trip."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change by an operator; of a split `from_ms` = `to_ms`."""

    id: str
    kind: Literal["merge", "split"]
    from_ms: int
    to_ms: int
    made_ms: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A trip as people see it, and the ids of the edits that made it so."""

    trip: Trip
    edits: tuple[str, ...] = ()


def segment_edited(
    samples: Sequence[Sample], rules: Rules, as_of_ms: int, edits: Sequence[Edit]
) -> tuple[list[Shown], Segmentation]:
    """Trips with all edits applied, oldest first, and the segmentation that says where the device stands."""
    plain = segment(samples, rules, as_of_ms)
    splits = [e for e in edits if e.kind == "split" and any(t.start_ms < e.from_ms < t.end_ms for t in plain.trips)]
    shown, last = _split(samples, rules, as_of_ms, splits) if splits else ([Shown(trip) for trip in plain.trips], plain)
    for merge in sorted((e for e in edits if e.kind == "merge"), key=lambda e: (e.made_ms, e.id)):
        shown = _merge(shown, merge, [s.from_ms for s in splits if s.made_ms > merge.made_ms], rules, samples)
    return shown, last


def _split(
    samples: Sequence[Sample], rules: Rules, as_of_ms: int, splits: Sequence[Edit]
) -> tuple[list[Shown], Segmentation]:
    ordered = sorted(samples, key=lambda sample: sample.ts)
    times = [sample.ts for sample in ordered]
    shown: list[Shown] = []
    begin, opened = 0, None
    for split in sorted(splits, key=lambda e: e.from_ms):
        end = bisect_left(times, split.from_ms)
        if end == begin:
            continue
        # Nothing more can come before the cut: what stands there is as final as it will ever be.
        over_ms = max(as_of_ms, times[end - 1] + 10 * rules.reach_ms)
        pieces = _opened(segment(ordered[begin:end], rules, over_ms).trips, opened)
        if pieces:
            pieces[-1] = Shown(replace(pieces[-1].trip, end_reason=SPLIT), (*pieces[-1].edits, split.id))
        shown += pieces
        begin, opened = end, split
    last = segment(ordered[begin:], rules, as_of_ms)
    return [*shown, *_opened(last.trips, opened)], last


def _opened(trips: Sequence[Trip], by: Edit | None) -> list[Shown]:
    shown = [Shown(trip) for trip in trips]
    if shown and by is not None:
        shown[0] = Shown(replace(shown[0].trip, start_reason=SPLIT), (by.id,))
    return shown


def _merge(
    shown: list[Shown], edit: Edit, barriers: Iterable[int], rules: Rules, samples: Sequence[Sample]
) -> list[Shown]:
    fences = sorted(barriers)
    groups: dict[int, list[Shown]] = {}
    rest: list[Shown] = []
    for one in shown:
        if one.trip.start_ms <= edit.to_ms and one.trip.end_ms >= edit.from_ms:
            groups.setdefault(bisect_left(fences, one.trip.end_ms), []).append(one)
        else:
            rest.append(one)
    for group in groups.values():
        rest.append(_joined(group, edit, rules, samples) if len(group) > 1 else group[0])
    return sorted(rest, key=lambda one: one.trip.start_ms)


def _joined(group: Sequence[Shown], edit: Edit, rules: Rules, samples: Sequence[Sample]) -> Shown:
    edits = dict.fromkeys([*(id_ for one in group for id_ in one.edits), edit.id])
    return Shown(join([one.trip for one in group], rules, samples), tuple(edits))


def join(trips: Sequence[Trip], rules: Rules, samples: Sequence[Sample]) -> Trip:
    """One trip of several, oldest first; what lies between two becomes a stop."""
    first, last = trips[0], trips[-1]
    pauses = [_pause(before, after, samples) for before, after in pairwise(trips)]
    distance_km = sum(trip.distance_km for trip in trips)
    duration_s = (last.end_ms - first.start_ms) / 1000
    moving_s, idle_s = sum(trip.moving_s for trip in trips), sum(trip.idle_s for trip in trips)
    ranks = get_args(Evidence)
    filtered: Counter[str] = Counter()
    for trip in trips:
        filtered.update(trip.filtered)
    return replace(
        last,
        start_ms=first.start_ms,
        start_lat=first.start_lat,
        start_lon=first.start_lon,
        start_reason=first.start_reason,
        micro=distance_km * 1000 < rules.micro_m or duration_s < rules.micro_s,
        distance_km=distance_km,
        distance_gps_km=_sum(trip.distance_gps_km for trip in trips),
        distance_speed_km=_sum(trip.distance_speed_km for trip in trips),
        distance_odometer_km=_sum(trip.distance_odometer_km for trip in trips),
        distance_uncertainty_km=sum(trip.distance_uncertainty_km for trip in trips),
        duration_s=duration_s,
        moving_s=moving_s,
        idle_s=idle_s,
        stop_s=max(0.0, duration_s - moving_s - idle_s),
        avg_speed_kmh=distance_km / duration_s * 3600 if duration_s else 0.0,
        max_speed_kmh=_max(trip.max_speed_kmh for trip in trips),
        max_rpm=_max(trip.max_rpm for trip in trips),
        soc_start_pct=_first(trip.soc_start_pct for trip in trips),
        soc_end_pct=_first(trip.soc_end_pct for trip in reversed(trips)),
        fuel_start_pct=_first(trip.fuel_start_pct for trip in trips),
        fuel_end_pct=_first(trip.fuel_end_pct for trip in reversed(trips)),
        track=polyline.encode(point for trip in trips for point in polyline.decode(trip.track)),
        evidence=min((trip.evidence for trip in trips), key=ranks.index),
        confidence=min(trip.confidence for trip in trips),
        points=sum(trip.points for trip in trips),
        gaps=tuple(gap for trip in trips for gap in trip.gaps),
        stops=tuple(sorted([*(stop for trip in trips for stop in trip.stops), *pauses], key=lambda s: s.start_ms)),
        distrusted=tuple(sorted({name for trip in trips for name in trip.distrusted})),
        filtered=dict(filtered),
    )


def _pause(before: Trip, after: Trip, samples: Sequence[Sample]) -> Stop:
    between = any(before.end_ms < sample.ts < after.start_ms for sample in samples)
    return Stop(before.end_ms, after.start_ms, before.end_lat, before.end_lon, None, not between)


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)
