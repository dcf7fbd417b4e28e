"""Latest values, trips in every format, figures over a fleet."""

from __future__ import annotations

import json
import secrets
import uuid
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from outrider.trips import polyline

from .conftest import Asker, moment

HOUR, MINUTE, DAY = 3_600_000, 60_000, 86_400_000
NOW = 1_760_000_000_000 // DAY * DAY
PLACES = [(50.1, 8.6), (50.12, 8.61), (50.15, 8.7)]


def add_trip(
    asker: Asker,
    device: str,
    start: int,
    minutes: int = 30,
    tenant: str = "acme",
    km: float = 12.0,
    micro: bool = False,
) -> str:
    id_ = str(uuid.uuid4())
    detail = {"track": polyline.encode(PLACES), "gaps": [{"start_ms": start}], "stops": [], "distance_gps_km": km}
    asker.database.rows(
        "INSERT INTO trips.vehicle (tenant, device, moves) VALUES (%s, %s, true) ON CONFLICT DO NOTHING", tenant, device
    )
    asker.database.rows(
        "INSERT INTO trips.trip (id, vehicle, tenant, device, state, micro, edited, start_at, end_at, start_lat, start_lon, "
        "distance_km, duration_s, moving_s, start_reason, confidence, evidence, detail) "
        "SELECT %s, id, tenant, device, 'final', %s, false, %s, %s, 50.1, 8.6, %s, %s, %s, 'speed', 0.9, 'speed', %s "
        "FROM trips.vehicle WHERE (tenant, device) = (%s, %s)",
        *(
            id_,
            micro,
            moment(start),
            moment(start + minutes * MINUTE),
            km,
            minutes * 60,
            minutes * 50,
            json.dumps(detail),
        ),
        *(tenant, device),
    )
    return id_


async def get(asker: Asker, path: str, **params: Any) -> Any:
    answer = await asker.acme.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_latest_of_one_and_of_many(asker: Asker) -> None:
    mark = secrets.token_hex(3)
    van, truck = (asker.device(f"{kind}-{mark}", tags=[f"tag-{mark}"], type_=kind) for kind in ("van", "truck"))
    asker.store(van, "speed_kmh", [(NOW, 1.0), (NOW + 5, 2.5)])
    asker.store(van, "on", [(NOW, 1)], "boolean")
    asker.store(van, "gear", [(NOW, "D")], "string")
    asker.store(van, "extra", [(NOW, '{"a": 1}')], "json")
    asker.store(truck, "speed_kmh", [(NOW + 9, 9.0)])
    asker.database.rows(
        "INSERT INTO registry.metric (tenant, name, unit) VALUES ('acme', 'speed_kmh', 'km/h') ON CONFLICT DO NOTHING"
    )
    one = await get(asker, f"devices/{van}/latest")
    assert {v["metric"]: v["value"] for v in one["values"]} == {
        "speed_kmh": 2.5,
        "on": True,
        "gear": "D",
        "extra": {"a": 1},
    }
    assert next(v for v in one["values"] if v["metric"] == "speed_kmh")["unit"] == "km/h"
    assert [v["metric"] for v in (await get(asker, f"devices/{van}/latest", metric="gear"))["values"]] == ["gear"]
    many = await get(asker, "latest", tag=f"tag-{mark}", metric="speed_kmh")
    assert [(d["device"], d["values"][0]["value"]) for d in many["devices"]] == [(truck, 9.0), (van, 2.5)]
    first = await get(asker, "latest", tag=f"tag-{mark}", limit=1)
    second = await get(asker, "latest", tag=f"tag-{mark}", limit=1, cursor=first["next"])
    assert [first["devices"][0]["device"], second["devices"][0]["device"], second["next"]] == [truck, van, None]
    assert [d["device"] for d in (await get(asker, "latest", tag=f"tag-{mark}", type="van"))["devices"]] == [van]
    unknown = await asker.acme.get(f"devices/{van}/latest", params={"metric": "speed"})
    assert (unknown.status_code, "near it are: speed_kmh" in unknown.json()["detail"]) == (400, True)


