"""Importing and adopting devices."""

from __future__ import annotations

import time
from typing import Any

from outrider.access.keys import matches
from outrider.access.secrets import device_secret
from outrider.testing.fixtures import Database
from outrider_registry.testing import KEYS, Api, Client


async def imported(client: Client, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    answer = await client.post("devices/import", json={"rows": rows, **options})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    assert [result["row"] for result in results] == list(range(len(rows)))
    return results


def results_of(results: list[dict[str, Any]]) -> list[str]:
    return [result["result"] for result in results]


async def test_each_row_succeeds_or_fails_on_its_own(api: Api, database: Database) -> None:
    await api.other.post("devices", json={"id": "theirs"})
    await api.admin.post("devices", json={"id": "pi-1"})
    results = await imported(
        api.operator,
        [
            {
                "id": "van-1",
                "name": "Van",
                "tags": "red, blue;red",
                "latitude": "52.5",
                "longitude": "13.4",
                "serial": "",
            },
            {"id": "Van"},
            {"id": "theirs"},
            {"id": "van-1"},
            {"id": "sensor-1", "gateway": "pi-1"},
            {"id": "sensor-2", "gateway": "theirs"},
            {"id": "sensor-3", "gateway": "sensor-1"},
            {"id": "half", "latitude": 1},
            {"id": "sensor-4", "gateway": "pi-2"},
            {"id": "pi-2"},
            {"colour": "red"},
        ],
    )
    assert results_of(results) == [
        "created", "failed", "failed", "failed", "created", "failed", "failed", "failed", "created", "created", "failed",
    ]  # fmt: skip
    errors = [result.get("error", "") for result in results]
    assert "taken" in errors[2]
    assert errors[3] == "Row 0 has the same id."
    assert "Gateways do not chain" in errors[6]
    assert "id: Field required" in errors[10]
    stored = database.rows("SELECT tags, latitude, serial FROM registry.device WHERE id = 'van-1'")
    assert stored == [(["blue", "red"], 52.5, None)]
    assert database.value("SELECT gateway FROM registry.device WHERE id = 'sensor-4'") == "pi-2"
    assert database.value("SELECT count(*) FROM registry.audit WHERE action = 'device.import'") == 1
    # Sent again, it changes nothing more and says so.
    again = await imported(api.operator, [{"id": "van-1", "name": "Another"}])
    assert results_of(again) == ["unchanged"]
    assert database.value("SELECT count(*) FROM registry.audit WHERE action = 'device.import'") == 1


async def test_a_child_fails_with_its_gateway(api: Api) -> None:
    await api.other.post("devices", json={"id": "pi-1"})
    results = await imported(api.admin, [{"id": "pi-1"}, {"id": "sensor-1", "gateway": "pi-1"}])
    assert results_of(results) == ["failed", "failed"]
    assert results[1]["error"] == "Its gateway pi-1 failed."


async def test_existing_devices_are_skipped_changed_or_refused(api: Api, database: Database) -> None:
    await imported(api.admin, [{"id": "van-1", "name": "Old", "type": "van"}, {"id": "van-2"}])
    rows = [{"id": "van-1", "name": "New"}, {"id": "van-2"}]
    assert results_of(await imported(api.admin, rows, on_existing="fail")) == ["failed", "failed"]
    assert results_of(await imported(api.admin, rows, on_existing="update", dry_run=True)) == ["updated", "unchanged"]
    assert database.value("SELECT name FROM registry.device WHERE id = 'van-1'") == "Old"
    assert results_of(await imported(api.admin, rows, on_existing="update")) == ["updated", "unchanged"]
    assert database.rows("SELECT name, type, version FROM registry.device ORDER BY id") == [
        ("New", "van", 2),
        ("", "", 1),
    ]


async def test_secrets_are_issued_once(api: Api, database: Database) -> None:
    rows: list[dict[str, Any]] = [{"id": "pi-1"}, {"id": "sensor-1", "gateway": "pi-1"}, {"id": "BAD"}]
    first = await imported(api.operator, rows, credentials=True)
    assert first[0]["secret"] == device_secret(KEYS, "pi-1", 1)
    assert (first[0]["generation"], first[0]["key_id"]) == (1, "k1")
    assert ["secret" in result for result in first] == [True, False, False], "a child needs none"
    again = await imported(api.operator, rows, credentials=True)
    assert again[0] == {"row": 0, "id": "pi-1", "result": "unchanged", "generation": 1, "key_id": "k1"}
    [(verifier, days)] = database.rows(
        "SELECT verifier, extract(day FROM rotates_at - issued_at)::int FROM registry.credential WHERE state = 'active'"
    )
    assert matches(first[0]["secret"], verifier)
    assert days == 90
    assert first[0]["secret"] not in str(database.rows("SELECT detail FROM registry.audit"))
    token = await api.with_token("acme", "ada", "admin", "devices:write")
    refused = await token.post("devices/import", json={"rows": [{"id": "x"}], "credentials": True})
    assert refused.status_code == 403, "issuing secrets needs its own scope"


async def test_a_dry_run_leaves_nothing(api: Api, database: Database) -> None:
    results = await imported(api.admin, [{"id": "van-1"}], dry_run=True, credentials=True)
    assert results == [{"row": 0, "id": "van-1", "result": "created"}]
    for table in ("device", "credential", "shadow", "audit"):
        assert database.value(f"SELECT count(*) FROM registry.{table} WHERE tenant = 'acme'") == 0, table


async def test_devices_that_the_ledger_knows_are_adopted(api: Api, database: Database) -> None:
    await api.other.post("devices", json={"id": "theirs"})
    await api.admin.post("devices", json={"id": "known"})
    database.rows(
        "INSERT INTO telemetry.seen (device, tenant, seen_at) "
        "SELECT d, 'acme', now() FROM unnest(ARRAY['heard', 'theirs', 'known']) d"
    )
    database.rows("INSERT INTO telemetry.seen (device, tenant, seen_at) VALUES ('foreign', 'other', now())")
    database.rows(
        "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES ('acme', 'measured', 'x', 'number'), "
        "('acme', 'measured', 'y', 'number'), ('acme', 'heard', 'x', 'number'), ('acme', 'No Name', 'x', 'number')"
    )
    dry = await api.admin.post("devices/adopt", json={"dry_run": True})
    assert [device["id"] for device in dry.json()["adopted"]] == ["heard", "measured"]
    answer = await api.admin.post("devices/adopt", json={"credentials": True})
    assert answer.json()["adopted"] == [
        {"id": device, "secret": device_secret(KEYS, device, 1), "generation": 1, "key_id": "k1"}
        for device in ("heard", "measured")
    ]
    assert (await api.admin.post("devices/adopt")).json() == {"adopted": []}
    assert database.rows("SELECT id, tenant FROM registry.device ORDER BY id") == [
        ("heard", "acme"), ("known", "acme"), ("measured", "acme"), ("theirs", "other"),
    ]  # fmt: skip


async def test_ten_thousand_devices_are_imported_and_listed_in_seconds(api: Api, database: Database) -> None:
    started = time.monotonic()
    for start in range(0, 10_000, 1000):
        rows = [
            {"id": f"van-{n:05}", "name": f"Van {n}", "type": "van", "tier": "pi", "tags": ["fleet", f"g{n % 50}"]}
            for n in range(start, start + 1000)
        ]
        assert set(results_of(await imported(api.admin, rows, credentials=True))) == {"created"}
    import_s = time.monotonic() - started
    assert database.value("SELECT count(*) FROM registry.credential") == 10_000
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state) SELECT id, tenant, 'online' FROM registry.device"
    )
    database.rows("INSERT INTO telemetry.seen (device, tenant, seen_at) SELECT id, tenant, now() FROM registry.device")
    database.rows("ANALYZE")
    print(f"\nimport of 10,000 devices with credentials: {import_s:.2f} s")
    for query in (
        {},
        {"sort": "name"},
        {"sort": "-seen_at"},
        {"q": "van 77"},
        {"tag": "g7"},
        {"sparkline": "speed_kmh"},
    ):
        took = []
        for _ in range(15):
            started = time.perf_counter()
            answer = await api.viewer.get("devices", params={"limit": 100, **query})
            took.append(time.perf_counter() - started)
            assert len(answer.json()["items"]) == 100
        median = sorted(took)[7]
        print(f"GET /devices?limit=100 {query}: p50 {median * 1000:.1f} ms")
        assert median < 1, "the first page comes within a second"
    assert import_s < 60
