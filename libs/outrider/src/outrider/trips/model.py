"""What the trip core takes and gives: samples, trips, their gaps and stops. Plain values, no behaviour.

Times are epoch milliseconds (int), durations seconds, distances kilometres or metres as the name says, angles degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["idle", "driving", "paused"]
TripState = Literal["driving", "paused", "final"]
Evidence = Literal["ignition", "gear", "rpm", "odometer", "speed", "displacement"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of evidence of one device at one time; everything but `ts` may be missing.

    Rows that carry one metric each (scalar topics) are as good as full rows: rows within `Rules.pair_ms` that do not
    contradict each other are read as one.
    """

    ts: int  # epoch ms, the device's time
    lat: float | None = None
    lon: float | None = None
    speed_kmh: float | None = None
    ignition: bool | None = None
    gear: str | float | None = None  # "P", "N", "D", "R", a number; P means parked, N says nothing
    rpm: float | None = None
    odometer_km: float | None = None
    accuracy_m: float | None = None  # 68 % radius, as phones report it
    hdop: float | None = None
    alt_m: float | None = None
    heading_deg: float | None = None
    soc_pct: float | None = None
    fuel_pct: float | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A silence inside a trip that is longer than its reports lead one to expect, and what is known about it."""

    start_ms: int
    end_ms: int
    moved: bool | None  # None: no position on one side of it
    distance_km: float  # straight line; 0 when unknown
    confidence: float  # 0..1 that the trip did go on through it


@dataclass(frozen=True, slots=True)
class Stop:
    """A standstill inside a trip, long enough to be worth naming (`Rules.stop_s`) and too short to end it."""

    start_ms: int
    end_ms: int
    lat: float | None
    lon: float | None
    engine: bool | None  # running, off, unknown: the last word of a trusted sensor in it
    silent: bool  # the device did not report for most of it


@dataclass(frozen=True, slots=True)
class Trip:
    """One trip. `open` until nothing but more samples can change it; an open trip ends at its newest row or at arrival."""

    start_ms: int
    end_ms: int
    state: TripState
    micro: bool
    start_lat: float | None
    start_lon: float | None
    end_lat: float | None
    end_lon: float | None
    distance_km: float  # the best of the three below
    distance_gps_km: float | None
    distance_speed_km: float | None
    distance_odometer_km: float | None
    distance_uncertainty_km: float  # plus or minus
    duration_s: float  # = moving_s + idle_s + stop_s
    moving_s: float
    idle_s: float  # standing, shorter than a stop each time
    stop_s: float  # standing in `stops`
    avg_speed_kmh: float  # distance over duration
    max_speed_kmh: float | None
    max_rpm: float | None
    soc_start_pct: float | None
    soc_end_pct: float | None
    fuel_start_pct: float | None
    fuel_end_pct: float | None
    track: str  # encoded polyline, precision 5, simplified
    start_reason: str  # see docs/architecture/trips.md
    end_reason: str | None  # None while open
    evidence: Evidence  # the highest kind that the trip rests on
    confidence: float
    points: int  # rows with a time of their own inside the trip
    gaps: tuple[Gap, ...] = ()
    stops: tuple[Stop, ...] = ()
    distrusted: tuple[str, ...] = ()  # sensors that contradicted the motion and were not believed
    filtered: Mapping[str, int] = field(default_factory=dict)  # what was left out inside the trip, by reason

    @property
    def open(self) -> bool:
        return self.state != "final"


@dataclass(frozen=True, slots=True)
class Segmentation:
    """All trips of one set of samples, oldest first, and where the device stands at `as_of_ms`."""

    trips: tuple[Trip, ...]
    state: State
    since_ms: int | None  # when that state began; None: nothing is known
    due_ms: int | None  # the next time at which `as_of_ms` alone changes this result; None: only samples can
    filtered: Mapping[str, int]  # rows or fixes left out, by reason, inside trips or not
