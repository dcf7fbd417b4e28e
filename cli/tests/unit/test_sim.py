"""The simulated fleet: who is in it, what it plays back, what it reports."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import typer

from outrider_cli.sim.behaviour import Refused, number_of
from outrider_cli.sim.encodings import Frame, document_of, encode_zstd
from outrider_cli.sim.plan import fleet, new_boot
from outrider_cli.sim.registration import login, read_credentials
from outrider_cli.sim.report import Latencies
from outrider_cli.sim.sources import PARKED_S, PARKS_AFTER_S, TAPES, Vehicle, load_tape


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


def test_every_device_has_what_the_registry_is_told_of_it() -> None:
    rows = [plan.registration for plan in fleet(40, 40, seed=1)]
    assert len({row["id"] for row in rows}) == len({row["serial"] for row in rows}) == 80
    assert {row["type"] for row in rows} == {"car", "van", "sensor", "server"}
    assert all(row["tier"] and row["tags"] and row["firmware"] and row["hardware"] for row in rows)
    standing = [row for row in rows if "latitude" in row]
    assert {row["type"] for row in standing} == {"sensor", "server"}
    assert all(-90 <= row["latitude"] <= 90 and -180 <= row["longitude"] <= 180 for row in standing)


def test_what_a_device_is_called_changes_nothing_of_what_it_measures() -> None:
    plain, named = fleet(3, 3, seed=1), fleet(3, 3, seed=1, prefix="x-")
    assert [p.source.values(5.0) for p in plain] == [p.source.values(5.0) for p in named]


def test_credentials_come_from_a_report_of_an_import(tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_text(
        "row,id,result,error,secret,generation\n2,van-1,created,,s3cret,2\n3,van-2,unchanged,,,\n4,van-3,created,,other,\n"
    )
    assert read_credentials(file) == {"van-1": {2: "s3cret"}, "van-3": {1: "other"}}
    file.write_text("id,secret\n")
    with pytest.raises(typer.BadParameter, match="no rows"):
        read_credentials(file)
    with pytest.raises(typer.BadParameter):
        read_credentials(tmp_path / "none.csv")


def test_login_puts_the_newest_secret_into_the_address() -> None:
    assert login("mqtts://host:8883", "van-1", {1: "old", 2: "a/b+c"}) == "mqtts://van-1:a%2Fb%2Bc@host:8883"


@pytest.mark.parametrize(
    ("params", "refused"),
    [({}, False), ({"lines": 5}, False), ({"lines": -1}, True), ({"lines": "5"}, True), ({"lines": True}, True)],
)
def test_a_command_with_impossible_parameters_is_refused(params: dict[str, object], refused: bool) -> None:
    if refused:
        with pytest.raises(Refused, match="lines"):
            number_of(params, "lines", 20.0)
    else:
        assert number_of(params, "lines", 20.0) == params.get("lines", 20.0)


def test_the_first_vehicles_park_soon_and_stay_so() -> None:
    for after_s, plan in zip(PARKS_AFTER_S, fleet(4, 0, seed=3), strict=False):
        assert plan.source.values(after_s - 2)["ignition"] is True
        assert [plan.source.values(after_s + s)["ignition"] for s in (0, 60, PARKED_S - 2)] == [False] * 3
