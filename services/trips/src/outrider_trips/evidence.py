"""What of a bus batch is evidence of motion: rows per device and time, merged so that their order does not matter. Pure.

What a row holds is a function of the set of samples: of two values for one place the greater one stays, here as in SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider.contract import limits
from outrider.contract.batch import Header, Kind, SampleBatch, Samples, Shape

COLUMNS = (
    "lat",
    "lon",
    "alt_m",
    "speed_kmh",
    "heading_deg",
    "accuracy_m",
    "hdop",
    "ignition",
    "gear",
    "rpm",
    "odometer_km",
    "soc_pct",
    "fuel_pct",
)
"""Metrics of the wire contract's position convention, in the order of the columns of trips.position."""
RANGES: dict[str, tuple[float, float]] = {
    "lat": (-90, 90),
    "lon": (-180, 180),
    "alt_m": (-1_000, 100_000),
    "speed_kmh": (0, 2_000),
    "heading_deg": (-360, 360),
    "accuracy_m": (0, 1_000_000),
    "hdop": (0, 1_000),
    "rpm": (0, 100_000),
    "odometer_km": (0, 100_000_000),
    "soc_pct": (0, 100),
    "fuel_pct": (0, 100),
}
"""What a sensor can say; beyond it is a fault of the sensor or of a name, and is ignored."""
MOVES = frozenset(COLUMNS.index(name) for name in ("lat", "lon", "speed_kmh", "ignition", "gear", "odometer_km"))
"""Any of them makes a device a vehicle. `rpm` alone is a fan, `soc_pct` alone a battery."""
GEAR_MAX_CHARS = 16
_ON_OFF = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_PLANS_MAX = 20_000

Row = list[Any]
"""The values of COLUMNS, None where there is none."""
Key = tuple[str, str]
"""(tenant, device)"""


class _Step(NamedTuple):
    """One run of a shape that matters: where its values begin, how many, into which column, and how they are read."""

    start: int
    length: int
    column: int
    read: Callable[[Any], Any]


@dataclass(slots=True)
class Gathered:
    """Rows of one device, by epoch ms."""

    rows: dict[int, Row] = field(default_factory=dict)
    moves: bool = False
    received_ms: int = 0
    """When ingest received the newest message they are from."""


@dataclass(slots=True)
class Evidence:
    """What came for each device, and how many samples were ignored, by reason."""

    devices: dict[Key, Gathered] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    received_ms: int = 0
    """When ingest received the newest message of all."""


class Reader:
    """Reads batches. Remembers which shapes have what it looks for: a message without costs one look-up."""

    def __init__(self) -> None:
        self._plans: dict[Shape, tuple[_Step, ...]] = {}

    def gather(self, batches: Iterable[SampleBatch]) -> Evidence:
        """The evidence in these batches; never raises for a value."""
        evidence = Evidence()
        for batch in batches:
            for header, samples in zip(batch.headers, batch.samples, strict=True):
                evidence.received_ms = max(evidence.received_ms, header.received_ms)
                plan = self._plans.get(samples.shape)
                if plan is None:
                    plan = self._plan(samples.shape)
                if plan:
                    _take(evidence, header, samples, plan)
        return evidence

    def _plan(self, shape: Shape) -> tuple[_Step, ...]:
        if len(self._plans) > _PLANS_MAX:
            self._plans.clear()
        steps: list[_Step] = []
        start = 0
        for metric, kind, count in shape.runs:
            if metric in COLUMNS:
                steps.append(_Step(start, count, COLUMNS.index(metric), _reader(metric, kind)))
            start += count
        self._plans[shape] = tuple(steps)
        return self._plans[shape]


def _take(evidence: Evidence, header: Header, samples: Samples, plan: Iterable[_Step]) -> None:
    key = (header.tenant, header.device)
    gathered = evidence.devices.get(key) or Gathered()
    times, values, rows = samples.ts, samples.value, gathered.rows
    period = len(times)
    for start, length, column, read in plan:
        for i in range(start, start + length):
            value = read(values[i])
            ts = times[i % period]
            if value is None:
                evidence.ignored[f"bad_{COLUMNS[column]}"] += 1
                continue
            if not limits.TIME_MIN_MS <= ts <= limits.TIME_MAX_MS:
                evidence.ignored["clock_invalid"] += 1
                continue
            row = rows.get(ts)
            if row is None:
                row = rows[ts] = [None] * len(COLUMNS)
            if row[column] is None or value > row[column]:
                row[column] = value
            gathered.moves = gathered.moves or column in MOVES
    if rows:
        gathered.received_ms = max(gathered.received_ms, header.received_ms)
        evidence.devices[key] = gathered


def _reader(metric: str, kind: Kind) -> Callable[[Any], Any]:
    if metric == "ignition":
        return {"boolean": bool, "number": bool, "string": lambda text: _ON_OFF.get(text.strip().lower())}.get(
            kind, _none
        )
    if metric == "gear":
        return {"string": _gear, "number": lambda number: _gear(f"{number:g}")}.get(kind, _none)
    if kind != "number":
        return _none
    low, high = RANGES[metric]

    def number(value: Any) -> float | None:
        return float(value) if low <= value <= high else None

    return number


def _gear(text: str) -> str | None:
    gear = text.strip()
    return gear if gear and len(gear) <= GEAR_MAX_CHARS and gear.isascii() and gear.isprintable() else None


def _none(_: Any) -> None:
    return None
