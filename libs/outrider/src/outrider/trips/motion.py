"""Where the device moves, judged row by row from speed, odometer and displacement; what cannot be is taken out first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from outrider.trips.columns import LAT, LON, ODOMETER, SPEED, Bools, Columns, Floats, Ints
from outrider.trips.geo import metres
from outrider.trips.rules import Rules

_JUMP_SLACK_M = 50.0
_TELEPORT_FIXES, _TELEPORT_S = 10, 120.0  # a longer stay elsewhere is believed
JUMP_S = 600.0  # further apart, two fixes say nothing about each other: 50 km are a drive then
_AROUND_MS, _AROUND_MAX_MS = 7_500.0, 20_000.0  # the window that gives a fix without speed one
_STUCK_MS, _STUCK_MAX_MS = (
    30_000.0,
    60_000.0,
)  # how long a vehicle must go on before and after a speed of 0 to refute it
VERDICT_MS = 2 * _STUCK_MAX_MS  # how far from a row others are asked whether it moves, longer intervals aside
_STRAIGHT = 0.7  # the share of four steps that a way makes good
_ODOMETER_KM = 0.05
_TOWED_M = 2_500.0  # odometers may count whole kilometres; beyond this one that stands says something


@dataclass(frozen=True, slots=True)
class Motion:
    """Kinetic rows (those with a speed, a fix or an odometer) and what moves. All arrays are by kinetic row."""

    ts: Floats
    row: Ints  # of the cleaned columns
    lat: Floats
    lon: Floats
    error: Floats
    speed: Floats
    odometer: Floats
    moving: Bools  # this row moves
    carried: Bools  # the interval to the next row: displacement or odometer shows driving (one shorter)
    last_fix: Ints  # the newest row up to this one with a fix, not older than `Rules.bridge_s`; -1 none
    refuted: Bools  # the speed said still and was not believed
    jumps: Floats  # times near which a fix was or may have been a teleport

    @property
    def active(self) -> Bools:
        """Rows that move or bound an interval that does: what trips are made of."""
        found = self.moving.copy()
        found[:-1] |= self.carried
        found[1:] |= self.carried
        return found


def without_teleports(columns: Columns, rules: Rules) -> tuple[Columns, Floats]:
    """The columns without fixes that no vehicle could have reached and left, and the times of all jumps."""
    fixes = np.flatnonzero(~np.isnan(columns.values[LAT]))
    if len(fixes) < 2:
        return columns, np.empty(0)
    ts, lat, lon = columns.ts[fixes], columns.values[LAT][fixes], columns.values[LON][fixes]
    error = columns.error_m(rules)[fixes]
    seconds = np.diff(ts) / 1000
    slack = error[:-1] + error[1:] + _JUMP_SLACK_M
    jump = metres(lat[:-1], lon[:-1], lat[1:], lon[1:]) - slack > rules.max_kmh / 3.6 * seconds
    jump &= seconds <= JUMP_S
    if not jump.any():
        return columns, np.empty(0)

    def plausible(before: int, after: int) -> bool:
        took = float(ts[after] - ts[before]) / 1000
        far = float(metres(lat[before], lon[before], lat[after], lon[after]))
        slack = float(error[before] + error[after]) + _JUMP_SLACK_M
        return took > JUMP_S or far - slack <= rules.max_kmh / 3.6 * took

    bounds = np.concatenate(([0], np.flatnonzero(jump) + 1, [len(fixes)])).tolist()
    kept: list[tuple[int, int]] = []
    wrong: list[tuple[int, int]] = []
    for island in pairwise(bounds):
        current: tuple[int, int] | None = island
        while current and kept and not plausible(kept[-1][1] - 1, current[0]):
            before = kept[-1]
            loser = before if before[1] - before[0] < current[1] - current[0] else current
            if loser[1] - loser[0] > _TELEPORT_FIXES or ts[loser[1] - 1] - ts[loser[0]] > 1000 * _TELEPORT_S:
                break  # both stays are long: the device was in both places
            wrong.append(loser)
            if loser is current:
                current = None
            else:
                kept.pop()
        if current:
            kept.append(current)
    rows = np.zeros(len(columns.ts), dtype=np.bool_)
    for first, last in wrong:
        rows[fixes[first:last]] = True
    values = columns.values.copy()
    values[LAT][rows] = values[LON][rows] = np.nan
    filtered = (*columns.filtered, ("teleport", columns.ts[rows])) if rows.any() else columns.filtered
    return Columns(columns.ts, values, filtered), ts[:-1][jump]


def motion(columns: Columns, jumps: Floats, rules: Rules) -> Motion:
    """The motion in cleaned columns. Every verdict on a row rests on rows within `Rules.bridge_s` of it."""
    values = columns.values
    row = np.flatnonzero(~(np.isnan(values[SPEED]) & np.isnan(values[LAT]) & np.isnan(values[ODOMETER])))
    ts, error = columns.ts[row], columns.error_m(rules)[row]
    lat, lon, speed, odometer = values[LAT][row], values[LON][row], values[SPEED][row], values[ODOMETER][row]
    pace = speed.copy()
    fixes = np.flatnonzero(~np.isnan(lat))
    track = _Track(ts[fixes], lat[fixes], lon[fixes], error[fixes])
    refuted = np.zeros(len(row), dtype=np.bool_)
    if len(fixes) > 1:
        silent = np.isnan(speed[fixes])
        if silent.any():
            pace[fixes[silent]] = track.around(np.flatnonzero(silent))
        doubted = np.flatnonzero(speed[fixes] < rules.still_kmh)
        if len(doubted):
            going = track.through(doubted) >= rules.bridge_kmh
            refuted[fixes[doubted[going]]] = True
            pace[fixes[doubted[going]]] = rules.bridge_kmh
    carried = _carried_by_fixes(ts, speed, odometer, fixes, track, rules) | _carried_by_odometer(ts, odometer, rules)
    last_fix = row
    if len(row):
        last_fix = np.maximum.accumulate(np.where(np.isnan(lat), -1, np.arange(len(row))))
        last_fix = np.where(ts - ts[last_fix] <= 1000 * rules.bridge_s, last_fix, -1)
    return Motion(ts, row, lat, lon, error, speed, odometer, _held(ts, pace, rules), carried, last_fix, refuted, jumps)


def _held(ts: Floats, pace: Floats, rules: Rules) -> Bools:
    """Moving from `start_kmh` up, still below `still_kmh`, and in between as before for `creep_s`."""
    decided = (pace >= rules.start_kmh) | (pace < rules.still_kmh)
    last = np.maximum.accumulate(np.where(decided, np.arange(len(ts)), -1))
    known = last >= 0
    at = np.where(known, last, 0)
    if not len(ts):
        return known
    found: Bools = known & (pace[at] >= rules.start_kmh) & (ts - ts[at] <= 1000 * rules.creep_s)
    return found


@dataclass(frozen=True, slots=True)
class _Track:
    ts: Floats
    lat: Floats
    lon: Floats
    error: Floats

    def least_m(self, a: Ints, b: Ints) -> Floats:
        """The distance between fixes a and b beyond their error."""
        far = metres(self.lat[a], self.lon[a], self.lat[b], self.lon[b])
        return np.asarray(np.clip(far - self.error[a] - self.error[b], 0, None))

    def around(self, at: Ints) -> Floats:
        """The least speed (km/h) over a window around each of these fixes; NaN where reports are too rare."""
        before = np.searchsorted(self.ts, self.ts[at] - _AROUND_MS, side="right") - 1
        after = np.searchsorted(self.ts, self.ts[at] + _AROUND_MS, side="left")
        inside = (before >= 0) & (after < len(self.ts))
        a, b = np.where(inside, before, 0), np.where(inside, after, 0)
        inside &= (self.ts[at] - self.ts[a] <= _AROUND_MAX_MS) & (self.ts[b] - self.ts[at] <= _AROUND_MAX_MS)
        seconds = np.where(inside, (self.ts[b] - self.ts[a]) / 1000, np.nan)
        return np.asarray(self.least_m(a, b) * 3.6 / seconds)

    def through(self, at: Ints) -> Floats:
        """The least speed (km/h) both before and after each of these fixes, if they lie on a way; else 0.

        Noise about a place can jump far, but it comes back: two steps of it are not longer than one.
        """
        place = [at]
        inside = np.ones(len(at), dtype=np.bool_)
        for step in (-1, -1, 1, 1):
            origin = place[0] if step < 0 else place[-1]
            if step < 0:
                found = np.searchsorted(self.ts, self.ts[origin] - _STUCK_MS, side="right") - 1
            else:
                found = np.searchsorted(self.ts, self.ts[origin] + _STUCK_MS, side="left")
            near = (found >= 0) & (found < len(self.ts))
            found = np.where(near, found, origin)
            inside &= near & (np.abs(self.ts[found] - self.ts[origin]) <= _STUCK_MAX_MS)
            place = [found, *place] if step < 0 else [*place, found]
        kmh = np.zeros(len(at))
        first, before, at, after, last = (rows[inside] for rows in place)
        steps = [self.least_m(a, b) for a, b in pairwise((first, before, at, after, last))]
        straight = self.least_m(first, last) >= _STRAIGHT * np.sum(steps, axis=0)
        back = steps[1] * 3600 / (self.ts[at] - self.ts[before])
        ahead = steps[2] * 3600 / (self.ts[after] - self.ts[at])
        kmh[inside] = np.where(straight, np.minimum(back, ahead), 0.0)
        return kmh


def _carried_by_fixes(ts: Floats, speed: Floats, odometer: Floats, fixes: Ints, track: _Track, rules: Rules) -> Bools:
    """Intervals in which two fixes are so far apart that the vehicle was driving, whatever was or was not reported."""
    if len(fixes) < 2:
        return np.zeros(max(0, len(ts) - 1), dtype=np.bool_)
    a, b = fixes[:-1], fixes[1:]
    seconds = (ts[b] - ts[a]) / 1000
    places = np.arange(len(fixes))
    least = track.least_m(places[:-1], places[1:])
    kmh = least * 3.6 / seconds
    wordless = np.isnan(speed[a]) | np.isnan(speed[b])
    stands = (b - a == 1) & (speed[a] < rules.still_kmh) & (speed[b] < rules.still_kmh)
    stands &= seconds < rules.silence_resume_s  # a receiver's noise of position, unless `through` knows better
    shown = (least >= rules.bridge_m) & (kmh >= rules.bridge_kmh) & ~stands
    surely = (
        np.clip(least - track.error[:-1] - track.error[1:], 0, None) * 3.6 / seconds
    )  # twice the error: no speed agrees
    habit = (seconds >= 2 * _AROUND_MS / 1000) & (seconds < rules.silence_resume_s)
    shown |= wordless & (surely >= rules.start_kmh) & habit
    shown &= (seconds <= rules.bridge_s) & (kmh <= rules.max_kmh)
    stood = 1000 * (odometer[b] - odometer[a]) < least / 4
    shown &= ~(stood & (least > _TOWED_M))
    return _spread(len(ts), a[shown], b[shown])


def _carried_by_odometer(ts: Floats, odometer: Floats, rules: Rules) -> Bools:
    known = np.flatnonzero(~np.isnan(odometer))
    if len(known) < 2:
        return np.zeros(max(0, len(ts) - 1), dtype=np.bool_)
    a, b = known[:-1], known[1:]
    seconds = (ts[b] - ts[a]) / 1000
    moved = odometer[b] - odometer[a]
    kmh = moved * 3600 / seconds
    shown = (moved >= _ODOMETER_KM) & (seconds <= rules.bridge_s)
    shown &= (kmh >= rules.bridge_kmh) & (kmh <= rules.max_kmh)
    return _spread(len(ts), a[shown], b[shown])


def _spread(size: int, first: Ints, last: Ints) -> Bools:
    """Intervals covered by the spans [first, last) of rows."""
    found = np.zeros(max(0, size), dtype=np.int64)
    np.add.at(found, first, 1)
    np.add.at(found, last, -1)
    return np.asarray(np.cumsum(found)[:-1] > 0)
