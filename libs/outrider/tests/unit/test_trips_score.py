"""Scoring on cases that can be counted by hand, and the score of the recorded drives, which must not fall."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from outrider.testing.journeys import Journey
from outrider.trips import Rules, Sample, Trip, cuts, geo, polyline, segment
from outrider.trips.score import Corruption, Drive, Recorded, drives, quantile, score, stream

DRIVES = Path(__file__).resolve().parents[4] / "tests" / "data" / "drives.csv.gz"
AFTER_MS = 86_400_000


@cache
def recorded() -> list[Recorded]:
    with gzip.open(DRIVES, "rt") as file:
        return [
            Recorded(
                Sample(
                    int(row["ts"]) * 1000,
                    float(row["lat"]),
                    float(row["lon"]),
                    float(row["speed_kmh"]),
                    rpm=float(row["rpm"]) if row["rpm"] else None,
                    hdop=float(row["hdop"]) if row["hdop"] else None,
                ),
                row["drive"],
                float(row["drive_km"]),
            )
            for row in csv.DictReader(file)
        ]


def trips_of(samples: Sequence[Sample], as_of_ms: int) -> Sequence[Trip]:
    return segment(samples, Rules(), as_of_ms).trips


def found(corruption: Corruption, seed: int = 1) -> tuple[dict[str, float], float]:
    """F1 by IoU and the median distance error of the recorded drives, made worse."""
    samples = corruption.apply(recorded(), random.Random(seed))
    result = score(drives(recorded()), trips_of(samples, recorded()[-1].sample.ts + AFTER_MS))
    return {level: rates["f1"] for level, rates in result["iou"].items()}, result["distance_error"]["median"]


def test_recorded_drives_are_found() -> None:
    for strip in (True, False):
        f1, far = found(Corruption(strip_engine=strip))
        assert f1["0.5"] == 1.0
        assert f1["0.8"] >= 0.94
        assert far <= 0.01


@pytest.mark.parametrize(
    ("corruption", "least"),
    [
        (Corruption(strip_engine=True, drop_pct=30), 0.90),
        (Corruption(strip_engine=True, every_s=10), 0.94),
        (Corruption(strip_engine=True, every_s=30), 0.90),
        (Corruption(strip_engine=True, parked_noise_m=20), 0.84),
        (Corruption(strip_engine=True, parked_noise_m=100, parked_every_s=300), 0.84),
    ],
)
def test_recorded_drives_are_found_when_made_worse(corruption: Corruption, least: float) -> None:
    f1, _ = found(corruption)
    assert f1["0.5"] >= 0.97
    assert f1["0.8"] >= least


def test_recorded_drives_in_late_batches_are_the_same() -> None:
    corruption = Corruption(shuffle=True, duplicate_pct=20)
    samples = corruption.apply(recorded(), random.Random(3))
    in_order = trips_of([row.sample for row in recorded()], recorded()[-1].sample.ts + AFTER_MS)
    assert list(stream(samples, 3, trips_of).trips) == list(in_order)


def test_recorded_drives_by_topics_of_one_metric() -> None:
    """Rows a few milliseconds apart are the full row: the same trips, but for those milliseconds."""
    rows = [row.sample for row in recorded()[:4000]]
    split = []
    for row in rows:
        split += [
            Sample(row.ts + 4, lat=row.lat),
            Sample(row.ts + 9, lon=row.lon),
            Sample(row.ts, speed_kmh=row.speed_kmh),
        ]
        split.append(Sample(row.ts + 6, hdop=row.hdop, rpm=row.rpm))
    as_of = rows[-1].ts + AFTER_MS
    assert list(trips_of(split, as_of)) == list(trips_of(rows, as_of))


def test_recorded_days_put_together_are_the_month() -> None:
    rows, rules = [row.sample for row in recorded()], Rules()
    as_of = rows[-1].ts + AFTER_MS
    bounds = [0, *cuts(rows, rules), len(rows)]
    assert len(bounds) > 8
    days = [segment(rows[low:high], rules, as_of).trips for low, high in pairwise(bounds)]
    assert [one for day in days for one in day] == list(segment(rows, rules, as_of).trips)


def test_defaults_sit_on_a_plateau() -> None:
    samples = Corruption(strip_engine=True).apply(recorded(), random.Random(1))
    for change in (
        {"silence_resume_s": 75},
        {"silence_resume_s": 130},
        {"still_resume_s": 700},
        {"still_resume_s": 1800},
    ):
        trips = segment(samples, Rules.of(change), recorded()[-1].sample.ts + AFTER_MS).trips
        assert score(drives(recorded()), trips)["iou"]["0.8"]["f1"] >= 0.94


def trip(start_s: float, end_s: float, km: float = 1.0) -> Trip:
    journey = Journey().drive(60)
    (some,) = trips_of(journey.samples, journey.now_ms + AFTER_MS)
    values = {name: getattr(some, name) for name in some.__dataclass_fields__}
    return Trip(**{**values, "start_ms": int(1000 * start_s), "end_ms": int(1000 * end_s), "distance_km": km})


def test_score_counts() -> None:
    truth = [Drive("a", 0, 100_000, 10.0), Drive("b", 200_000, 300_000, 10.0), Drive("c", 400_000, 500_000, None)]
    result = score(truth, [trip(0, 95, 9.0), trip(200, 240), trip(250, 300), trip(900, 950)])
    assert result["iou"]["0.5"] == {"precision": 0.5, "recall": 0.6667, "f1": 0.5714}
    assert result["iou"]["0.8"] == {"precision": 0.25, "recall": 0.3333, "f1": 0.2857}
    assert (result["split_rate"], result["merge_rate"]) == (0.3333, 0.0)
    assert result["end_error_s"] == {"median": 2.5, "p95": 4.75}
    assert result["distance_error"]["median"] == pytest.approx(0.5)
    assert score(truth, [trip(0, 500)])["merge_rate"] == 1.0
    assert score(truth, [])["iou"]["0.5"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.95) == 9.5


def test_stream_counts_finals_that_change() -> None:
    journey = Journey(every_s=10).drive(600).silence(300).drive(600)
    rows = journey.samples
    late = rows[:40] + rows[60:] + rows[40:60]  # the end of the first drive comes last
    assert stream(rows, 10, trips_of).changed_after_final == 0
    assert stream(late, 10, trips_of).changed_after_final == 1
    assert list(stream(late, 5, trips_of).trips) == list(stream(rows, 1, trips_of).trips)


def test_polyline_known_and_back() -> None:
    points = [(38.5, -120.2), (40.7, -120.95), (43.252, -126.453)]
    assert polyline.encode(points) == "_p~iF~ps|U_ulLnnqC_mqNvxq`@"
    assert polyline.decode(polyline.encode(points)) == points
    for wrong in ("_p~iF~ps|", "_p~iF", " "):
        with pytest.raises(ValueError, match="polyline"):
            polyline.decode(wrong)


def test_simplify_keeps_corners_and_bounds_the_count() -> None:
    corner = np.concatenate((np.linspace(48.0, 48.01, 50), np.full(50, 48.01)))
    east = np.concatenate((np.full(50, 16.0), np.linspace(16.0, 16.01, 50)))
    assert np.flatnonzero(geo.simplify(corner, east, 5.0, 100)).tolist() in ([0, 49, 99], [0, 50, 99])
    zigzag = 48 + 0.01 * (np.arange(400) % 2)
    assert int(geo.simplify(zigzag, np.linspace(16, 17, 400), 5.0, 50).sum()) <= 50
