"""Where segmentation can go on without the rows before: the begin of a trip, and what was learned until then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from outrider.trips.engine import Heard
from outrider.trips.rest import Tempo


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
