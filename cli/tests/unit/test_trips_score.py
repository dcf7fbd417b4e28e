"""`outrider trips score` at its edge: options, files that are no recordings, what is printed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from outrider.testing.journeys import Journey
from outrider_cli.main import app

HEADER = "drive,ts,lat,lon,speed_kmh,ignition,drive_km"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives of ten minutes, parked rows between them."""
    journey = Journey(every_s=5, carry={"ignition": True})
    lines = [HEADER]
    for drive in ("1", "", "2"):
        first = len(journey.samples)
        if drive:
            journey.drive(600)
        else:
            journey.stand(400, ignition=False)
        for count, row in enumerate(journey.samples[first:]):
            km = f"{count * 5 * 50 / 3600:.4f}" if drive else ""
            lines.append(
                f"{drive},{row.ts / 1000},{row.lat},{row.lon},{row.speed_kmh},{str(row.ignition).lower()},{km}"
            )
    path = tmp_path_factory.mktemp("score") / "two.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["trips", "score", *arguments])


def test_score_json(file: Path) -> None:
    result = run(str(file), "--json", "--shuffle", "--batches", "4", "--duplicate", "10", "--grid")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["iou"]) == {"0.5", "0.8", "0.9"}
    assert found["iou"]["0.9"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert found["distance_error"]["median"] < 0.01
    assert found["stream"]["same_as_in_order"] is True
    assert {"split_rate", "merge_rate", "start_error_s", "end_error_s"} <= set(found)
    assert len(found["grid"]) == 45


def test_score_delay_with_and_without_a_number(file: Path) -> None:
    for delay in (["--delay"], ["--delay", "30"]):
        for arguments in ([str(file), "--json", *delay], [*delay, str(file), "--json"]):
            found = json.loads(run(*arguments, "--batches", "5").stdout)
            assert found["stream"]["same_as_in_order"] is True
            assert found["iou"]["0.9"]["f1"] == 1.0


def test_score_table(file: Path) -> None:
    result = run(str(file), "--gap", "600", "--strip-rpm", "--rule", "start_kmh=8")
    assert "Trips that merge drives: 100.0%" in result.stdout
    assert "The trips are the same as those of the samples in order." in result.stdout
    assert "ignition_off" in run(str(file)).stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: there is no column 'drive'"),
        ("drive,ts\n1,2", "nothing to see motion by"),
        (f"{HEADER}\n1,2", "line 2: 2 fields, the header has 7"),
        (f"{HEADER}\n1,1558644851,48,16,fast,,", "line 2: speed_kmh is 'fast', not a number"),
        (f"{HEADER}\n1,1558644851,48,16,5,,\n1,,48,16,5,,", "line 3: ts is empty"),
        (f"{HEADER}\n1,1558644851,48,16,5,perhaps,", "line 2: ignition is 'perhaps'"),
        (f"{HEADER}\n0,1558644851,48,16,5,,", "no row with a drive"),
    ],
)
def test_score_says_what_is_wrong_and_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    result = run(str(path))
    assert result.exit_code == 2
    assert says in result.stderr


def test_score_refuses_rules_that_do_not_exist(file: Path) -> None:
    assert "no trip rule" in run(str(file), "--rule", "pace=3").stderr
    assert "KEY=NUMBER" in run(str(file), "--rule", "start_kmh").stderr
    assert run("nowhere.csv").exit_code == 2
    assert "Drop fewer" in run(str(file), "--drop", "100").stderr
