"""What ignition, gear and rpm say about the engine, as far as the motion does not contradict them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from outrider.trips.columns import GEAR, IGNITION, RPM, Bools, Columns, Floats, Ints

Sensor = Literal["ignition", "gear", "rpm"]
SENSORS: tuple[tuple[Sensor, int], ...] = (("ignition", IGNITION), ("gear", GEAR), ("rpm", RPM))
_CONTRADICTED = 0.2  # "off" in more than this share of the moving rows: the wire is loose, or it is a hybrid
_RPM_STALE_MS = 120_000.0  # rpm is reported as it changes, that is always; ignition and gear may come on change only
_FRESH_MS = 60_000.0


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine by row of the columns, from row `base` on: 1 running, 0 off, NaN unknown."""

    base: int
    running: Floats
    sensor: Ints  # index in SENSORS that gave the word, -1 none
    fresh: Bools  # the word is not older than a minute
    distrusted: tuple[Sensor, ...]

    @classmethod
    def of(cls, columns: Columns, first: int, last: int, moving: Ints) -> Engine:
        """From rows [first, last); `moving` are the rows that move, by which each sensor is judged."""
        ts = columns.ts[first:last]
        running = np.full(len(ts), np.nan)
        sensor = np.full(len(ts), -1, dtype=np.int64)
        age = np.full(len(ts), np.inf)
        distrusted: list[Sensor] = []
        for index, (name, metric) in enumerate(SENSORS):
            values = columns.values[metric][first:last]
            said = ~np.isnan(values)
            if not said.any():
                continue
            last_said = np.maximum.accumulate(np.where(said, np.arange(len(ts)), -1))
            at = np.maximum(last_said, 0)
            since = np.where(last_said >= 0, ts - ts[at], np.inf)
            word = np.where(last_said >= 0, (values[at] > 0).astype(np.float64), np.nan)
            if name == "rpm":
                word = np.where(since <= _RPM_STALE_MS, word, np.nan)
            driving = word[moving - first]
            known = int((~np.isnan(driving)).sum())
            if known and int((driving == 0).sum()) > _CONTRADICTED * known:
                distrusted.append(name)
                continue
            # A running engine outranks gear P, as gear D outranks the rpm of 0 that start-stop gives at a light.
            new = (np.isnan(running) & ~np.isnan(word)) | ((running == 0) & (sensor > 0) & (word == 1))
            running = np.where(new, word, running)
            sensor = np.where(new, index, sensor)
            age = np.where(new, since, age)
        return cls(first, running, sensor, age <= _FRESH_MS, tuple(distrusted))
