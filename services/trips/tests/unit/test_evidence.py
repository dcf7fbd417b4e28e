"""Which samples become evidence, and how they merge."""

from __future__ import annotations

import random
from typing import Any

import pytest

from outrider.contract.batch import BatchNumber, Header, Kind, SampleBatch, Samples
from outrider_trips.evidence import COLUMNS, Evidence, Reader
from outrider_trips.testing import T0

Given = tuple[str, Kind, int, Any]


def gather(*messages: list[Given]) -> Evidence:
    headers = [Header("demo", "van", "telemetry", None, None, T0 + i) for i in range(len(messages))]
    return Reader().gather([SampleBatch(BatchNumber(0, 1, 1), headers, [Samples.of(message) for message in messages])])


def rows(evidence: Evidence) -> dict[int, dict[str, Any]]:
    if not evidence.devices:
        return {}
    found = evidence.devices["demo", "van"].rows
    return {ts: {n: v for n, v in zip(COLUMNS, row, strict=True) if v is not None} for ts, row in found.items()}


def test_samples_of_one_time_are_one_row() -> None:
    evidence = gather(
        [("lat", "number", T0, 52.0), ("temp_c", "number", T0, 3), ("lat", "number", T0 + 1, 52.1)],
        [("lon", "number", T0, 13)],
    )
    assert rows(evidence) == {T0: {"lat": 52.0, "lon": 13.0}, T0 + 1: {"lat": 52.1}}
    assert evidence.devices["demo", "van"].received_ms == T0 + 1
    assert evidence.received_ms == T0 + 1


@pytest.mark.parametrize(
    ("metric", "kind", "value", "stored"),
    [
        ("ignition", "boolean", True, True),
        ("ignition", "number", 0, False),
        ("ignition", "string", " On", True),
        ("ignition", "string", "maybe", None),
        ("gear", "string", "D", "D"),
        ("gear", "number", 3.0, "3"),
        ("gear", "string", "\ud800", None),
        ("gear", "string", "x" * 17, None),
        ("gear", "boolean", True, None),
        ("lat", "number", 90.5, None),
        ("lat", "string", "52", None),
        ("lon", "number", -180, -180.0),
        ("speed_kmh", "number", -1, None),
        ("speed_kmh", "boolean", True, None),
        ("speed_kmh", "number", 10**400, None),
        ("odometer_km", "number", 123456, 123456.0),
        ("soc_pct", "number", 101, None),
        ("rpm", "json", {"a": 1}, None),
    ],
)
def test_values(metric: str, kind: Kind, value: Any, stored: Any) -> None:
    evidence = gather([(metric, kind, T0, value)])
    assert rows(evidence) == ({} if stored is None else {T0: {metric: stored}})
    assert dict(evidence.ignored) == ({f"bad_{metric}": 1} if stored is None else {})


@pytest.mark.parametrize("ts", [0, 946_684_799_999, 253_402_300_800_000, -(2**70)])
def test_impossible_times_are_ignored(ts: int) -> None:
    evidence = gather([("lat", "number", ts, 52.0)])
    assert (rows(evidence), dict(evidence.ignored)) == ({}, {"clock_invalid": 1})


def test_greatest_value_stays_in_any_order() -> None:
    given: list[Given] = [("speed_kmh", "number", T0, float(v)) for v in range(5)]
    given += [("gear", "string", T0, gear) for gear in "NDR"] + [
        ("ignition", "boolean", T0, value) for value in (True, False)
    ]
    for seed in range(5):
        messages = [[one] for one in random.Random(seed).sample(given, len(given))]
        assert rows(gather(*messages)) == {T0: {"speed_kmh": 4.0, "gear": "R", "ignition": True}}


@pytest.mark.parametrize(("metric", "moves"), [("lat", True), ("ignition", True), ("rpm", False), ("soc_pct", False)])
def test_what_makes_a_vehicle(metric: str, moves: bool) -> None:
    kind: Kind = "boolean" if metric == "ignition" else "number"
    assert gather([(metric, kind, T0, 1)]).devices["demo", "van"].moves is moves


def test_message_without_evidence_leaves_nothing() -> None:
    assert gather([("temp_c", "number", T0, 1.0), ("on", "boolean", T0, True)]).devices == {}
