"""The short way for what most devices send: one flat object, or one compact batch, of numbers and booleans with real times.

It reads a message without looking at each sample by itself, and only where every sample can be stored as it is. For
anything else (a text, a nested object, an uptime, a null, a bad name, a clock that is off) it says None, and the long
way in `outrider_ingest.formats` reads, judges and words it. Both give the same samples; a property test holds them to it.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import Any

import orjson

from outrider.contract.batch import Kind, Run, Samples, Shape
from outrider.contract.limits import (
    CLOCK_AHEAD_MAX_MS,
    DEVICE_MESSAGE_MAX_BYTES,
    MESSAGE_MAX_SAMPLES,
    NUMBER_MAX,
    TIME_MAX_MS,
    TIME_MIN_MS,
)
from outrider.contract.reasons import Refused
from outrider_ingest.formats import compact
from outrider_ingest.formats.compression import unpack
from outrider_ingest.formats.names import METRICS

_KEYS_MAX_NAMES = 100_000
_NUMBERS = frozenset({int, float})
_NUMBERS_AND_BOOLEANS = frozenset({int, float, bool})


class _Keys:
    """What a flat object with these keys, in this order, measures; `metrics` is empty where one of them is no metric."""

    __slots__ = ("booleans", "metrics", "mixed", "numbers")

    def __init__(self, keys: tuple[str, ...]) -> None:
        names = tuple([METRICS[key] for key in keys])
        self.metrics = names if all(names) else ()
        self.numbers = Shape.of(tuple([(metric, "number", 1) for metric in self.metrics]))
        self.booleans: list[bool] = []
        self.mixed = self.numbers
        """The shape of the last message that had booleans, where `booleans` says so: nearly always the same."""

    def shape(self, values: list[Any]) -> Shape | None:
        """The shape of these values, None where one is neither number nor boolean."""
        kinds = set(map(type, values))
        if kinds <= _NUMBERS:
            return self.numbers
        if not kinds <= _NUMBERS_AND_BOOLEANS:
            return None
        booleans = [type(value) is bool for value in values]
        if booleans != self.booleans:
            kinds_of: list[Kind] = ["boolean" if is_boolean else "number" for is_boolean in booleans]
            self.mixed = Shape.of(
                tuple([(metric, kind, 1) for metric, kind in zip(self.metrics, kinds_of, strict=True)])
            )
            self.booleans = booleans
        return self.mixed


class _KnownKeys(dict[tuple[str, ...], _Keys]):
    """`_Keys` by their keys, of which a bounded number is remembered: a device sends the same ones again and again."""

    names = 0

    def __missing__(self, keys: tuple[str, ...]) -> _Keys:
        if self.names > _KEYS_MAX_NAMES:
            self.clear()
            self.names = 0
        known = _Keys(keys)
        if known.metrics:  # then every key is short; what is no metric may be as long as a message
            self[keys] = known
            self.names += 1 + len(keys)
        return known


_KEYS = _KnownKeys()


def read(payload: bytes, received_ms: int) -> tuple[tuple[int, int] | None, Samples] | None:
    """(boot, seq), if it has them, and samples of a plain message on `telemetry`; None for any other.

    `received_ms` (epoch ms) is the server's clock, by which times ahead of it are told.

    Never raises: what is wrong with a message is the long way's to say.
    """
    if len(payload) > DEVICE_MESSAGE_MAX_BYTES:
        return None
    try:
        document = orjson.loads(payload if payload[:1] == b"{" else unpack(payload))
    except (orjson.JSONDecodeError, Refused):
        return None
    if type(document) is not dict or not document:
        return None
    boot, seq = document.pop("boot", None), document.pop("seq", None)
    numbered = type(boot) is int and type(seq) is int and 1 <= boot <= NUMBER_MAX and 1 <= seq <= NUMBER_MAX
    if not numbered and (boot is not None or seq is not None):  # a boot alone asks for its anchor
        return None
    latest_ms = min(received_ms + CLOCK_AHEAD_MAX_MS, TIME_MAX_MS)
    samples = _compact(document, latest_ms) if "series" in document else _flat(document, latest_ms)
    if samples is None:
        return None
    return ((boot, seq) if numbered else None), samples


def _flat(document: dict[str, Any], latest_ms: int) -> Samples | None:
    ts = document.pop("ts", None)
    if type(ts) is not int or not TIME_MIN_MS <= ts <= latest_ms:
        return None
    keys = _KEYS[tuple(document)]
    values = [*document.values()]
    if not keys.metrics or not 1 <= len(values) <= MESSAGE_MAX_SAMPLES:
        return None
    shape = keys.shape(values)
    if shape is None or not _storable(values):
        return None
    return Samples(shape, [ts], values)


def _compact(document: dict[str, Any], latest_ms: int) -> Samples | None:
    series, t0, version = document["series"], document.get("t0"), document.get("v")
    if type(series) is not dict or not series or type(version) is not int or version != compact.VERSION:
        return None
    if type(t0) is not int or not TIME_MIN_MS <= t0 <= latest_ms or "gone" in document or "now_ms" in document:
        return None
    runs: list[Run] = []
    times: list[list[int]] = []
    values: list[Any] = []
    last_steps: list[int] = []
    for key, columns in series.items():
        metric = METRICS[key]
        if not metric or type(columns) is not list or len(columns) != 2:
            return None
        steps, column = columns
        if type(steps) is not list or type(column) is not list or len(steps) != len(column) or not steps:
            return None
        if set(map(type, steps)) != {int}:  # first: [0.0] and [False] are equal to [0]
            return None
        if steps != last_steps:
            own = list(accumulate(steps, initial=t0))
            del own[0]
            if min(own) < TIME_MIN_MS or max(own) > latest_ms:
                return None
            last_steps = steps
        times.append(own)
        kinds = set(map(type, column))
        if kinds != {bool} and not (kinds <= _NUMBERS and _storable(column)):
            return None
        runs.append((metric, "boolean" if kinds == {bool} else "number", len(column)))
        values += column
    if len(values) > MESSAGE_MAX_SAMPLES:
        return None
    # An agent samples its series together: their times then stand once for all.
    together = all(own is times[0] for own in times)
    return Samples(Shape.of(tuple(runs)), times[0] if together else list(chain.from_iterable(times)), values)


def _storable(values: list[Any]) -> bool:
    """No integer beyond 2^53, which no double holds; orjson reads those past 2^64 as floats, so floats end there too."""
    return bool(min(values) >= -NUMBER_MAX and max(values) <= NUMBER_MAX)
