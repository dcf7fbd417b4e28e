"""One rest between two movements: whether it ends the trip before it, when that is certain, and where the next begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outrider.trips.columns import Floats
from outrider.trips.engine import SENSORS, Engine
from outrider.trips.rules import Rules

_OFF = {"ignition": "ignition_off", "gear": "gear_park", "rpm": "engine_off"}
_ON = {"ignition": "ignition_on", "gear": "gear_drive", "rpm": "engine_on"}


@dataclass(frozen=True, slots=True)
class Tempo:
    """What silence means for this device at this time, from how often it reports while it moves."""

    pause_ms: float  # a silence this long is a gap
    end_ms: float  # ... and this long, without displacement, an end
    sparse_ms: float  # at rest, reports this far apart are a sleeping device's

    @classmethod
    def of(cls, usual_ms: float, slow_ms: float, rules: Rules) -> Tempo:
        """From the usual interval, by which patience is measured, and the slow one, which is no sleep yet."""
        end = max(1000 * rules.silence_resume_s, 3 * usual_ms)
        return cls(
            min(max(1000 * rules.silence_pause_s, 3 * usual_ms), end),
            end,
            min(max(1000 * rules.sparse_s, rules.sparse_factor * slow_ms), end),
        )


@dataclass(frozen=True, slots=True)
class Rest:
    """The verdict on a rest: it ends the trip at `due_ms` if it lasts that long, and the trip then ended at `end_ms`."""

    due_ms: float
    reason: str
    end_ms: float


def judge(ts: Floats, engine: Engine, arrived: float, left: float | None, tempo: Tempo, rules: Rules) -> Rest:
    """The verdict on the rest from `arrived` to `left` (None: still going on). `ts` are the times of all rows.

    Without `left` the due time is that of nothing more arriving.
    """
    first = int(np.searchsorted(ts, arrived, side="left"))
    last = int(np.searchsorted(ts, left, side="right")) if left is not None else len(ts)
    rows = ts[first:last]
    running = engine.running[first - engine.base : last - engine.base]
    silent, slept = _silence(rows, tempo, open_ended=left is None)
    best = Rest(silent, "silence", arrived)
    still = _stillness(rows, running, arrived, rules)
    if still < best.due_ms:
        best = Rest(still, "still", arrived)
    off, off_at, sensor = _switched_off(rows, running, engine, first, arrived, left, rules)
    if off < best.due_ms:
        best = Rest(off, _OFF[sensor], off_at)
    elif best.reason == "silence" and slept >= 0:
        # The device fell silent with the engine running: the engine ran until then at least.
        place = first + slept - engine.base
        if engine.running[place] == 1 and engine.fresh[place]:
            best = Rest(best.due_ms, best.reason, float(rows[slept]))
    if best.end_ms - arrived > 1000 * rules.still_resume_s:
        best = Rest(best.due_ms, best.reason, arrived)
    return best


def departure(
    ts: Floats, engine: Engine, left: float, moving_at: float, tempo: Tempo, rules: Rules
) -> tuple[float, str]:
    """When a trip whose last still moment is `left` began, and why we say so: engine on, woken up, or moving."""
    row = int(np.searchsorted(ts, left, side="left"))
    oldest = int(np.searchsorted(ts, left - 1000 * rules.wake_s, side="left"))
    oldest = max(oldest, engine.base)
    running = engine.running[oldest - engine.base : row + 1 - engine.base]
    gaps = np.diff(ts[oldest : row + 1])
    if running[-1] == 1:
        # Back to the last row that says "off" or the last gap; rows from before the sensor's first word belong to it.
        unheard = np.isnan(running[:-1]) & (gaps >= tempo.sparse_ms)
        broken = np.flatnonzero((running[:-1] == 0) | (gaps >= tempo.pause_ms) | unheard)
        on = oldest + (int(broken[-1]) + 1 if len(broken) else 0)
        if len(broken) or on == 0 or ts[on] - ts[on - 1] >= tempo.sparse_ms:
            return float(ts[on]), _ON[SENSORS[int(engine.sensor[row - engine.base])][0]]
    sparse = np.flatnonzero(gaps >= tempo.sparse_ms)
    woke = oldest + (int(sparse[-1]) + 1 if len(sparse) else 0)
    if _slept_before(ts, woke, tempo):
        return float(ts[woke]), "moving" if left == moving_at and woke == row else "wake"
    return left, "moving" if left == moving_at else "motion"


def _slept_before(ts: Floats, row: int, tempo: Tempo) -> bool:
    """Whether the device was silent, or reported as rarely as a sleeping one, for long enough before this row."""
    begin = row
    while begin > 0 and ts[begin] - ts[begin - 1] >= tempo.sparse_ms:
        begin -= 1
        if ts[row] - ts[begin] >= tempo.end_ms:
            return True
    return begin == 0


def _silence(rows: Floats, tempo: Tempo, *, open_ended: bool) -> tuple[float, int]:
    """When a silence at rest is long enough, and the row before it. Rare reports of rest do not break a silence."""
    if not len(rows):
        return float("inf"), -1
    begin = 0
    previous = -2
    for gap in np.flatnonzero(np.diff(rows) >= tempo.sparse_ms).tolist():
        if gap != previous + 1:
            begin = gap
        previous = gap
        if rows[gap + 1] - rows[begin] >= tempo.end_ms:
            return float(rows[begin] + tempo.end_ms), begin
    if not open_ended:
        return float("inf"), -1
    if previous != len(rows) - 2:
        begin = len(rows) - 1
    return float(rows[begin] + tempo.end_ms), begin


def _stillness(rows: Floats, running: Floats, arrived: float, rules: Rules) -> float:
    """When standing has lasted long enough: later while the engine is known to run."""
    due = arrived + 1000 * rules.still_resume_s
    at = int(np.searchsorted(rows, due, side="right")) - 1
    if at < 0 or running[at] != 1:
        return due
    longest = arrived + 1000 * rules.idle_resume_s
    stopped = np.flatnonzero(running[at:] != 1)
    return min(longest, float(rows[at + int(stopped[0])])) if len(stopped) else longest


def _switched_off(
    rows: Floats, running: Floats, engine: Engine, first: int, arrived: float, left: float | None, rules: Rules
) -> tuple[float, float, str]:
    """When the engine has been off for long enough, since when, and by which sensor."""
    off = running == 0
    if not off.any():
        return float("inf"), arrived, ""
    begins = np.flatnonzero(off & ~np.concatenate(([False], off[:-1])))
    for begin in begins.tolist():
        after = np.flatnonzero(~off[begin:])
        until = float(rows[begin + int(after[0])]) if len(after) else left
        since = max(arrived, float(rows[begin]))
        sensor = SENSORS[int(engine.sensor[first + begin - engine.base])][0]
        window = rules.off_resume_s if sensor == "ignition" else rules.engine_resume_s
        if until is None or since + 1000 * window <= until:
            return since + 1000 * window, since, sensor
    return float("inf"), arrived, ""
