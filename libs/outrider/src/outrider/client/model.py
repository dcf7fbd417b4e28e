"""What the gateway's query API answers, with types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any


def time_of(text: str) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Value:
    """The newest sample of a series, by its own time; `kind` is number, boolean, string or json."""

    metric: str
    kind: str
    unit: str
    ts: datetime
    value: Any


@dataclass(frozen=True, slots=True)
class Latest:
    """What a device measured last."""

    device: str
    values: tuple[Value, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Latest:
        """From the API's document."""
        values = (Value(v["metric"], v["kind"], v["unit"], time_of(v["ts"]), v["value"]) for v in told["values"])
        return cls(told["device"], tuple(values))


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds; `aggregate` None: samples as they are."""

    name: str
    metric: str
    kind: str
    unit: str
    aggregate: str | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the range, and the tier it was read from."""

    tier: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in columns: `ts` (epoch ms; of a bucket its start), and in `data` a list as long for each column."""

    start: datetime
    end: datetime
    step_ms: int | None
    source: str
    """The tier most of it was read from: raw, 1m, 5m or 1h."""
    segments: tuple[Segment, ...]
    notes: tuple[str, ...]
    columns: tuple[Column, ...]
    ts: list[int]
    data: dict[str, list[Any]]
    next: str | None
    """Cursor of the next page; None at the end."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Table:
        """From the API's document."""
        data = dict(told["data"])
        return cls(
            time_of(told["from"]),
            time_of(told["to"]),
            told["step_ms"],
            told["source"],
            tuple(Segment(s["tier"], time_of(s["from"]), time_of(s["to"])) for s in told["segments"]),
            tuple(told.get("notes", ())),
            tuple(Column(c["name"], c["metric"], c["kind"], c["unit"], c["aggregate"]) for c in told["columns"]),
            data.pop("ts"),
            data,
            told.get("next"),
        )

    def rows(self) -> Iterator[tuple[int, list[Any]]]:
        """(epoch ms, a value per column) of each row, in order of time."""
        columns = [self.data[column.name] for column in self.columns]
        for n, ts in enumerate(self.ts):
            yield ts, [values[n] for values in columns]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A metric of each device over a range: a mapping with `device` and the aggregates for each, in the order asked for."""

    start: datetime
    end: datetime
    source: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Trip:
    """A trip. `state` is driving, paused or final; `micro`: too short to count; `rev` grows when a final trip changes."""

    id: str
    device: str
    rev: int
    state: str
    micro: bool
    edited: bool
    start_at: datetime
    end_at: datetime
    start_lat: float | None
    start_lon: float | None
    end_lat: float | None
    end_lon: float | None
    distance_km: float | None
    distance_uncertainty_km: float | None
    duration_s: float
    moving_s: float | None
    idle_s: float | None
    stop_s: float | None
    avg_speed_kmh: float | None
    max_speed_kmh: float | None
    start_reason: str
    end_reason: str | None
    confidence: float
    evidence: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Trip:
        """From the API's document."""
        return cls(**_trip(told))


@dataclass(frozen=True, slots=True)
class TripDetail:
    """A trip with its simplified track (encoded polyline, precision 5) and, in `metrics`, min, max, mean, first, last and count
    of each metric over it."""

    trip: Trip
    track: str
    gaps: tuple[dict[str, Any], ...]
    stops: tuple[dict[str, Any], ...]
    metrics: dict[str, dict[str, Any]]
    more: dict[str, Any]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> TripDetail:
        """From the API's document."""
        return cls(
            Trip.of(told), told["track"], tuple(told["gaps"]), tuple(told["stops"]), told["metrics"], told["more"]
        )


@dataclass(frozen=True, slots=True)
class TripFigures:
    """Figures of the trips that began in a range: rows with `key` (a day, a week's Monday, a month, a device, or ''), `trips`,
    `devices`, `distance_km`, `duration_s`, `moving_s`, `idle_s`, `stop_s`, `max_speed_kmh`."""

    start: datetime
    end: datetime
    by: str
    timezone: str
    rows: tuple[dict[str, Any], ...]


def _trip(told: Mapping[str, Any]) -> dict[str, Any]:
    values = {field.name: told[field.name] for field in fields(Trip) if field.name in told}
    values |= {"start_at": time_of(told["start_at"]), "end_at": time_of(told["end_at"])}
    for end in ("start", "end"):
        values |= {f"{end}_lat": told[end]["lat"], f"{end}_lon": told[end]["lon"]}
    return values
