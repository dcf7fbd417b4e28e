"""How well trips match drives whose truth is known: intersection over union, splits, merges, errors of time and distance.

And the ways in which a recording is made worse first, as devices, networks and receivers do. Pure: randomness is given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from outrider.trips.model import Sample, Trip

IOUS = (0.5, 0.8, 0.9)
_TOUCH = 0.1  # an overlap of less than this share of the shorter one is not counted as a split or merge
_METRES_PER_DEGREE = 111_195.0

Segmenter = Callable[[Sequence[Sample], int], Sequence[Trip]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row of a recording: what the device reports, and the hidden truth. No drive: recorded while parked."""

    sample: Sample
    drive: str | None
    drive_km: float | None = None


@dataclass(frozen=True, slots=True)
class Drive:
    """The truth: one drive from its first to its last row; `km` as far as it was recorded."""

    name: str
    start_ms: int
    end_ms: int
    km: float | None


def drives(rows: Iterable[Recorded]) -> list[Drive]:
    """The drives of a recording in order of time."""
    found: dict[str, list[Recorded]] = {}
    for row in rows:
        if row.drive is not None:
            found.setdefault(row.drive, []).append(row)
    result = []
    for name, own in found.items():
        own.sort(key=lambda row: row.sample.ts)
        counted = [row.drive_km for row in own if row.drive_km is not None]
        km = counted[-1] - counted[0] if len(counted) > 1 else None
        result.append(Drive(name, own[0].sample.ts, own[-1].sample.ts, km))
    return sorted(result, key=lambda drive: drive.start_ms)


def iou(drive: Drive, trip: Trip) -> float:
    """Intersection over union of the two times, 0..1."""
    shared = min(drive.end_ms, trip.end_ms) - max(drive.start_ms, trip.start_ms)
    if shared <= 0:
        return 0.0
    return shared / (max(drive.end_ms, trip.end_ms) - min(drive.start_ms, trip.start_ms))


def score(truth: Sequence[Drive], trips: Sequence[Trip]) -> dict[str, Any]:
    """Precision, recall and F1 by IoU; rates of drives split and trips merged; errors of the pairs with IoU 0.5 or more.

    Each drive is paired with at most one trip, best IoU first. Errors are absolute; distances relative to the drive's.
    """
    candidates = [(iou(drive, trip), i, j) for i, drive in enumerate(truth) for j, trip in enumerate(trips)]
    candidates = sorted((entry for entry in candidates if entry[0] > 0), key=lambda entry: (-entry[0], *entry[1:]))
    pairs: list[tuple[float, Drive, Trip]] = []
    used_drives: set[int] = set()
    used_trips: set[int] = set()
    for value, i, j in candidates:
        if i not in used_drives and j not in used_trips:
            used_drives.add(i)
            used_trips.add(j)
            pairs.append((value, truth[i], trips[j]))
    close = [(drive, trip) for value, drive, trip in pairs if value >= IOUS[0]]
    far = [abs(trip.distance_km - drive.km) / drive.km for drive, trip in close if drive.km]
    return {
        "iou": {str(level): _rates(sum(value >= level for value, _, _ in pairs), truth, trips) for level in IOUS},
        "split_rate": _share(sum(_touching(drive, trips) > 1 for drive in truth), len(truth)),
        "merge_rate": _share(sum(_touching(trip, truth) > 1 for trip in trips), len(trips)),
        "start_error_s": _spread([abs(trip.start_ms - drive.start_ms) / 1000 for drive, trip in close]),
        "end_error_s": _spread([abs(trip.end_ms - drive.end_ms) / 1000 for drive, trip in close]),
        "distance_error": _spread(far),
        "drives": len(truth),
        "trips": len(trips),
    }


def _rates(hits: int, truth: Sequence[Drive], trips: Sequence[Trip]) -> dict[str, float]:
    total = len(truth) + len(trips)
    return {
        "precision": _share(hits, len(trips)),
        "recall": _share(hits, len(truth)),
        "f1": round(2 * hits / total, 4) if total else 0.0,
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _touching(one: Drive | Trip, others: Sequence[Drive] | Sequence[Trip]) -> int:
    count = 0
    for other in others:
        shared = min(one.end_ms, other.end_ms) - max(one.start_ms, other.start_ms)
        shorter = min(one.end_ms - one.start_ms, other.end_ms - other.start_ms)
        count += shared > 0 and shared >= _TOUCH * shorter
    return count


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"median": quantile(values, 0.5), "p95": quantile(values, 0.95)}


