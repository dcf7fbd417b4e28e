"""The simulated fleet: who is in it, what it plays back, what it reports."""

from __future__ import annotations

from random import Random

import pytest

from outrider_cli.sim.encodings import Frame, document_of, encode_zstd
from outrider_cli.sim.plan import fleet, new_boot
from outrider_cli.sim.report import Latencies
from outrider_cli.sim.sources import TAPES, Vehicle, load_tape


def test_fleet_has_every_kind_encoding_and_exception() -> None:
    plans = fleet(40, 80, seed=1)
    assert len({plan.name for plan in plans}) == 120
    assert {plan.source.kind for plan in plans} == {"vehicle", "sensor", "server"}
    assert {plan.encoding for plan in plans} == {"flat", "senml", "compact", "scalar"}
    assert 0.05 < sum(not plan.numbered for plan in plans) / 120 < 0.15
    assert 0.08 < sum(plan.clockless for plan in plans) / 120 < 0.16


def test_fleet_is_the_same_for_the_same_seed() -> None:
    one, two, other = fleet(4, 4, seed=1), fleet(4, 4, seed=1), fleet(4, 4, seed=2)
    measured = [[plan.source.values(5.0) for plan in plans] for plans in (one, two, other)]
    assert measured[0] == measured[1]
    assert measured[0] != measured[2]


def test_boot_ids_differ_between_runs() -> None:
    assert len({new_boot() for _ in range(100)}) == 100


@pytest.mark.parametrize("name", TAPES)
def test_tape_holds_real_positions_and_parked_pauses(name: str) -> None:
    tape = load_tape(name)
    assert tape.times_s == sorted(tape.times_s)
    assert {row["ignition"] for row in tape.rows} == {True, False}
    assert all(-90 <= float(row["lat"]) <= 90 and -180 <= float(row["lon"]) <= 180 for row in tape.rows)
    assert all(0 <= float(row.get("heading_deg", 0)) < 360 for row in tape.rows)


def test_odometer_of_a_vehicle_never_falls() -> None:
    vehicle = Vehicle(Random(1), 0)
    tape = load_tape(TAPES[0])
    read = [float(vehicle.values(elapsed_s)["odometer_km"]) for elapsed_s in range(0, 3 * tape.length_s, 97)]
    assert read == sorted(read)


def test_compact_steps_count_from_the_sample_before() -> None:
    frames = [Frame(1000, {"a": 1}), Frame(1200, {"a": 2, "b": 5}), Frame(1500, {"a": 3})]
    document = document_of("compact", frames, clockless=False)
    assert document == {"v": 1, "t0": 1000, "series": {"a": ([0, 200, 300], [1, 2, 3]), "b": ([200], [5])}}
    assert encode_zstd(document) == encode_zstd(document)


def test_recent_latencies_forget_what_is_older_than_ten_seconds() -> None:
    latencies = Latencies()
    for now_s, latency_s in ((0.0, 9.0), (95.0, 0.2), (100.0, 0.1)):
        latencies.add(now_s, latency_s)
    assert latencies.recent(100.0) == [0.1, 0.2]
    assert latencies.recent(107.0) == [0.1]
    assert latencies.all() == [0.1, 0.2, 9.0]
