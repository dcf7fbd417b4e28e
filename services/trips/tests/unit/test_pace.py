"""Rows by which nothing changes may wait; any that may change what a watcher sees are looked at at once."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_trips.evidence import COLUMNS
from outrider_trips.pace import wait_s


def row(**values: Any) -> list[Any]:
    return [values.get(name) for name in COLUMNS]


@pytest.mark.parametrize(
    ("state", "rows", "waits"),
    [
        ("driving", [{"speed_kmh": 50.0}, {"speed_kmh": 5.0, "ignition": True, "gear": "D", "rpm": 900.0}], 30),
        ("driving", [{"speed_kmh": 50.0}, {"speed_kmh": 4.9}], 0),
        ("driving", [{"speed_kmh": 50.0}, {"lat": 52.0, "lon": 13.0}], 0),
        ("driving", [{"speed_kmh": 50.0, "ignition": False}], 0),
        ("driving", [{"speed_kmh": 50.0, "gear": "p"}], 0),
        ("driving", [{"speed_kmh": 50.0, "rpm": 0.0}], 0),
        ("paused", [{"speed_kmh": 0.0}, {"speed_kmh": 1.9, "ignition": True}], 30),
        ("paused", [{"speed_kmh": 0.0}, {"speed_kmh": 2.0}], 0),
        ("paused", [{"speed_kmh": 0.0, "ignition": False}], 0),
        ("paused", [{"ignition": True}], 0),
        ("idle", [{"speed_kmh": 0.0, "ignition": False, "gear": "P", "rpm": 0.0}], 300),
        ("idle", [{"speed_kmh": 3.0}], 0),
    ],
)
def test_wait_s(state: str, rows: list[dict[str, Any]], waits: float) -> None:
    assert wait_s([row(**values) for values in rows], state, 30.0) == waits
