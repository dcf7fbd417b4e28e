"""The record of one trip: distances three ways, times, places, gaps, stops, track and how sure all that is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from outrider.trips import polyline
from outrider.trips.columns import FUEL, LAT, LON, ODOMETER, RPM, SOC, SPEED, Columns, Floats, Ints
from outrider.trips.engine import SENSORS, Engine
from outrider.trips.geo import metres, simplify
from outrider.trips.model import Evidence, Gap, Stop, Trip, TripState
from outrider.trips.motion import Motion
from outrider.trips.rest import Tempo
from outrider.trips.rules import Rules

_SPEED_AGE_MS = 10_000.0
_DENSE_S = 30.0  # up to this interval the integral of Doppler speed beats the sum of noisy fixes, above neither does
_ODOMETER_SHARE = 0.02  # an odometer counts in steps; finer than this share of the trip it is the best there is
_KIND_CONFIDENCE: dict[Evidence, float] = {
    "ignition": 1.0,
    "gear": 0.98,
    "rpm": 0.98,
    "odometer": 0.95,
    "speed": 0.92,
    "displacement": 0.8,
}


@dataclass(slots=True)
class Draft:
    """A trip in the making: its movements as (first, last) kinetic rows, and how it began and would end."""

    start_ms: float
    start_reason: str
    engine: Engine
    tempo: Tempo
    runs: list[tuple[int, int]]
    due_ms: float = float("inf")
    pause_ms: float = float("inf")
    end_ms: float = 0.0
    end_reason: str = ""
    arrived_ms: float = field(default=0.0)


class Ledger:
    """Distances by interval between kinetic rows, as running sums (micrometres), so that a trip's are differences."""

    def __init__(self, columns: Columns, moves: Motion, rules: Rules) -> None:
        self.columns, self.moves, self.rules = columns, moves, rules
        ts = moves.ts
        self.gps = self.speed = self.best = self.crept = np.zeros(max(1, len(ts)), dtype=np.int64)
        if len(ts) < 2:
            return
        seconds = np.diff(ts) / 1000
        fix = moves.last_fix
        lat, lon = np.where(fix >= 0, moves.lat[fix], np.nan), np.where(fix >= 0, moves.lon[fix], np.nan)
        chord = np.nan_to_num(metres(lat[:-1], lon[:-1], lat[1:], lon[1:]))
        spoke = np.maximum.accumulate(np.where(np.isnan(moves.speed), -1, np.arange(len(ts))))
        pace = np.where((spoke >= 0) & (ts - ts[spoke] <= _SPEED_AGE_MS), moves.speed[spoke], np.nan)
        pace = np.where(moves.refuted, np.nan, pace)
        driven = (pace[:-1] + pace[1:]) / 7.2 * seconds
        known = ~np.isnan(driven)
        driven = np.where(known & (seconds < rules.silence_resume_s), driven, 0.0)
        both = np.where(chord > 0, (driven + chord) / 2, driven)
        best = np.where(known & (seconds <= _DENSE_S), driven, np.where(driven > 0, both, chord))
        crept = np.where(known & (seconds <= _DENSE_S) & (np.fmax(pace[:-1], pace[1:]) >= rules.still_kmh), driven, 0.0)
        late = chord > rules.max_kmh / 3.6 * np.maximum(seconds, 1) + rules.bridge_m
        if late.any():  # a fix after many rows without: its chord belongs to all of them, if their speeds missed it
            told = best.copy()
            for at in np.flatnonzero(late).tolist():
                missed = chord[at] - float(told[int(fix[at]) : at].sum())
                if missed > chord[at] / 2:
                    best[at] = max(best[at], missed)
        self.gps, self.speed, self.best, self.crept = (_running(part) for part in (chord, driven, best, crept))


def _running(parts: Floats) -> Ints:
    """Running sums in whole micrometres: differences of float sums would depend on what was driven before."""
    return np.concatenate(([0], np.cumsum(np.rint(parts * 1e6).astype(np.int64))))