def quantile(values: Sequence[float], at: float) -> float | None:
    """Linear between the ranks; None of no values."""
    if not values:
        return None
    ranked = sorted(values)
    place = at * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return round(ranked[below] + (ranked[above] - ranked[below]) * (place - below), 5)


@dataclass(frozen=True, slots=True)
class Corruption:
    """What happens to a recording between the vehicle and us. Percentages of rows, seconds, metres; 0 is nothing."""

    every_s: float = 0.0  # report only each so many seconds
    drop_pct: float = 0.0
    duplicate_pct: float = 0.0
    parked_noise_m: float = 0.0  # report while parked too, with a wandering position
    parked_every_s: float = 60.0
    delay_s: float = 0.0  # each row arrives up to this late, so rows overtake each other
    shuffle: bool = False
    strip_engine: bool = False  # no rpm, ignition and gear

    def apply(self, rows: Sequence[Recorded], chance: random.Random) -> list[Sample]:
        """The samples in order of arrival."""
        kept = sorted(rows, key=lambda row: row.sample.ts)
        if self.every_s > 0:
            kept = _thinned(kept, self.every_s)
        if self.drop_pct > 0:
            kept = [row for row in kept if chance.random() * 100 >= self.drop_pct]
        samples = [row.sample for row in kept]
        if self.parked_noise_m > 0:
            samples += _parked(kept, self.parked_noise_m, max(self.every_s, self.parked_every_s), chance)
        if self.strip_engine:
            samples = [replace(sample, rpm=None, ignition=None, gear=None) for sample in samples]
        if self.duplicate_pct > 0:
            samples += [sample for sample in samples if chance.random() * 100 < self.duplicate_pct]
        if self.shuffle:
            chance.shuffle(samples)
        else:
            late = [sample.ts + chance.uniform(0, 1000 * self.delay_s) for sample in samples]
            samples = [samples[i] for i in sorted(range(len(samples)), key=late.__getitem__)]
        return samples


def _thinned(rows: Sequence[Recorded], every_s: float) -> list[Recorded]:
    kept: list[Recorded] = []
    for row in rows:
        if not kept or row.sample.ts // (1000 * every_s) != kept[-1].sample.ts // (1000 * every_s):
            kept.append(row)
    return kept


def _parked(rows: Sequence[Recorded], noise_m: float, every_s: float, chance: random.Random) -> list[Sample]:
    """Rows between drives: the last place with Gaussian noise in both directions, and a receiver's idea of no speed."""
    found = []
    for before, after in pairwise(rows):
        place = before.sample
        if before.drive == after.drive or place.lat is None or place.lon is None:
            continue
        ts = place.ts + int(1000 * every_s)
        while ts < after.sample.ts:
            north, east = (chance.gauss(0, noise_m) / _METRES_PER_DEGREE for _ in range(2))
            lon = place.lon + east / max(0.01, math.cos(math.radians(place.lat)))
            found.append(Sample(ts, place.lat + north, lon, abs(chance.gauss(0, 0.4))))
            ts += int(1000 * every_s)
    return found


@dataclass(frozen=True, slots=True)
class Streamed:
    """What a stream of batches came to: the trips after the last one, and how often a final trip had to be changed."""

    trips: tuple[Trip, ...]
    changed_after_final: int


def stream(samples: Sequence[Sample], batches: int, segmenter: Segmenter) -> Streamed:
    """Give the samples in batches, ask for the trips after each, and once more a day after the newest sample."""
    size = max(1, math.ceil(len(samples) / max(1, batches)))
    final: set[tuple[int, int]] = set()
    changed = 0
    newest = 0
    for end in range(size, len(samples) + size, size):
        newest = max(newest, *(sample.ts for sample in samples[end - size : end]))
        now = {(trip.start_ms, trip.end_ms) for trip in segmenter(samples[:end], newest) if not trip.open}
        changed += len(final - now)
        final = now
    return Streamed(tuple(segmenter(samples, newest + 86_400_000)), changed)
