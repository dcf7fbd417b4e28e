"""Journeys made by hand: what a device would report of a vehicle that drives, stands and is silent as told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

from outrider.trips import Sample

NOON_MS = 1_780_000_000_000  # some day in 2026
_METRES_PER_DEGREE = 111_195.0


@dataclass(slots=True)
class Journey:
    """Rows each `every_s` seconds from `now_ms` on. Each step goes on where the last one ended.

    `carry` is reported with every row (`ignition=True`); None leaves a column out (`speed_kmh=None`).
    """

    every_s: float = 1.0
    now_ms: int = NOON_MS
    lat: float = 48.2
    lon: float = 16.37
    heading_deg: float = 60.0
    fixes: bool = True
    speeds: bool = True
    carry: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def drive(self, seconds: float, kmh: float = 50.0, **also: Any) -> Self:
        """Report rows at this speed; the first one is one interval after the last."""
        return self._go(seconds, kmh, also)

    def stand(self, seconds: float, **also: Any) -> Self:
        """Report rows at rest."""
        return self._go(seconds, 0.0, also)

    def silence(self, seconds: float, kmh: float = 0.0) -> Self:
        """Report nothing, having driven at this speed meanwhile."""
        self._move(seconds, kmh)
        self.now_ms += int(seconds * 1000)
        return self

    def row(self, **values: Any) -> Self:
        """Report one row now, as given, and nothing else."""
        self.samples.append(Sample(self.now_ms, **values))
        return self

    def turn(self, heading_deg: float) -> Self:
        self.heading_deg = heading_deg
        return self

    def _go(self, seconds: float, kmh: float, also: dict[str, Any]) -> Self:
        for _ in range(max(1, round(seconds / self.every_s))):
            self._move(self.every_s, kmh)
            self.now_ms += int(self.every_s * 1000)
            values: dict[str, Any] = {}
            if self.fixes:
                values |= {"lat": self.lat, "lon": self.lon}
            if self.speeds:
                values["speed_kmh"] = kmh
            self.samples.append(Sample(self.now_ms, **(values | self.carry | also)))
        return self

    def _move(self, seconds: float, kmh: float) -> None:
        metres = kmh / 3.6 * seconds
        self.lat += metres * math.cos(math.radians(self.heading_deg)) / _METRES_PER_DEGREE
        east = metres * math.sin(math.radians(self.heading_deg)) / _METRES_PER_DEGREE
        self.lon += east / math.cos(math.radians(self.lat))
