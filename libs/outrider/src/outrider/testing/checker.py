"""Compares what devices say they sent with what the ledger holds, row by row and by value."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

SAMPLES = """
SELECT s.tenant, s.device, s.metric, (extract(epoch FROM ts) * 1000)::bigint,
       CASE s.kind WHEN 'boolean' THEN to_jsonb(value <> 0) ELSE to_jsonb(value) END
FROM telemetry.sample JOIN telemetry.series s ON s.id = series_id
UNION ALL
SELECT s.tenant, s.device, s.metric, (extract(epoch FROM ts) * 1000)::bigint, to_jsonb(value)
FROM telemetry.sample_text JOIN telemetry.series s ON s.id = series_id
UNION ALL
SELECT s.tenant, s.device, s.metric, (extract(epoch FROM ts) * 1000)::bigint, value
FROM telemetry.sample_json JOIN telemetry.series s ON s.id = series_id
"""
RECORDS = """
SELECT tenant, device, 'log', boot, seq, level, (extract(epoch FROM ts) * 1000)::bigint, message
FROM logs.line WHERE seq IS NOT NULL
UNION ALL
SELECT tenant, device, 'event', boot, seq, type, (extract(epoch FROM ts) * 1000)::bigint, message
FROM telemetry.event WHERE seq IS NOT NULL
"""
ANCHORS = "SELECT tenant, device, boot, anchor_ms FROM telemetry.boot"


@dataclass
class Findings:
    """What differs; `rows` counts the expected rows that were compared."""

    rows: int = 0
    missing: list[Any] = field(default_factory=list)
    extra: list[Any] = field(default_factory=list)
    unacked: int = 0
    rejected: int = 0
    without_anchor: list[Any] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True when every expected row is there once, with its value, and no row that nobody sent."""
        return not (self.missing or self.extra or self.without_anchor)


def compare(record: Path, database_url: str) -> Findings:
    """Check a simulator's record (see `outrider sim --record`) against the ledger and the logs.

    Rows of messages that were never acknowledged, or refused, may be there or not. `extra` are rows of devices in the
    record that no message of theirs accounts for (devices that number nothing are not in the record).
    """
    expected: list[dict[str, Any]] = []
    states: dict[tuple[Any, ...], str] = {}
    with record.open() as lines:
        for line in lines:
            entry = json.loads(line)
            if "state" in entry:
                states[_message(entry)] = entry["state"]
            else:
                expected.append(entry)
    found = Findings()
    found.unacked = sum(state == "unacked" for state in states.values())
    found.rejected = sum(state == "rejected" for state in states.values())
    with psycopg.connect(database_url) as connection:
        anchors = {(t, d, b): anchor for t, d, b, anchor in connection.execute(ANCHORS.encode())}
        samples: Counter[tuple[Any, ...]] = Counter(
            (*row[:4], _value(row[4])) for row in connection.execute(SAMPLES.encode())
        )
        records: Counter[tuple[Any, ...]] = Counter(connection.execute(RECORDS.encode()))
    devices = {(entry["tenant"], entry["device"]) for entry in expected}
    for entry in expected:
        ts = entry.get("ts")
        if ts is None:
            anchor = anchors.get((entry["tenant"], entry["device"], entry["boot"]))
            if anchor is None:
                if _message(entry) not in states:
                    found.without_anchor.append(entry)
                continue
            ts = anchor + entry["up_ms"]
        if entry["stream"] == "telemetry":
            table = samples
            row: tuple[Any, ...] = (entry["tenant"], entry["device"], entry["metric"], ts, _value(entry["value"]))
        else:
            key = (entry["tenant"], entry["device"], entry["stream"], entry["boot"], entry["seq"])
            table, row = records, (*key, entry["metric"], ts, entry["value"])
        if table[row] > 0:
            table[row] -= 1
            found.rows += 1
        elif _message(entry) not in states:
            found.missing.append(entry)
    for table in (samples, records):
        found.extra += [row for row, count in table.items() if count > 0 and row[:2] in devices]
    return found


def _message(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("tenant", "device", "stream", "boot", "seq"))


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int | float):
        return float(value)
    return json.dumps(value, sort_keys=True)
