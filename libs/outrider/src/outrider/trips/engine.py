"""What ignition, gear and rpm say about the engine, as far as the motion does not contradict them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from outrider.trips.columns import GEAR, IGNITION, RPM, Bools, Columns, Floats, Ints

Sensor = Literal["ignition", "gear", "rpm"]
SENSORS: tuple[tuple[Sensor, int], ...] = (("ignition", IGNITION), ("gear", GEAR), ("rpm", RPM))
_CONTRADICTED = 0.2  # "off" in more than this share of the moving rows: the wire is loose, or it is a hybrid
_RPM_STALE_MS = 120_000.0  # rpm is reported as it changes, that is always; ignition and gear may come on change only
_FRESH_MS = 60_000.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What the sensors said in rows that are not at hand any more."""

    said: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # the last word (1 running, 0 off) and its time
    driving: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # rows that move with a word, and with "off"

    def with_words(self, name: str, words: Floats) -> tuple[int, int]:
        """Rows that move with a word, and with "off": those from before and these."""
        known, off = self.driving.get(name, (0, 0))
        return known + int((~np.isnan(words)).sum()), off + int((words == 0).sum())


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine by row of the columns, from row `base` on: 1 running, 0 off, NaN unknown."""

    base: int
    running: Floats
    sensor: Ints  # index in SENSORS that gave the word, -1 none
    fresh: Bools  # the word is not older than a minute
    distrusted: tuple[Sensor, ...]
    driving: Mapping[str, Floats]  # the word of each sensor in the rows that move

    @classmethod
    def of(cls, columns: Columns, first: int, last: int, moving: Ints, heard: Heard | None = None) -> Engine:
        """From rows [first, last); `moving` are the rows that move, by which each sensor is judged.

        `heard`: what was said in rows before these, and while moving before those of `moving`.
        """
        heard = heard or Heard()
        words: dict[str, Floats] = {}
        ts = columns.ts[first:last]
        running = np.full(len(ts), np.nan)
        sensor = np.full(len(ts), -1, dtype=np.int64)
        age = np.full(len(ts), np.inf)
        distrusted: list[Sensor] = []
        for index, (name, metric) in enumerate(SENSORS):
            values = columns.values[metric][first:last]
            said = ~np.isnan(values)
            before_ms, before = heard.said.get(name, (-np.inf, np.nan))
            if np.isnan(before) and not said.any():
                continue
            last_said = np.maximum.accumulate(np.where(said, np.arange(len(ts)), -1))
            at = np.maximum(last_said, 0)
            since = ts - np.where(last_said >= 0, ts[at], before_ms)
            word = np.where(last_said >= 0, (values[at] > 0).astype(np.float64), before)
            if name == "rpm":
                word = np.where(since <= _RPM_STALE_MS, word, np.nan)
            words[name] = word[moving - first]
            known, off = heard.with_words(name, words[name])
            if known and off > _CONTRADICTED * known:
                distrusted.append(name)
                continue
            # A running engine outranks gear P, as gear D outranks the rpm of 0 that start-stop gives at a light.
            new = (np.isnan(running) & ~np.isnan(word)) | ((running == 0) & (sensor > 0) & (word == 1))
            running = np.where(new, word, running)
            sensor = np.where(new, index, sensor)
            age = np.where(new, since, age)
        return cls(first, running, sensor, age <= _FRESH_MS, tuple(distrusted), words)
