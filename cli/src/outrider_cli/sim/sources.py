"""What simulated devices measure: recorded drives played in a loop, and random walks of sensors and servers."""

from __future__ import annotations

import csv
import gzip
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import TextIOWrapper
from random import Random
from typing import Protocol, TypeAlias

Value: TypeAlias = float | int | bool | str
Values: TypeAlias = dict[str, Value]

PARKED_S = 180
"""Pause between two recorded drives: the car stands with the ignition off."""
TAPES = ("drives.csv.gz", "rides.csv.gz")
PARKS_AFTER_S = (45, 70, 100)
"""The first vehicles are so far from the end of a drive when the simulation begins: whoever looks sees trips end."""
_WHOLE = ("alt_m", "heading_deg", "sats", "rpm", "throttle_pct")
_TEXT = ("gear",)


class Source(Protocol):
    """Something to measure."""

    kind: str

    def values(self, elapsed_s: float) -> Values:
        """Metrics and values `elapsed_s` seconds after the start; asked with growing times."""

    def event(self) -> tuple[str, Values]:
        """Type and fields of something that just happened."""


@dataclass(frozen=True)
class Tape:
    """All drives of one recorded car, one after the other, with parked pauses: rows and the second each begins at."""

    times_s: list[int]
    rows: list[Values]
    length_s: int
    length_km: float
    drives_s: list[tuple[int, int]]
    """Begin and end of each drive: from there to the next one the car is parked."""

    def at(self, time_s: float) -> Values:
        """The row in force at a time; after the end the tape begins again (only the odometer goes on)."""
        laps, time_s = divmod(time_s, self.length_s)
        row = self.rows[max(0, bisect_right(self.times_s, time_s) - 1)]
        if laps and "odometer_km" in row:
            return {**row, "odometer_km": round(float(row["odometer_km"]) + laps * self.length_km, 3)}
        return row


@cache
def load_tape(name: str) -> Tape:
    """The tape in a file of the package's data folder."""
    times_s: list[int] = []
    rows: list[Values] = []
    drive, begin_s, base_km = "", 0, 0.0
    with (resources.files(__package__) / "data" / name).open("rb") as raw, gzip.open(raw) as unpacked:
        for line in csv.DictReader(TextIOWrapper(unpacked)):
            row = _row(line)
            if line["drive"] != drive:
                if rows:
                    _park(times_s, rows)
                    begin_s = times_s[-1] + PARKED_S
                    base_km = float(rows[-1].get("odometer_km", 0.0))
                drive = line["drive"]
            if "odometer_km" in row:
                row["odometer_km"] = round(base_km + float(row["odometer_km"]), 3)
            times_s.append(begin_s + int(line["t_s"]))
            rows.append({**row, "ignition": True})
    _park(times_s, rows)
    ends_s = [time_s for time_s, row in zip(times_s, rows, strict=True) if not row["ignition"]]
    drives_s = list(zip([0, *(end_s + PARKED_S for end_s in ends_s[:-1])], ends_s, strict=True))
    return Tape(times_s, rows, times_s[-1] + PARKED_S, float(rows[-1].get("odometer_km", 0.0)), drives_s)


def _row(line: dict[str, str]) -> Values:
    row: Values = {}
    for name, text in line.items():
        if text and name not in ("drive", "t_s"):
            row[name] = text if name in _TEXT else int(text) if name in _WHOLE else float(text)
    return row


def _park(times_s: list[int], rows: list[Values]) -> None:
    stay: Values = {name: rows[-1][name] for name in ("lat", "lon", "odometer_km", "soc_pct") if name in rows[-1]}
    times_s.append(times_s[-1] + 1)
    rows.append({**stay, "speed_kmh": 0.0, "ignition": False})


class Vehicle:
    """A recorded car, begun somewhere on its tape."""

    kind = "vehicle"

    def __init__(self, random: Random, number: int) -> None:
        self._random = random
        self._tape = load_tape(TAPES[number % len(TAPES)])
        self._offset_s = random.uniform(0, self._tape.length_s)
        if number < len(PARKS_AFTER_S):
            before_s = PARKS_AFTER_S[number]
            ends_s = [end_s for begin_s, end_s in self._tape.drives_s if end_s - begin_s > 2 * before_s]
            self._offset_s = min(ends_s, key=lambda end_s: (end_s < self._offset_s, end_s)) - before_s

    def values(self, elapsed_s: float) -> Values:
        """Position, speed and engine as recorded."""
        return self._tape.at(self._offset_s + elapsed_s)

    def event(self) -> tuple[str, Values]:
        """A driving event."""
        name = self._random.choice(("harsh_braking", "harsh_acceleration", "geofence_left", "dtc"))
        return name, {"severity": self._random.randint(1, 5)}


class _Walk:
    """A value that wanders around its mean within limits."""

    def __init__(self, random: Random, mean: float, spread: float, low: float, high: float, digits: int) -> None:
        self._random, self._mean, self._spread, self._low, self._high = random, mean, spread, low, high
        self._digits = digits
        self._value = random.gauss(mean, spread)

    def next(self) -> float:
        self._value += 0.05 * (self._mean - self._value) + self._random.gauss(0, 0.2 * self._spread)
        return round(min(max(self._value, self._low), self._high), self._digits)


class Sensor:
    """A climate sensor on a battery."""

    kind = "sensor"

    def __init__(self, random: Random) -> None:
        self._random = random
        self._temp_c = _Walk(random, random.uniform(17, 24), 1.5, -40, 85, 2)
        self._humidity_pct = _Walk(random, 48, 6, 0, 100, 1)
        self._pressure_hpa = _Walk(random, 1013, 4, 950, 1060, 1)
        self._battery_v = random.uniform(3.6, 4.1)

    def values(self, elapsed_s: float) -> Values:
        """Climate, battery and motion."""
        return {
            "temp_c": self._temp_c.next(),
            "humidity_pct": self._humidity_pct.next(),
            "pressure_hpa": self._pressure_hpa.next(),
            "battery_v": round(self._battery_v - elapsed_s * 1e-6, 3),
            "motion": self._random.random() < 0.1,
        }

    def event(self) -> tuple[str, Values]:
        """A pressed button or a crossed threshold."""
        name = self._random.choice(("button", "threshold"))
        return name, {"count": self._random.randint(1, 9)}


class ServerMetrics:
    """The metrics agent of a small server."""

    kind = "server"

    def __init__(self, random: Random) -> None:
        self._random = random
        self._cpu_pct = _Walk(random, random.uniform(10, 60), 12, 0, 100, 1)
        self._mem_used_pct = _Walk(random, random.uniform(30, 80), 3, 1, 99, 1)
        self._rx_bytes = 0
        self._disk_free_bytes = random.randrange(10**9, 10**12)

    def values(self, elapsed_s: float) -> Values:
        """Load, memory, network and disk."""
        cpu_pct = self._cpu_pct.next()
        self._rx_bytes += int(self._random.expovariate(1 / 50_000))
        return {
            "cpu_pct": cpu_pct,
            "load1": round(cpu_pct / 25, 2),
            "mem_used_pct": self._mem_used_pct.next(),
            "net_rx_bytes": self._rx_bytes,
            "disk_free_bytes": self._disk_free_bytes - int(elapsed_s * 1_000),
            "disk_busy_pct": round(50 + 50 * math.sin(elapsed_s / 60), 1),
        }

    def event(self) -> tuple[str, Values]:
        """A restarted unit or a log-in."""
        name = self._random.choice(("unit_restarted", "login"))
        return name, {"unit": self._random.choice(("nginx", "postgresql", "ssh"))}
