"""Samples as sorted columns: one row a time, duplicates merged, impossible values taken out and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from outrider.trips.model import Sample
from outrider.trips.rules import CLOCK_FLOOR_MS, Rules

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

METRICS = (
    "lat",
    "lon",
    "speed_kmh",
    "ignition",
    "gear",
    "rpm",
    "odometer_km",
    "accuracy_m",
    "hdop",
    "soc_pct",
    "fuel_pct",
)
LAT, LON, SPEED, IGNITION, GEAR, RPM, ODOMETER, ACCURACY, HDOP, SOC, FUEL = range(len(METRICS))
_FIELDS = attrgetter("ts", *METRICS)
_PARK, _DRIVE, _NEUTRAL = 0.0, 1.0, float("nan")
_GEARS = {"P": _PARK, "PARK": _PARK, "PARKED": _PARK, "N": _NEUTRAL, "NEUTRAL": _NEUTRAL, "0": _NEUTRAL, "": _NEUTRAL}
_HDOP_M = 5.0  # metres of error per unit of HDOP: what a consumer receiver's range error comes to
_ABSURD = 1e7  # no metric here has such a value, infinity included
_MAX_RPM = 20_000.0


def gear_code(gear: str | float | None) -> float:
    """1 for a gear that drives, 0 for park, NaN for neutral, unknown and none."""
    if gear is None or isinstance(gear, bool):
        return _NEUTRAL
    if isinstance(gear, int | float):
        return _DRIVE if gear == gear and gear != 0 else _NEUTRAL
    return _GEARS.get(gear.strip().upper(), _DRIVE)


@dataclass(frozen=True, slots=True)
class Columns:
    """`ts` (float milliseconds) ascending and distinct; `values` one column a metric of METRICS, NaN where there is none."""

    ts: Floats
    values: Floats  # (metric, row)
    filtered: tuple[tuple[str, Floats], ...] = ()  # reason and the times of what was left out

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        """The columns of samples in any order; of rows with the same time the greatest value of each metric counts."""
        if not samples:
            return cls(np.empty(0), np.empty((len(METRICS), 0)))
        ts, *columns = zip(*map(_FIELDS, samples), strict=True)
        values = np.full((len(METRICS), len(samples)), np.nan)
        for metric, column in enumerate(columns):
            if column.count(None) < len(column):  # most metrics are absent altogether: their columns cost nothing
                values[metric] = list(map(gear_code, column)) if metric == GEAR else column
        return cls.merged(np.array(ts, dtype=np.float64), values)

    @classmethod
    def build(cls, ts: Sequence[float] | Ints | Floats, metrics: Mapping[str, Floats]) -> Columns:
        """From arrays by metric (METRICS; `gear` as `gear_code` gives it), for callers that have columns already."""
        times = np.array(ts, dtype=np.float64)
        values = np.full((len(METRICS), len(times)), np.nan)
        for name, column in metrics.items():
            values[METRICS.index(name)] = column
        return cls.merged(times, values)

    @classmethod
    def merged(cls, ts: Floats, values: Floats) -> Columns:
        if len(ts) > 1 and not bool(np.all(ts[1:] > ts[:-1])):
            order = np.argsort(ts, kind="stable")
            ts, values = ts[order], values[:, order]
            first = np.flatnonzero(np.concatenate(([True], ts[1:] > ts[:-1])))
            if len(first) < len(ts):
                ts, values = ts[first], np.fmax.reduceat(values, first, axis=1)
        return cls(ts, values)

    def take(self, keep: Bools) -> Columns:
        return Columns(self.ts[keep], self.values[:, keep], self.filtered)

    def without(self, reason: str, rows: Bools) -> Columns:
        """The same without these rows, counted."""
        if not rows.any():
            return self
        return Columns(self.ts[~rows], self.values[:, ~rows], (*self.filtered, (reason, self.ts[rows])))

    def clean(self, rules: Rules, as_of_ms: float | None) -> Columns:
        """Without times that cannot be, rows of single metrics joined, impossible fixes and values taken out."""
        columns = self.without("bad_time", ~(self.ts >= CLOCK_FLOOR_MS))
        if as_of_ms is not None:
            columns = columns.without("future", columns.ts > as_of_ms + 1000 * rules.future_s)
        columns = _paired(columns, rules.pair_ms)
        ts, values = columns.ts, columns.values.copy()
        filtered = list(columns.filtered)

        absurd = ~(np.abs(values) < _ABSURD) & ~np.isnan(values)
        if absurd.any():
            filtered.append(("bad_value", ts[absurd.any(axis=0)]))
            values[absurd] = np.nan

        def blank(reason: str, metrics: Sequence[int], rows: Bools) -> None:
            if rows.any():
                values[list(metrics)] = np.where(rows, np.nan, values[list(metrics)])
                filtered.append((reason, ts[rows]))

        lat, lon = values[LAT], values[LON]
        blank("unpaired", (LAT, LON), np.isnan(lat) != np.isnan(lon))
        lat, lon = values[LAT], values[LON]
        blank("zero_island", (LAT, LON), (np.abs(lat) < 1e-3) & (np.abs(lon) < 1e-3))
        lat, lon = values[LAT], values[LON]
        bad = (np.abs(lat) > 90) | (np.abs(lon) > 180) | (values[HDOP] > rules.max_hdop)
        bad = (bad | (values[ACCURACY] > rules.max_accuracy_m)) & ~np.isnan(lat)
        blank("bad_fix", (LAT, LON), bad)
        blank("bad_speed", (SPEED,), (values[SPEED] < 0) | (values[SPEED] > rules.max_kmh))
        lat, lon = values[LAT], values[LON]
        stale = np.zeros(len(ts), dtype=np.bool_)  # the receiver repeats itself: a place, but not one of this time
        stale[1:] = (lat[1:] == lat[:-1]) & (lon[1:] == lon[:-1]) & (values[SPEED][1:] >= rules.start_kmh)
        blank("stale_fix", (LAT, LON), stale)
        blank("bad_rpm", (RPM,), (values[RPM] < 0) | (values[RPM] > _MAX_RPM))
        blank("bad_odometer", (ODOMETER,), values[ODOMETER] < 0)
        return Columns(ts, values, tuple(filtered))

    def error_m(self, rules: Rules) -> Floats:
        """The 68 % error of each row's fix in metres: as reported, from HDOP, or the rules' default."""
        reported = np.where(np.isnan(self.values[HDOP]), rules.accuracy_m, self.values[HDOP] * _HDOP_M)
        return np.clip(np.where(np.isnan(self.values[ACCURACY]), reported, self.values[ACCURACY]), 5.0, None)


def _paired(columns: Columns, pair_ms: float) -> Columns:
    """Rows that follow within `pair_ms` of a group's first and have no metric in common with it become one row."""
    ts = columns.ts
    if len(ts) < 2:
        return columns
    near = np.diff(ts) <= pair_ms
    if not near.any():
        return columns
    bits = ((~np.isnan(columns.values)).T @ (1 << np.arange(len(METRICS)))).tolist()
    times = ts.tolist()
    starts = np.ones(len(ts), dtype=np.bool_)
    begin, seen, last = -1.0, 0, -2
    for row in (np.flatnonzero(near) + 1).tolist():
        if row != last + 1:  # a new chain: the row before it stands at its head
            begin, seen = times[row - 1], bits[row - 1]
        if times[row] - begin <= pair_ms and not seen & bits[row]:
            starts[row] = False
            seen |= bits[row]
        else:
            begin, seen = times[row], bits[row]
        last = row
    first = np.flatnonzero(starts)
    return Columns(ts[first], np.fmax.reduceat(columns.values, first, axis=1), columns.filtered)
