"""Where segmentation can go on without the rows before: the begin of a trip, and what was learned until then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from outrider.trips.engine import Heard
from outrider.trips.motion import VERDICT_MS, Motion
from outrider.trips.rest import Tempo
from outrider.trips.rules import Rules


class Behind(Exception):
    """What came since the checkpoint may change what was before it: all samples are needed."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The trip that begins at `start_ms` does so whatever comes after `settled_ms`, unless `follow` raises Behind."""

    read_ms: int  # rows from here on are needed
    start_ms: int
    start_reason: str
    left_ms: int  # when its first movement begins: rows up to here are summed up below
    settled_ms: int
    base_ms: float  # words of sensors from here on count
    intervals: Mapping[int, int]  # how many reports while moving came after how many seconds
    heard: Heard
    tempo: Tempo  # learned, and believed or not: when more rows change either, what was before may change too
    distrusted: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """In types that JSON has; `from_json` gives an equal one back."""
        return asdict(self) | {"intervals": {str(seconds): count for seconds, count in self.intervals.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Checkpoint:
        """What `to_json` wrote."""
        heard = Heard(
            *({name: tuple(pair) for name, pair in values["heard"][key].items()} for key in ("said", "driving"))
        )
        return cls(
            **{
                **{key: value for key, value in values.items() if key in cls.__dataclass_fields__},
                "intervals": {int(seconds): count for seconds, count in values["intervals"].items()},
                "heard": heard,
                "tempo": Tempo(**values["tempo"]),
                "distrusted": tuple(values["distrusted"]),
            }
        )


def settled_ms(moves: Motion, last: int, rules: Rules) -> float:
    """When no newer row can change any more that a movement ended with this row.

    Verdicts look ahead for `VERDICT_MS`; an interval between two fixes, or two words of the odometer, is judged as one.
    """
    over = float(moves.ts[min(last + 1, len(moves.ts) - 1)])
    settled = over + VERDICT_MS
    longest = settled + 1000 * rules.bridge_s
    for known in (np.flatnonzero(~np.isnan(moves.lat)), np.flatnonzero(~np.isnan(moves.odometer))):
        after = known[np.searchsorted(known, last + 1, side="right") :]
        if len(known) > len(after):
            settled = max(settled, min(longest, float(moves.ts[after[0]])) if len(after) else longest)
    return settled


def needed_ms(moves: Motion, start_ms: float, tempo: Tempo, rules: Rules) -> float:
    """From where rows can matter for what begins at `start_ms` or later: back over a wake and the sleep before it, or as
    far as verdicts look back; and to the fix and the word of the odometer before that."""
    looks_back_ms = tempo.end_ms + max(1000 * rules.wake_s, 1000 * rules.creep_s + VERDICT_MS) + VERDICT_MS
    needed = start_ms - looks_back_ms
    oldest = start_ms - looks_back_ms - 1000 * rules.bridge_s
    for known in (moves.ts[~np.isnan(moves.lat)], moves.ts[~np.isnan(moves.odometer)]):
        before = known[: np.searchsorted(known, start_ms - tempo.end_ms - VERDICT_MS, side="right")]
        if len(before):
            needed = min(needed, max(oldest, float(before[-1]) - VERDICT_MS))
    return needed
