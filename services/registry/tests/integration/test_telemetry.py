"""What the ledger holds, read through the API: last values, series, tracks, the map, logs, events, gaps, the catalogue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outrider.testing.fixtures import Database
from outrider_registry.api import data
from outrider_registry.testing import Api

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
MS = 1_772_366_400_000


def put(
    database: Database, tenant: str, device: str, metric: str, values: list[Any], every_s: int = 1, at: datetime = T0
) -> None:
    """Samples of one series from `at` on."""
    kind = {bool: "boolean", str: "string"}.get(type(values[0]), "number")
    table = "telemetry.sample_text" if kind == "string" else "telemetry.sample"
    [(series,)] = database.rows(
        "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES (%s, %s, %s, %s) RETURNING id",
        tenant, device, metric, kind,
    )  # fmt: skip
    times = [at + timedelta(seconds=every_s * n) for n in range(len(values))]
    database.rows("SELECT runtime.ensure_partitions(%s, %s::date[])", table, sorted({t.date() for t in times}))
    cast = "text" if kind == "string" else "float8"
    stored = values if kind == "string" else [float(value) for value in values]
    database.rows(
        f"INSERT INTO {table} SELECT %s, * FROM unnest(%s::timestamptz[], %s::{cast}[])", series, times, stored
    )


@pytest.fixture
async def fleet(api: Api, database: Database) -> Database:
    for device in ("van-1", "van-2"):
        await api.admin.post("devices", json={"id": device})
    await api.admin.post("devices", json={"id": "mast-1", "latitude": 1, "longitude": 2, "name": "Mast"})
    await api.other.post("devices", json={"id": "theirs"})
    put(database, "acme", "van-1", "speed_kmh", [float(n) for n in range(100)])
    put(database, "acme", "van-1", "lat", [50 + n / 1000 for n in range(100)])
    put(database, "acme", "van-1", "lon", [8 + n / 1000 for n in range(100)])
    put(database, "acme", "van-1", "heading_deg", [90.0] * 100)
    put(database, "acme", "van-1", "ignition", [False] * 50 + [True] * 50)
    put(database, "acme", "van-1", "gear", ["N"] * 10 + ["D"] * 80 + ["R"] * 10)
    put(database, "other", "theirs", "speed_kmh", [1.0])
    put(database, "other", "theirs", "lat", [3.0])
    put(database, "other", "theirs", "lon", [4.0])
    return database


async def series_of(api: Api, *names: str, **query: Any) -> dict[str, Any]:
    asked = {"series": list(names), "from": "2026-03-01T12:00:00Z", "to": "2026-03-01T12:01:40Z", **query}
    answer = await api.viewer.get("data", params=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_series_come_in_buckets_with_their_envelope(api: Api, fleet: Database) -> None:
    await api.admin.put("metrics/speed_kmh", json={"unit": "km/h", "description": "Over ground"})
    answer = await series_of(
        api, "van-1:speed_kmh", "van-1:ignition", "van-1:gear", "van-1:none", "theirs:speed_kmh", points=11
    )
    assert (answer["from"], answer["to"], answer["step_ms"]) == (
        "2026-03-01T12:00:00.000Z",
        "2026-03-01T12:01:40.000Z",
        10_000,
    )
    speed, ignition, gear, none, theirs = answer["series"]
    assert (speed["device"], speed["metric"], speed["kind"], speed["unit"]) == ("van-1", "speed_kmh", "number", "km/h")
    assert speed["t"] == [MS + 10_000 * n for n in range(10)]
    assert speed["v"] == [10 * n + 4.5 for n in range(10)]
    assert (speed["min"][1], speed["max"][1]) == (10, 19)
    assert ignition["v"] == [0] * 5 + [1] * 5
    assert list(zip(gear["t"], gear["v"], strict=True)) == [(MS, "N"), (MS + 10_000, "D"), (MS + 90_000, "R")]
    for empty in (none, theirs):
        assert (empty["kind"], empty["t"]) == (None, [])
    for aggregation, second in (("min", 10), ("max", 19), ("sum", 145), ("count", 10), ("last", 19)):
        found = await series_of(api, "van-1:speed_kmh", points=11, aggregation=aggregation)
        assert found["series"][0]["v"][1] == second, aggregation
    fine = await series_of(api, "van-1:speed_kmh", points=2000)
    assert fine["series"][0]["v"] == [float(n) for n in range(100)]
    short = await series_of(api, "van-1:gear", points=2)
    assert (len(short["series"][0]["t"]), short["series"][0]["truncated"]) == (2, True)


IMPOSSIBLE: list[dict[str, Any]] = [
    {"series": "van-1"},
    {"series": "van-1:a b"},
    {"series": [f"d-{n}:x" for n in range(21)]},
    {},
    {"series": "van-1:x", "points": 2001},
    {"series": "van-1:x", "aggregation": "median"},
    {"series": "van-1:x", "from": "2026-03-02T00:00Z", "to": "2026-03-01T00:00Z"},
    {"series": "van-1:x", "from": "2006-03-02T00:00Z", "to": "2026-03-01T00:00Z"},
    {"series": "van-1:x", "to": "0001-01-01T00:00Z"},
    {"series": "van-1:x", "from": "yesterday"},
]


async def test_impossible_ranges_are_refused(api: Api) -> None:
    for query in IMPOSSIBLE:
        answer = await api.viewer.get("data", params=query)
        assert answer.status_code == 422, (query, answer.text)


async def test_a_range_that_takes_too_long_asks_for_a_shorter_one(
    api: Api, fleet: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fleet, "acme", "van-2", "rpm", [1.0] * 200_000)
    monkeypatch.setattr(data, "BUDGET_S", 0.005)
    answer = await api.viewer.get("data", params={"series": "van-2:rpm", "from": "2026-03-01", "to": "2026-03-05"})
    assert (answer.status_code, "shorter range" in answer.json()["detail"]) == (422, True)


async def test_last_values_tracks_and_the_map(api: Api, fleet: Database) -> None:
    latest = {row["metric"]: row for row in (await api.viewer.get("devices/van-1/latest")).json()}
    assert latest["speed_kmh"] == {
        "metric": "speed_kmh", "kind": "number", "value": 99, "ts": "2026-03-01T12:01:39.000Z", "unit": "",
    }  # fmt: skip
    assert (latest["ignition"]["value"], latest["gear"]["value"]) == (True, "R")

    span = {"from": "2026-03-01T12:00:00Z", "to": "2026-03-01T12:01:40Z"}
    track = (await api.viewer.get("devices/van-1/track", params={**span, "points": 11})).json()
    assert track["t"] == [MS + 10_000 * n for n in range(10)]
    assert (track["lat"][1], track["lon"][1], track["speed_kmh"][1]) == (50.01, 8.01, 10)
    assert (await api.viewer.get("devices/van-2/track", params=span)).json() == {
        "t": [],
        "lat": [],
        "lon": [],
        "speed_kmh": [],
    }

    assert (await api.viewer.get("map")).json()["devices"] == [
        ["mast-1", 1, 2, "unknown", None, None, "Mast"],
        ["van-1", 50.099, 8.099, "unknown", 90, MS + 99_000, ""],
    ]
    for path in ("latest", "track", "logs", "events"):
        foreign = await api.viewer.get(f"devices/theirs/{path}")
        assert foreign.status_code == 404, path


async def test_reading_positions_is_in_the_audit_once_an_hour(api: Api, fleet: Database) -> None:
    for _ in range(2):
        await api.viewer.get("map")
        await api.viewer.get("devices/van-1/track", params={"from": "2026-03-01T12:00Z", "to": "2026-03-01T13:00Z"})
        await api.viewer.get("data", params={"series": "van-1:lat"})
        await api.viewer.get("devices/van-1/latest")
        await api.viewer.get("data", params={"series": "van-1:speed_kmh"})
        await api.viewer.get("devices/van-2/latest")
    reads = "SELECT actor, object FROM registry.audit WHERE action = 'position.read' ORDER BY number"
    assert fleet.rows(reads) == [("user:vera", "tenant:acme"), ("user:vera", "device:van-1")]
    await api.operator.get("map")
    assert fleet.rows(reads)[2:] == [("user:otto", "tenant:acme")]


async def test_sparklines_show_the_last_hour(api: Api, fleet: Database) -> None:
    put(fleet, "acme", "van-2", "soc_pct", [float(n) for n in range(120)], 30, datetime.now(UTC) - timedelta(hours=1))
    items = (await api.viewer.get("devices", params={"sparkline": "soc_pct"})).json()["items"]
    lines = {item["id"]: item["sparkline"] for item in items}
    assert (lines["van-1"], len(lines["van-2"])) == (None, 30)
    values = [value for value in lines["van-2"] if value is not None]
    assert values == sorted(values)
    assert len(values) >= 29


async def test_metrics_are_described(api: Api, fleet: Database) -> None:
    made = await api.operator.put("metrics/load_kg", json={"unit": "kg"})
    assert made.json() == {
        "name": "load_kg", "kind": "number", "unit": "kg", "description": "", "seen": False, "version": 1,
    }  # fmt: skip
    stale = await api.operator.put("metrics/load_kg", json={"unit": "t"}, headers={"if-match": '"7"'})
    assert stale.status_code == 412
    again = await api.operator.put("metrics/load_kg", json={"unit": "t"}, headers={"if-match": '"1"'})
    assert again.json()["version"] == 2
    names = {row["name"]: row for row in (await api.viewer.get("metrics")).json()}
    assert names.keys() == {"gear", "heading_deg", "ignition", "lat", "load_kg", "lon", "speed_kmh"}
    assert (names["gear"]["kind"], names["gear"]["seen"], names["gear"]["version"]) == ("string", True, 0)
    assert [row["name"] for row in (await api.other.get("metrics")).json()] == ["lat", "lon", "speed_kmh"]
    assert (await api.viewer.put("metrics/load_kg", json={})).status_code == 403


async def test_logs_and_events_come_newest_first(api: Api, fleet: Database) -> None:
    fleet.rows("SELECT runtime.ensure_partitions('logs.line', ARRAY['2026-03-01'::date])")
    fleet.rows("SELECT runtime.ensure_partitions('telemetry.event', ARRAY['2026-03-01'::date])")
    fleet.rows(
        "INSERT INTO logs.line SELECT 'acme', 'van-1', %s::timestamptz + n / 2 * interval '1 s', "
        "CASE WHEN n %% 5 = 0 THEN 'error' ELSE 'info' END, 'line ' || n, '{}', 1, n, 0, now() FROM generate_series(1, 25) n",
        T0,
    )
    fleet.rows("INSERT INTO logs.line VALUES ('other', 'theirs', %s, 'info', 'secret', '{}', 1, 1, 0, now())", T0)
    fleet.rows(
        "INSERT INTO telemetry.event VALUES ('acme', 'van-1', %s, 'door', 'opened', '{\"by\": 1}', NULL, NULL, 0, now())",
        T0,
    )
    found: list[str] = []
    query: dict[str, Any] = {"limit": 7}
    while True:
        page = (await api.viewer.get("devices/van-1/logs", params=query)).json()
        found += [item["message"] for item in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert found == [f"line {n}" for n in range(25, 0, -1)], (
        "two lines of one moment are on neither page twice, nor lost"
    )
    errors = (await api.viewer.get("devices/van-1/logs", params={"level": "error", "q": "LINE 2"})).json()["items"]
    assert [item["message"] for item in errors] == ["line 25", "line 20"]
    older = await api.viewer.get("devices/van-1/logs", params={"before": "2026-03-01T12:00:01Z"})
    assert [item["message"] for item in older.json()["items"]] == ["line 1"]
    [event] = (await api.viewer.get("devices/van-1/events")).json()["items"]
    assert (event["type"], event["message"], event["fields"], event["ts"]) == (
        "door", "opened", {"by": 1}, "2026-03-01T12:00:00.000Z",
    )  # fmt: skip
    fleet.rows("DROP VIEW logs.tenant_line")
    gone = await api.viewer.get("devices/van-1/logs")
    assert (gone.status_code, "writer-logs" in gone.json()["detail"]) == (404, True)


async def test_gaps_are_listed(api: Api, fleet: Database) -> None:
    def stored(
        tenant: str, device: str, boot: int, numbers: str, schema: str = "telemetry", stream: str = "telemetry"
    ) -> None:
        fleet.rows(
            f"INSERT INTO {schema}.sequence (tenant, device, stream, boot, stored, first_at, last_at, mark_at) "
            "VALUES (%s, %s, %s, %s, %s::int8multirange, now(), now(), now())",
            tenant, device, stream, boot, numbers,
        )  # fmt: skip

    stored("acme", "van-1", 1, "{[1,5)}")
    stored("acme", "van-1", 2, "{[1,5),[8,9),[11,21)}")
    stored("acme", "van-2", 1, "{[3,5)}", "logs", "log")
    stored("other", "theirs", 1, "{[3,5)}")
    gapped = (await api.viewer.get("sequences", params={"gaps": "true"})).json()["items"]
    assert [
        (s["device"], s["stream"], s["boot"], s["contiguous"], s["last"], s["gaps"], s["missing"]) for s in gapped
    ] == [
        ("van-1", "telemetry", 2, 4, 20, [[5, 7], [9, 10]], 5),
        ("van-2", "log", 1, 0, 4, [[1, 2]], 2),
    ]
    first = (await api.viewer.get("sequences", params={"limit": 1})).json()
    rest = (await api.viewer.get("sequences", params={"cursor": first["next"]})).json()["items"]
    assert [(s["device"], s["boot"]) for s in first["items"] + rest] == [("van-1", 2), ("van-1", 1), ("van-2", 1)]
    assert len((await api.viewer.get("sequences", params={"device": "van-1"})).json()["items"]) == 2
    assert (await api.viewer.get("overview")).json()["gaps"] == 2


async def test_without_the_writers_everything_is_empty(api: Api, fleet: Database) -> None:
    fleet.rows(
        "DROP VIEW telemetry.tenant_series, telemetry.tenant_latest, telemetry.tenant_event, telemetry.tenant_sequence"
    )
    fleet.rows("DROP VIEW logs.tenant_line, logs.tenant_sequence")
    assert (await api.viewer.get("devices/van-1/latest")).json() == []
    assert (await api.viewer.get("data", params={"series": "van-1:x"})).json()["series"][0]["t"] == []
    assert (await api.viewer.get("devices/van-1/track")).json()["t"] == []
    assert [row[0] for row in (await api.viewer.get("map")).json()["devices"]] == ["mast-1"]
    assert (await api.viewer.get("metrics")).json() == []
    assert (await api.viewer.get("sequences")).json()["items"] == []
    assert (await api.viewer.get("devices", params={"sparkline": "x"})).json()["items"][0]["sparkline"] is None
    assert (await api.viewer.get("devices/van-1/events")).status_code == 404
    assert (await api.viewer.get("overview")).json()["gaps"] == 0
    assert (await api.admin.post("devices/adopt")).json() == {"adopted": []}
