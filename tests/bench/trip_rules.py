"""Trips by our rules beside those of Traccar and TeslaMate, on the same input: `python -m tests.bench.trip_rules [FILE]`.

The two others are small reference functions of the rules that their projects document and their sources show, written
anew here: what is compared is the rule, not the product. Samples reach all of them complete and in order, which is the
best case for rules that look at one position after the other.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import orjson

from outrider.trips import Columns, Rules, Sample, Trip, segment
from outrider.trips import score as scoring
from outrider.trips.geo import metres
from outrider_cli.trips import recording
from tests.bench.machine import machine_facts

ROOT = Path(__file__).resolve().parents[2]
DRIVES = ROOT / "tests" / "data" / "drives.csv.gz"
KNOTS_KMH = 1.852
DAY_MS = 86_400_000

TRACCAR_SPEED_KMH = 0.01 * KNOTS_KMH  # event.motion.speedThreshold, knots
TRACCAR_DISTANCE_M, TRACCAR_DURATION_S, TRACCAR_NO_DATA_S = 200.0, 180.0, 3600.0
TESLAMATE_OFFLINE_S = 900.0

INPUTS: tuple[tuple[str, scoring.Corruption], ...] = (
    ("1 Hz, rpm where recorded", scoring.Corruption()),
    ("1 Hz, rpm stripped", scoring.Corruption(strip_engine=True)),
    ("30 % of rows lost", scoring.Corruption(strip_engine=True, drop_pct=30)),
    ("every 10 s", scoring.Corruption(strip_engine=True, every_s=10)),
    ("every 30 s", scoring.Corruption(strip_engine=True, every_s=30)),
    ("every 60 s", scoring.Corruption(strip_engine=True, every_s=60)),
    ("parked rows each 60 s, 20 m noise", scoring.Corruption(strip_engine=True, parked_noise_m=20)),
    ("parked rows each 10 s, 20 m noise", scoring.Corruption(strip_engine=True, parked_noise_m=20, parked_every_s=10)),
)
Rule = Callable[[Sequence[Sample]], list[Trip]]


def traccar(samples: Sequence[Sample]) -> list[Trip]:
    """Motion by speed alone; it counts once it has lasted 180 s or 200 m, standing once it has lasted 180 s.

    An hour without data ends a trip. Ignition is ignored, as by default. Any flicker starts the wait anew.
    """
    trips: list[Trip] = []
    begun: Sample | None = None  # of the trip that goes on
    streak = state = False
    since: Sample | None = None
    since_km = travelled = 0.0
    last: Sample | None = None
    for sample in samples:
        if last is not None:
            travelled += _step_km(last, sample)
            if streak and sample.ts - last.ts >= 1000 * TRACCAR_NO_DATA_S:
                trips.append(_trip(begun or last, last, samples))
                streak = state = False
                begun = since = None
                last = sample
                continue
        moving = (sample.speed_kmh or 0.0) > TRACCAR_SPEED_KMH
        if moving != state:
            state = moving
            since, since_km = (None, 0.0) if streak == moving else (sample, travelled)
        elif since is not None:
            lasted = sample.ts - since.ts >= 1000 * TRACCAR_DURATION_S
            if moving and (lasted or 1000 * (travelled - since_km) >= TRACCAR_DISTANCE_M):
                begun, streak, since = since, True, None
            elif not moving and lasted:
                trips.append(_trip(begun or since, since, samples))
                begun, streak, since = None, False, None
        last = sample
    if begun is not None and last is not None:
        trips.append(_trip(begun, last, samples))
    return trips


def teslamate(samples: Sequence[Sample]) -> list[Trip]:
    """A drive lasts while the gear is D, N or R; P ends it, and so do 15 minutes offline.

    A recording without gears gets D from the first movement on: who waits at a light leaves the selector where it is.
    """
    trips: list[Trip] = []
    begun: Sample | None = None
    last: Sample | None = None
    for sample in samples:
        if begun is not None and last is not None and sample.ts - last.ts > 1000 * TESLAMATE_OFFLINE_S:
            trips.append(_trip(begun, last, samples))
            begun = None
        gear = sample.gear or ("D" if begun is not None or (sample.speed_kmh or 0.0) > 1 else "P")
        if gear == "P":
            if begun is not None:
                trips.append(_trip(begun, sample, samples))
                begun = None
        elif begun is None:
            begun = sample
        last = sample
    if begun is not None and last is not None:
        trips.append(_trip(begun, last, samples))
    return trips


def outrider(samples: Sequence[Sample]) -> list[Trip]:
    return list(segment(samples, Rules(), samples[-1].ts + DAY_MS).trips)


RULES: tuple[tuple[str, Rule], ...] = (
    ("Outrider", outrider),
    ("Traccar's rules", traccar),
    ("TeslaMate's rules", teslamate),
)


def _step_km(before: Sample, after: Sample) -> float:
    if None in (before.lat, before.lon, after.lat, after.lon):
        return 0.0
    return float(metres(before.lat, before.lon, after.lat, after.lon)) / 1000  # type: ignore[arg-type]


def _trip(first: Sample, last: Sample, samples: Sequence[Sample]) -> Trip:
    inside = [sample for sample in samples if first.ts <= sample.ts <= last.ts]
    km = sum(_step_km(before, after) for before, after in pairwise(inside))
    known = {"start_ms": first.ts, "end_ms": last.ts, "distance_km": km, "state": "final"}
    return Trip(**{**dict.fromkeys(Trip.__dataclass_fields__), **known})  # type: ignore[arg-type]


def compare(path: Path) -> list[list[str]]:
    """One row an input and rule: trips, F1 at each IoU, splits, merges, median errors."""
    rows = recording.read(path)
    truth = scoring.drives(rows)
    found = []
    for label, corruption in INPUTS:
        samples = sorted(corruption.apply(rows, random.Random(1)), key=lambda sample: sample.ts)
        for name, rule in RULES:
            result = scoring.score(truth, rule(samples))
            medians = [result[key]["median"] for key in ("start_error_s", "end_error_s", "distance_error")]
            found.append(
                [
                    label,
                    name,
                    str(result["trips"]),
                    *(f"{result['iou'][str(level)]['f1']:.2f}" for level in scoring.IOUS),
                    f"{result['split_rate']:.0%}",
                    f"{result['merge_rate']:.0%}",
                    "" if medians[0] is None else f"{medians[0]:.0f} s / {medians[1]:.0f} s",
                    "" if medians[2] is None else f"{medians[2]:.1%}",
                ]
            )
    return found


def speed(path: Path, rounds: int = 30) -> dict[str, float]:
    """CPU milliseconds for the first hour of driving at 1 Hz, from samples and from columns, and trips a second."""
    rows = recording.read(path)
    samples = [row.sample for row in rows]
    hour, as_of = samples[:3600], samples[3599].ts
    columns = Columns.of(hour)
    whole = Columns.of(samples)
    return {
        "ms_per_1000_rows_from_samples": _cpu_ms(lambda: segment(hour, Rules(), as_of), rounds) / 3.6,
        "ms_per_1000_rows_from_columns": _cpu_ms(lambda: segment(columns, Rules(), as_of), rounds) / 3.6,
        "trips_per_s": 1000 * 19 / _cpu_ms(lambda: segment(whole, Rules(), samples[-1].ts + DAY_MS), rounds),
        "rows_per_trip": len(samples) / 19,
    }


def _cpu_ms(call: Callable[[], object], rounds: int) -> float:
    call()
    spent = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        spent.append(1000 * (time.process_time() - begin))
    return sorted(spent)[len(spent) // 2]


HEADER = [
    "input",
    "rules",
    "trips",
    *(f"F1 at {level}" for level in scoring.IOUS),
    "split",
    "merge",
    "start / end",
    "distance",
]


def main(arguments: Sequence[str]) -> None:
    path = Path(arguments[0]) if arguments else DRIVES
    print("| " + " | ".join(HEADER) + " |")
    print("|---|---|" + "---:|" * (len(HEADER) - 2))
    for row in compare(path):
        print("| " + " | ".join(row) + " |")
    print()
    print(orjson.dumps({key: round(value, 2) for key, value in speed(path).items()}).decode())
    print(orjson.dumps(machine_facts(ROOT)).decode())
    print(orjson.dumps(asdict(Rules())).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