def summarise(draft: Draft, ledger: Ledger, as_of: float) -> Trip:
    """The record of a draft as it stands at `as_of`."""
    moves, columns, rules = ledger.moves, ledger.columns, ledger.rules
    firsts, lasts = np.array(draft.runs).T
    final = draft.due_ms <= as_of
    arrived = float(moves.ts[lasts[-1]])
    start, end = draft.start_ms, draft.end_ms if final else arrived
    state: TripState = "final" if final else "paused" if draft.pause_ms <= as_of else "driving"
    low = int(np.searchsorted(columns.ts, start, side="left"))
    high = int(np.searchsorted(columns.ts, end, side="right"))
    values = columns.values[:, low:high]

    moving_s = float((moves.ts[lasts] - moves.ts[firsts]).sum()) / 1000
    duration_s = (end - start) / 1000
    stops = _stops(draft, ledger, start, end)
    stop_s = sum(stop.end_ms - stop.start_ms for stop in stops) / 1000
    gaps, gap_m, rest_m = _gaps(draft, ledger)
    gps_m, speed_m, best_m, crept_m = (
        int((part[lasts] - part[firsts]).sum()) / 1e6 for part in (ledger.gps, ledger.speed, ledger.best, ledger.crept)
    )
    # Creeping is no movement, but it is a way: between the speeds `still_kmh` and `start_kmh` it counts too.
    crept_m = int(ledger.crept[lasts[-1]] - ledger.crept[firsts[0]]) / 1e6 - crept_m
    speed_m, best_m = speed_m + crept_m, best_m + crept_m
    has_fix, has_speed = bool((~np.isnan(values[LAT])).any()), bool((~np.isnan(values[SPEED])).any())
    odometer_km, fine = _odometer(values[ODOMETER])
    best_km = (best_m + rest_m) / 1000
    alone = not has_fix and not has_speed
    if odometer_km is not None and (alone or (fine and best_km / 2 <= odometer_km <= best_km * 2)):
        best_km = odometer_km
    others = [km for km, there in ((gps_m / 1000, has_fix), (speed_m / 1000, has_speed)) if there]
    spread = max(others) - min(others) if len(others) > 1 else 0.05 * best_km
    uncertainty = max(0.01 * best_km, spread / 2) + 0.2 * gap_m / 1000 + 0.01

    evidence = _evidence(draft, values, low, has_speed)
    fixes = np.flatnonzero(~np.isnan(values[LAT]))
    lat, lon = values[LAT][fixes], values[LON][fixes]
    kept = simplify(lat, lon, rules.simplify_m, int(rules.track_points))
    track = list(zip(lat[kept].tolist(), lon[kept].tolist(), strict=True))
    silent_share = sum(gap.end_ms - gap.start_ms for gap in gaps) / 1000 / duration_s if duration_s else 0.0
    confidence = _KIND_CONFIDENCE[evidence] * (1 - 0.3 * min(1.0, silent_share))
    for doubtful in (
        draft.start_reason in ("moving", "silence_moved"),
        final and draft.end_reason == "silence_moved",
        bool(draft.engine.distrusted),
    ):
        confidence *= 0.9 if doubtful else 1.0
    return Trip(
        start_ms=int(start),
        end_ms=int(end),
        state=state,
        micro=best_km * 1000 < rules.micro_m or duration_s < rules.micro_s,
        start_lat=_pick(lat, 0),
        start_lon=_pick(lon, 0),
        end_lat=_pick(lat, -1),
        end_lon=_pick(lon, -1),
        distance_km=round(best_km, 4),
        distance_gps_km=round((gps_m + rest_m) / 1000, 4) if has_fix else None,
        distance_speed_km=round(speed_m / 1000, 4) if has_speed else None,
        distance_odometer_km=None if odometer_km is None else round(odometer_km, 4),
        distance_uncertainty_km=round(uncertainty, 4),
        duration_s=duration_s,
        moving_s=moving_s,
        idle_s=max(0.0, round(duration_s - moving_s - stop_s, 3)),
        stop_s=stop_s,
        avg_speed_kmh=round(best_km / duration_s * 3600, 2) if duration_s else 0.0,
        max_speed_kmh=_max(values[SPEED]),
        max_rpm=_max(values[RPM]),
        soc_start_pct=_pick(_known(values[SOC]), 0),
        soc_end_pct=_pick(_known(values[SOC]), -1),
        fuel_start_pct=_pick(_known(values[FUEL]), 0),
        fuel_end_pct=_pick(_known(values[FUEL]), -1),
        track=polyline.encode(track),
        start_reason=draft.start_reason,
        end_reason=draft.end_reason if final else None,
        evidence=evidence,
        confidence=round(confidence, 3),
        points=high - low,
        gaps=gaps,
        stops=stops,
        distrusted=_distrusted(draft, moves),
        filtered=_filtered(columns, start, end),
    )


