"""Compact batch of agents: `{"v": 1, "boot", "seq", "t0": ms, "series": {"cpu_pct": [[0, 30000], [12.5, 13.1]]}}`.

Per series a column of time steps (ms; the first from `t0`, each next from the one before) and a column of values.
`t0` is always milliseconds: uptime when `now_ms` is there, or when `boot` is and it lies before 2000 (a batch kept
over a reboot omits `now_ms`); otherwise epoch time. null in a value column is no value; unknown keys are ignored.
"""

from __future__ import annotations

from itertools import accumulate, repeat
from math import isfinite
from typing import Any

from outrider.contract.limits import MESSAGE_MAX_SAMPLES, NUMBER_MAX, TIME_MIN_MS
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats.decoded import Decoded, read_header, shown
from outrider_ingest.formats.names import METRICS, name_problem
from outrider_ingest.formats.values import check_value

VERSION = 1


def decode(body: bytes, document: object) -> Decoded | None:
    """The samples of an object with an integer `v` and an object `series`; None for anything else."""
    if type(document) is not dict or type(document.get("series")) is not dict or type(document.get("v")) is not int:
        return None
    decoded = read_header(document)
    if document["v"] != VERSION:
        decoded.refuse_all(
            Reason.UNKNOWN_FORMAT, f"compact batch of version {shown(document['v'])}, known is {VERSION}"
        )
        return decoded
    t0 = document.get("t0")
    if t0 is None:
        decoded.refuse_all(Reason.NO_TIME, "a compact batch needs t0")
        return decoded
    if type(t0) is not int or not 0 <= t0 <= NUMBER_MAX:
        decoded.refuse_all(Reason.CLOCK_INVALID, f"t0 must be a time in ms, not {shown(t0)}")
        return decoded
    clock = _Clock(t0, decoded)
    for key, columns in document["series"].items():
        try:
            _read_series(key, columns, clock, decoded)
        except Refused as error:
            decoded.refuse(error.reason, f"metric {shown(key)}: {error.detail}")
        if len(decoded.samples) > MESSAGE_MAX_SAMPLES:
            break
    return decoded


def _read_series(key: str, columns: Any, clock: _Clock, decoded: Decoded) -> None:
    metric = METRICS[key]
    if not metric:
        raise Refused(Reason.BAD_NAME, name_problem(key))
    if type(columns) is not list or len(columns) != 2 or type(columns[0]) is not list or type(columns[1]) is not list:
        raise Refused(Reason.BAD_VALUE, "a series is [[time steps], [values]]")
    steps, values = columns
    if len(steps) != len(values):
        raise Refused(Reason.BAD_VALUE, f"{len(steps)} time steps but {len(values)} values")
    if not steps:
        return
    times, possible = clock.times(steps)
    if not possible:
        times, values = _possible(times, values, clock.latest, decoded, key)
        if not times:
            return
    if not _all_storable(values):
        times, values = _storable(times, values, decoded, key)
    nones = repeat(None, len(times))
    if clock.uptime:
        decoded.samples.extend(zip(repeat(metric), nones, times, values, strict=False))
    else:
        decoded.samples.extend(zip(repeat(metric), times, nones, values, strict=False))


class _Clock:
    """Makes times of time steps; remembers the last column, as an agent samples most series together."""

    def __init__(self, t0: int, decoded: Decoded) -> None:
        self.uptime = decoded.now_ms is not None or (decoded.boot is not None and t0 < TIME_MIN_MS)
        self.latest = NUMBER_MAX if decoded.now_ms is None else decoded.now_ms
        self._t0 = t0
        self._steps: list[int] = []
        self._times: list[int] = []
        self._possible = True

    def times(self, steps: list[Any]) -> tuple[list[int], bool]:
        """(times, True if none is negative or later than `latest`). Raises Refused(clock_invalid) for odd steps."""
        if set(map(type, steps)) != {int}:
            raise Refused(Reason.CLOCK_INVALID, "time steps are integers in ms")
        if steps != self._steps:
            self._steps = steps
            self._times = list(accumulate(steps, initial=self._t0))
            del self._times[0]
            self._possible = min(self._times) >= 0 and max(self._times) <= self.latest
        return self._times, self._possible


def _all_storable(values: list[Any]) -> bool:
    """True only if each value can be stored, found out at the speed of C; False means: look at each."""
    kinds = set(map(type, values))
    if kinds == {float}:
        # A finite sum has no infinite term; a sum that overflows only costs the closer look.
        return isfinite(sum(values))
    if kinds == {bool}:
        return True
    return kinds <= {int, float} and min(values) >= -NUMBER_MAX and max(values) <= NUMBER_MAX


def _possible(
    times: list[int], values: list[Any], latest: int, decoded: Decoded, key: str
) -> tuple[list[int], list[Any]]:
    """The pairs whose time is neither negative nor later than `latest` (`now_ms` for uptimes); others are refused."""
    kept = [(time, value) for time, value in zip(times, values, strict=True) if 0 <= time <= latest]
    decoded.refuse(
        Reason.CLOCK_INVALID,
        f"metric {shown(key)}: {len(times) - len(kept)} samples lie before 0 or after {latest} ms (now_ms)",
    )
    return [time for time, _ in kept], [value for _, value in kept]


def _storable(times: list[int], values: list[Any], decoded: Decoded, key: str) -> tuple[list[int], list[Any]]:
    """The pairs whose value can be stored; null is left out, others are refused."""
    good_times: list[int] = []
    good_values: list[Any] = []
    for time, value in zip(times, values, strict=True):
        if value is None:
            continue
        try:
            check_value(value)
        except Refused as error:
            decoded.refuse(error.reason, f"metric {shown(key)}: {error.detail}")
            continue
        good_times.append(time)
        good_values.append(value)
    return good_times, good_values
