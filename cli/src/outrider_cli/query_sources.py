"""Where `outrider query` reads from: the gateway, or the database itself. Both give the same rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from outrider.client import Client, Table

WINDOWS = (timedelta(minutes=10), timedelta(hours=3), timedelta(days=3))
"""Backwards from the end: the newest samples are looked for there before the whole range is read."""
EVER = datetime(1970, 1, 1, tzinfo=UTC)

LATEST = """
SELECT tenant, metric, kind, value, ts FROM telemetry.latest WHERE device = %(device)s ORDER BY tenant, metric, kind
"""
SERIES = """
SELECT ts, value, kind FROM (
    SELECT x.ts, to_jsonb(x.value) AS value, s.kind FROM telemetry.series s JOIN telemetry.sample x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'number'
      AND x.ts >= %(since)s AND (%(until)s::timestamptz IS NULL OR x.ts < %(until)s)
    UNION ALL
    SELECT x.ts, to_jsonb(x.value <> 0), s.kind FROM telemetry.series s JOIN telemetry.sample x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'boolean'
      AND x.ts >= %(since)s AND (%(until)s::timestamptz IS NULL OR x.ts < %(until)s)
    UNION ALL
    SELECT x.ts, to_jsonb(x.value), s.kind FROM telemetry.series s JOIN telemetry.sample_text x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'string'
      AND x.ts >= %(since)s AND (%(until)s::timestamptz IS NULL OR x.ts < %(until)s)
    UNION ALL
    SELECT x.ts, x.value, s.kind FROM telemetry.series s JOIN telemetry.sample_json x ON x.series_id = s.id
    WHERE s.device = %(device)s AND s.metric = %(metric)s AND s.kind = 'json'
      AND x.ts >= %(since)s AND (%(until)s::timestamptz IS NULL OR x.ts < %(until)s)
) samples ORDER BY ts DESC LIMIT %(limit)s
"""
DEVICES = "SELECT DISTINCT device FROM telemetry.series ORDER BY device LIMIT 20"


class NothingThere(Exception):
    """There is no such device, metric or sample; the text says what there is."""


@dataclass
class Asked:
    """A range of some metrics of a device. `limit`: at most so many rows, the newest."""

    device: str
    metrics: Sequence[str]
    since: datetime | None
    until: datetime | None
    limit: int
    step: str | None = None
    aggregates: Sequence[str] = ()

    @property
    def raw(self) -> bool:
        """True if samples are asked for, not buckets."""
        return self.step is None and not self.aggregates


@dataclass
class Rows:
    """Rows in order of time, each with a value for every column; None where there is none."""

    columns: list[str]
    rows: list[tuple[datetime, list[Any]]]
    units: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """What can be asked."""

    def latest(self, device: str) -> list[dict[str, Any]]:
        """The newest sample of each series. Raises NothingThere."""

    def series(self, asked: Asked) -> Rows:
        """What was measured in a range. Raises NothingThere."""


class Direct:
    """Reads the database, samples only."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._connection = connection

    def latest(self, device: str) -> list[dict[str, Any]]:
        """The newest sample of each series. Raises NothingThere."""
        rows = self._connection.execute(LATEST.encode(), {"device": device}).fetchall()
        if not rows:
            raise NothingThere(f"No samples of {device}. Devices: {self.devices()}")
        return rows

    def series(self, asked: Asked) -> Rows:
        """Samples of a range. Raises NothingThere."""
        by_time: dict[datetime, list[Any]] = {}
        for n, metric in enumerate(asked.metrics):
            values = {"device": asked.device, "metric": metric, "since": asked.since or EVER, "until": asked.until}
            found = self._connection.execute(SERIES.encode(), values | {"limit": asked.limit}).fetchall()
            if not found:
                raise NothingThere(f"No samples of {metric} of {asked.device}. Devices: {self.devices()}")
            for row in found:
                by_time.setdefault(row["ts"], [None] * len(asked.metrics))[n] = row["value"]
        return Rows(list(asked.metrics), sorted(by_time.items())[-asked.limit :])

    def devices(self) -> str:
        """Names of some there are."""
        return ", ".join(row["device"] for row in self._connection.execute(DEVICES).fetchall()) or "none yet"


class OverGateway:
    """Asks the gateway. Raises outrider.client.GatewayError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def latest(self, device: str) -> list[dict[str, Any]]:
        """The newest sample of each series. Raises NothingThere."""
        found = self._client.latest(device)
        if not found.values:
            raise NothingThere(f"No samples of {device} yet.")
        return [
            {"metric": one.metric, "kind": one.kind, "value": one.value, "ts": one.ts, "unit": one.unit}
            for one in found.values
        ]

    def series(self, asked: Asked) -> Rows:
        """Samples or buckets of a range. Raises NothingThere."""
        rows = self._newest(asked) if asked.raw else self._buckets(asked)
        if not rows.rows:
            raise NothingThere(f"No samples of {', '.join(asked.metrics)} of {asked.device} in this range.")
        return rows

    def _buckets(self, asked: Asked) -> Rows:
        pages = self._client.telemetry_pages(
            asked.device,
            asked.metrics,
            start=asked.since,
            end=asked.until,
            step=asked.step,
            aggregate=asked.aggregates,
        )
        return _rows(pages, asked.limit)

    def _newest(self, asked: Asked) -> Rows:
        until = asked.until
        if until is None:
            found = self._client.latest(asked.device, asked.metrics)
            if not found.values:
                return Rows([], [])
            until = max(one.ts for one in found.values) + timedelta(milliseconds=1)
        since = asked.since or EVER
        for width in (*WINDOWS, until - EVER):
            start = max(since, until - width)
            if start >= until:
                return Rows([], [])
            pages = self._client.telemetry_pages(
                asked.device, asked.metrics, start=start, end=until, aggregate=["raw"], limit=20_000
            )
            rows = _rows(pages, asked.limit)
            if len(rows.rows) >= asked.limit or start == since:
                break
        return rows


def _rows(pages: Iterable[Table], limit: int) -> Rows:
    kept: deque[tuple[datetime, list[Any]]] = deque(maxlen=limit)
    columns: list[str] = []
    units: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    for page in pages:
        columns = [column.name for column in page.columns]
        units = {column.name: column.unit for column in page.columns}
        notes = tuple(dict.fromkeys((*notes, *page.notes)))
        kept.extend((datetime.fromtimestamp(ts / 1000, UTC), values) for ts, values in page.rows())
    return Rows(columns, list(kept), units, notes)