def _stops(draft: Draft, ledger: Ledger, start: float, end: float) -> tuple[Stop, ...]:
    """Rests inside the trip that are long enough to be stops: between movements, before the first, after the last."""
    moves, columns, rules = ledger.moves, ledger.columns, ledger.rules
    bounds = [(start, float(moves.ts[draft.runs[0][0]]), draft.runs[0][0])]
    for (_, arrived), (left, _) in zip(draft.runs, draft.runs[1:], strict=False):
        bounds.append((float(moves.ts[arrived]), float(moves.ts[left]), arrived))
    bounds.append((float(moves.ts[draft.runs[-1][1]]), end, draft.runs[-1][1]))
    found = []
    for begin, until, row in bounds:
        if until - begin < 1000 * rules.stop_s:
            continue
        at = int(np.searchsorted(columns.ts, begin, side="left"))
        to = int(np.searchsorted(columns.ts, until, side="right"))
        longest = float(np.diff(columns.ts[at:to]).max()) if to - at > 1 else 0.0
        running = draft.engine.running[at - draft.engine.base : to - draft.engine.base]
        said = running[~np.isnan(running)]
        fix = int(moves.last_fix[row])
        found.append(
            Stop(
                int(begin),
                int(until),
                _pick(moves.lat, fix) if fix >= 0 else None,
                _pick(moves.lon, fix) if fix >= 0 else None,
                bool(said[len(said) // 2]) if len(said) else None,
                longest > (until - begin) / 2,
            )
        )
    return tuple(found)


def _gaps(draft: Draft, ledger: Ledger) -> tuple[tuple[Gap, ...], float, float]:
    """The silences between the first and last movement, the metres over them, and the metres of those at rest."""
    moves, rules = ledger.moves, ledger.rules
    first, last = draft.runs[0][0], draft.runs[-1][1]
    silent = np.flatnonzero(np.diff(moves.ts[first : last + 1]) >= draft.tempo.pause_ms) + first
    found, over_m, rest_m = [], 0.0, 0.0
    for row in silent.tolist():
        a, b = int(moves.last_fix[row]), int(moves.last_fix[row + 1])
        begin, until = float(moves.ts[row]), float(moves.ts[row + 1])
        moved: bool | None = None
        far = 0.0
        if a >= 0 and b > a:
            far = float(metres(moves.lat[a], moves.lon[a], moves.lat[b], moves.lon[b]))
            moved = bool(far > moves.error[a] + moves.error[b])
        sure = 1 - 0.5 * min(1.0, (until - begin) / draft.tempo.end_ms)
        if moves.carried[row]:
            sure = max(sure, min(0.95, far / (until - begin) * 3600 / (4 * rules.bridge_kmh)))
        found.append(Gap(int(begin), int(until), moved, round(far / 1000, 4), round(sure, 3)))
        over_m += far
        if moved and not any(one <= row < two for one, two in draft.runs):
            rest_m += far
    return tuple(found), over_m, rest_m


def _odometer(column: Floats) -> tuple[float | None, bool]:
    """The distance by odometer, and whether it counts finely enough to be the best there is."""
    known = _known(column)
    if len(known) < 2 or bool(np.any(np.diff(known) < 0)):
        return None, False
    gone = float(known[-1] - known[0])
    steps = np.diff(known)
    steps = steps[steps > 0]
    return gone, bool(len(steps)) and float(steps.min()) <= _ODOMETER_SHARE * gone


def _evidence(draft: Draft, values: Floats, low: int, has_speed: bool) -> Evidence:
    sensors = draft.engine.sensor[low - draft.engine.base : low - draft.engine.base + values.shape[1]]
    sensors = sensors[sensors >= 0]
    if len(sensors):
        return SENSORS[int(sensors.min())][0]
    if len(_known(values[ODOMETER])) > 1:
        return "odometer"
    return "speed" if has_speed else "displacement"


def _distrusted(draft: Draft, moves: Motion) -> tuple[str, ...]:
    first, last = draft.runs[0][0], draft.runs[-1][1] + 1
    refuted, moving = moves.refuted[first:last], moves.moving[first:last]
    speed = ("speed",) if int(refuted.sum()) > 0.2 * int(moving.sum()) else ()
    return (*draft.engine.distrusted, *speed)


def _filtered(columns: Columns, start: float, end: float) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for reason, times in columns.filtered:
        inside = int(((times >= start) & (times <= end)).sum())
        if inside:
            counts[reason] += inside
    return dict(sorted(counts.items()))


def _known(column: Floats) -> Floats:
    return np.asarray(column[~np.isnan(column)])


def _max(column: Floats) -> float | None:
    known = _known(column)
    return float(known.max()) if len(known) else None


def _pick(column: Any, at: int) -> float | None:
    return float(column[at]) if len(column) else None