async def test_a_trip_has_the_extrema_of_every_metric_with_late_samples(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    start = NOW + 12 * HOUR + 17 * MINUTE
    samples = [
        (start - MINUTE, 999.0),
        *((start + n * 10_000, float(n)) for n in range(181)),
        (start + 31 * MINUTE, 999.0),
    ]
    asker.store(device, "speed_kmh", samples)
    asker.store(device, "on", [(start, 1), (start + 1000, 0)], "boolean")
    asker.roll_up(NOW + DAY)
    asker.store(device, "speed_kmh", [(start + 5, 500.0)])
    trip = add_trip(asker, device, start)
    document = await get(asker, f"trips/{trip}")
    assert document["metrics"]["speed_kmh"] == {
        "min": 0.0,
        "max": 500.0,
        "mean": pytest.approx((sum(range(181)) + 500) / 182),
        "first": 0.0,
        "last": 180.0,
        "count": 182,
    }
    assert document["metrics"]["on"]["min"] is False
    assert document["track"] == polyline.encode(PLACES)
    assert document["gaps"] == [{"start_ms": start}]
    assert document["more"] == {"distance_gps_km": 12.0}
    assert list((await get(asker, f"trips/{trip}", metric="on"))["metrics"]) == ["on"]


async def test_trips_are_listed_in_pages_and_by_what_is_asked(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    ids = [add_trip(asker, device, NOW + n * HOUR, micro=n == 2) for n in range(5)]
    listed = await get(asker, f"devices/{device}/trips")
    assert [trip["id"] for trip in listed["trips"]] == ids[::-1]
    assert listed["trips"][0]["start"] == {"lat": 50.1, "lon": 8.6}
    first = await get(asker, f"devices/{device}/trips", limit=2)
    add_trip(asker, device, NOW + 9 * HOUR)  # newer than the cursor
    second = await get(asker, f"devices/{device}/trips", limit=10, cursor=first["next"])
    assert [trip["id"] for trip in second["trips"]] == ids[2::-1]
    assert second["next"] is None
    over = {"from": NOW + HOUR + 29 * MINUTE, "to": NOW + 2 * HOUR + 1}
    assert [trip["id"] for trip in (await get(asker, "trips", device=device, **over))["trips"]] == [ids[2], ids[1]]
    assert [trip["id"] for trip in (await get(asker, "trips", device=device, micro="true"))["trips"]] == [ids[2]]
    assert (await get(asker, "trips", device=device, state="driving"))["trips"] == []


async def test_trips_as_geojson_and_gpx(asker: Asker) -> None:
    device = asker.device(f"van-{secrets.token_hex(3)}")
    trip = add_trip(asker, device, NOW)
    answer = await asker.acme.get(f"trips/{trip}", headers={"accept": "application/geo+json"})
    assert answer.headers["content-type"] == "application/geo+json"
    (feature,) = answer.json()["features"]
    assert feature["geometry"] == {"type": "LineString", "coordinates": [[lon, lat] for lat, lon in PLACES]}
    assert feature["properties"]["distance_km"] == 12.0
    collection = await get(asker, "trips", device=device, format="geojson")
    assert collection["features"] == [feature]
    space = {"g": "http://www.topografix.com/GPX/1/1"}
    simplified = ET.fromstring((await asker.acme.get(f"trips/{trip}", params={"format": "gpx"})).content)
    assert len(simplified.findall(".//g:trkpt", space)) == 3
    asker.database.rows("SELECT runtime.ensure_partitions('trips.position', ARRAY[%s]::date[])", moment(NOW).date())
    asker.database.rows(
        "INSERT INTO trips.position (vehicle, ts, lat, lon, alt_m) SELECT v.id, %s::timestamptz + n * interval '1 second', "
        "50 + n / 1e3, 8, 100 FROM trips.vehicle v, generate_series(0, 9) n WHERE device = %s",
        *(moment(NOW), device),
    )
    full = ET.fromstring((await asker.acme.get(f"trips/{trip}", params={"format": "gpx"})).content)
    points = full.findall(".//g:trkpt", space)
    assert len(points) == 10
    assert points[1].findtext("g:time", "", space) == moment(NOW + 1000).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    with_times = await get(asker, f"trips/{trip}", format="geojson", track="full")
    assert len(with_times["features"][0]["properties"]["coordTimes"]) == 10


async def test_a_fleet_per_step_and_per_device_equals_the_samples(asker: Asker) -> None:
    tag = f"tag-{secrets.token_hex(3)}"
    values: dict[str, list[float]] = {}
    for n in range(5):
        device = asker.device(f"van-{n}-{tag}", tags=[tag])
        rows = [(NOW + t * MINUTE, float((t * 7 + n * 31) % 53)) for t in range(0, 240, n + 1)]
        asker.store(device, "load_pct", rows)
        values[device] = [value for t, value in rows if t < NOW + 2 * HOUR]
    asker.roll_up(NOW + 3 * HOUR)
    params = {"metric": "load_pct", "tag": tag, "from": NOW, "to": NOW + 2 * HOUR}
    one = await get(asker, "fleet/telemetry", **params, step="2h", aggregate="mean,min,max,sum,count,devices,p50,p90")
    every = [value for of in values.values() for value in of]
    means = [sum(of) / len(of) for of in values.values()]
    assert one["devices"] == 5
    assert {name: column[0] for name, column in one["data"].items()} == pytest.approx(
        {
            "ts": NOW,
            "mean": sum(every) / len(every),
            "min": min(every),
            "max": max(every),
            "sum": sum(every),
            "count": len(every),
            "devices": 5,
            "p50": float(np.percentile(means, 50)),
            "p90": float(np.percentile(means, 90)),
        }
    )
    steps = await get(asker, "fleet/telemetry", **params | {"to": NOW + 4 * HOUR}, step="15m", aggregate="count")
    assert sum(steps["data"]["count"]) == 240 + 120 + 80 + 60 + 48  # also those that are not rolled up
    ranked = await get(asker, "fleet/telemetry", **params, by="device", aggregate="mean", top=2, order="asc")
    assert [row["mean"] for row in ranked["rows"]] == pytest.approx(sorted(means)[:2])
    arrow = await asker.acme.get("fleet/telemetry", params=params | {"step": "1h", "format": "arrow"})
    assert pa.ipc.open_stream(arrow.content).read_all()["mean"].to_pylist() == pytest.approx(
        (await get(asker, "fleet/telemetry", **params, step="1h"))["data"]["mean"]
    )
    for bad, words in (
        ({"metric": "load"}, "near it are: load_pct"),
        ({"aggregate": "first"}, "ask for it by device"),
        ({"aggregate": "p50", "by": "device"}, "by step"),
        ({"step": "1ms"}, "wider `step`"),
        ({"step": "x"}, "number and a unit"),
    ):
        answer = await asker.acme.get("fleet/telemetry", params=params | bad)
        assert (answer.status_code, words in answer.json()["detail"]) == (400, True), answer.text


async def test_trips_of_a_fleet_in_figures(asker: Asker) -> None:
    tag = f"tag-{secrets.token_hex(3)}"
    vans = [asker.device(f"van-{n}-{tag}", tags=[tag]) for n in range(2)]
    add_trip(asker, vans[0], NOW + 23 * HOUR, km=10)
    add_trip(asker, vans[0], NOW + DAY + HOUR, km=20)
    add_trip(asker, vans[1], NOW + 2 * HOUR, km=40)
    add_trip(asker, vans[1], NOW + 3 * HOUR, km=1000, micro=True)
    params = {"tag": tag, "from": NOW, "to": NOW + 3 * DAY}
    days = (await get(asker, "fleet/trips", **params))["rows"]
    assert [(row["trips"], row["devices"], row["distance_km"], row["duration_s"]) for row in days] == [
        (2, 2, 50, 3600),
        (1, 1, 20, 1800),
    ]
    assert days[0]["key"] == moment(NOW).date().isoformat()
    berlin = (await get(asker, "fleet/trips", **params, timezone="Europe/Berlin"))["rows"]
    assert [(row["trips"], row["distance_km"]) for row in berlin] == [(1, 40), (2, 30)]
    top = (await get(asker, "fleet/trips", **params, by="device", order="distance_km", top=1))["rows"]
    assert [(row["key"], row["distance_km"]) for row in top] == [(vans[1], 40)]
    assert (await get(asker, "fleet/trips", **params, by="all"))["rows"][0]["trips"] == 3
    for bad, words in (({"timezone": "Mars"}, "no time zone"), ({"order": "speed"}, "no figure")):
        answer = await asker.acme.get("fleet/trips", params=params | bad)
        assert (answer.status_code, words in answer.json()["detail"]) == (400, True)
