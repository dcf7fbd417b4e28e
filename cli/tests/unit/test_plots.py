"""What is drawn in a terminal, and a trip as files and links."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from outrider.client import Client
from outrider.trips import polyline
from outrider_cli.main import app
from outrider_cli.plot import plot
from outrider_cli.query_sources import Asked, OverGateway
from outrider_cli.trips import export
from outrider_cli.trips.sketch import sketch

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
ANGLE = st.floats(-80, 80)


@given(st.lists(st.tuples(ANGLE, ANGLE), min_size=1, max_size=20), st.integers(1, 80), st.integers(1, 30))
def test_a_sketch_fits_its_place_and_has_a_start_and_an_end(
    track: list[tuple[float, float]], columns: int, rows: int
) -> None:
    lines = sketch(track, track[:1], columns=columns, rows=rows)
    assert len(lines) <= rows + 1
    assert max(map(len, lines)) <= columns + 1
    assert "●" in "".join(lines)


def test_a_sketch_has_north_up_and_one_scale() -> None:
    # 0.02° of longitude at 60° north are as long as 0.01° of latitude: a square, so twice as many columns as rows.
    square = [(60.0, 8.0), (60.01, 8.0), (60.01, 8.02), (60.0, 8.02)]
    lines = sketch(square, columns=60, rows=10)
    assert len(lines) == 10
    assert max(map(len, lines)) in (19, 20, 21)
    assert lines[-1].startswith("○")
    assert lines[-1].endswith("●")
    assert sketch([]) == []


def test_a_plot_has_its_limits_at_the_left_and_breaks_at_silence() -> None:
    times = [*range(0, 60, 10), *range(600, 660, 10)]
    lines = plot([(T0 + timedelta(seconds=s), 10.0 if s < 300 else 90.0) for s in times], columns=60, rows=8)
    assert len(lines) == 10
    assert lines[0].strip().startswith("90 │")
    assert lines[7].strip().startswith("10 │")
    assert all(set(line.partition("│")[2]) <= {" "} for line in lines[1:7]), "no line through the silence"
    assert plot([], columns=60) == []


def a_trip() -> dict[str, Any]:
    track = [(50.0, 8.6), (50.01, 8.61), (50.02, 8.6)]
    return {
        "id": "1",
        "device": "van-7",
        "start_at": "2026-01-01T12:00:00.000Z",
        "track": polyline.encode(track),
        "stop_list": [{"lat": 50.01, "lon": 8.61, "start_ms": 1, "end_ms": 2}, {"lat": None, "lon": None}],
        "gap_list": [],
        "more": {},
    }


def test_a_trip_as_geojson_gpx_and_link() -> None:
    trip = a_trip()
    line, stop = export.geojson(trip)["features"]
    assert line["geometry"]["coordinates"] == [[8.6, 50.0], [8.61, 50.01], [8.6, 50.02]]
    assert stop["geometry"] == {"type": "Point", "coordinates": [8.61, 50.01]}
    recorded = {"t": [1767268800000], "lat": [50.0], "lon": [8.6]}
    for points, count in ((recorded, 1), ({"t": [], "lat": [], "lon": []}, 3)):
        found = ElementTree.fromstring(export.gpx(trip, points)).findall(".//{*}trkpt")
        assert len(found) == count
        assert found[0].get("lat") == "50"
    assert ElementTree.fromstring(export.gpx(trip, recorded)).findtext(".//{*}time") == "2026-01-01T12:00:00.000Z"
    linked = json.loads(unquote(export.map_link(trip).partition(",")[2]))
    assert linked["coordinates"][-1] == [8.6, 50.02]
    assert export.map_link({**trip, "track": ""}) == ""


def test_the_newest_samples_are_looked_for_backwards_in_growing_windows() -> None:
    asked: list[timedelta] = []
    newest = T0 + timedelta(days=100)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/latest"):
            value = {"metric": "speed_kmh", "kind": "number", "unit": "km/h", "ts": newest.isoformat(), "value": 3}
            return httpx.Response(200, json={"device": "van-7", "values": [value]})
        start, end = (datetime.fromisoformat(request.url.params[name]) for name in ("from", "to"))
        asked.append(end - start)
        times = [round((newest - timedelta(hours=n)).timestamp() * 1000) for n in range(9, -1, -1)]
        shown = [ts for ts in times if start.timestamp() * 1000 <= ts < end.timestamp() * 1000]
        column = {"name": "speed_kmh", "metric": "speed_kmh", "kind": "number", "unit": "km/h", "aggregate": None}
        document = {"from": start.isoformat(), "to": end.isoformat(), "step_ms": None, "source": "raw", "segments": []}
        document |= {"columns": [column], "data": {"ts": shown, "speed_kmh": shown}, "next": None}
        return httpx.Response(200, json=document)

    source = OverGateway(Client("http://gateway.test", "token", transport=httpx.MockTransport(answer)))
    found = source.series(Asked("van-7", ["speed_kmh"], None, None, 3))
    assert [at for at, _ in found.rows] == [newest - timedelta(hours=n) for n in (2, 1, 0)]
    assert asked == [timedelta(minutes=10), timedelta(hours=3)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["query", "van-1", "speed_kmh", "--step", "1m"], "need the gateway"),
        (["query", "van-1", "--plot"], "name a metric"),
        (["trips", "list", "--state", "flying"], "none of driving, paused, final, open"),
    ],
)
def test_what_cannot_be_asked_is_said(arguments: list[str], said: str, tmp_path: object) -> None:
    environment = {"OUTRIDER_DATABASE_URL": "", "OUTRIDER_REGISTRY_URL": "http://r.test", "OUTRIDER_TOKEN": "otr_x"}
    result = CliRunner(env=environment).invoke(app, [*arguments, "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
