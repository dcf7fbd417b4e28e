"""Trips through the API: which are listed, what is shown of one, what operators change, and the rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from outrider.testing.fixtures import Database
from outrider_registry.testing import Api

T0 = datetime(2026, 3, 1, 8, tzinfo=UTC)
STOP = {"start_ms": 1, "end_ms": 2, "lat": 50.0, "lon": 8.0, "engine": False, "silent": False}


def put(
    database: Database, tenant: str, device: str, hours: list[int], *, state: str = "final", micro: bool = False
) -> None:
    """Trips of ten minutes that begin so many hours after T0."""
    vehicle = database.value(
        "INSERT INTO trips.vehicle (tenant, device, moves, first_at, last_at) VALUES (%s, %s, true, %s, %s) "
        "ON CONFLICT (tenant, device) DO UPDATE SET moves = true RETURNING id",
        *(tenant, device, T0, T0 + timedelta(days=1)),
    )
    for hour in hours:
        start = T0 + timedelta(hours=hour)
        detail = {
            "distance_km": 7.5,
            "track": "_p~iF~ps|U",
            "stops": [STOP],
            "gaps": [],
            "start_lat": 50.0,
            "start_lon": 8.0,
        }
        database.rows(
            "INSERT INTO trips.trip (id, vehicle, tenant, device, state, micro, edited, start_at, end_at, duration_s, "
            "start_reason, confidence, evidence, detail) "
            "VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, false, %s, %s, 600, 'moved', 1, 'speed', %s)",
            *(vehicle, tenant, device, state, micro, start, start + timedelta(minutes=10), Jsonb(detail)),
        )


@pytest.fixture
async def fleet(api: Api, database: Database) -> Database:
    for device in ("van-1", "van-2"):
        await api.admin.post("devices", json={"id": device})
    put(database, "acme", "van-1", [0, 2, 4])
    put(database, "acme", "van-1", [5], micro=True)
    put(database, "acme", "van-2", [1])
    put(database, "acme", "van-2", [6], state="paused", micro=True)
    put(database, "other", "theirs", [3])
    return database


async def listed(api: Api, **query: Any) -> list[tuple[str, int]]:
    """(device, hours after T0) of each."""
    answer = await api.viewer.get("trips", params=query)
    assert answer.status_code == 200, answer.text
    found = [(one["device"], datetime.fromisoformat(one["start_at"]) - T0) for one in answer.json()["items"]]
    return [(device, round(after / timedelta(hours=1))) for device, after in found]


async def test_trips_are_listed_newest_first_as_asked(api: Api, fleet: Database) -> None:
    assert await listed(api) == [("van-2", 6), ("van-1", 5), ("van-1", 4), ("van-1", 2), ("van-2", 1), ("van-1", 0)]
    # one that is not final may still become long enough
    assert await listed(api, micro=False) == [("van-2", 6), ("van-1", 4), ("van-1", 2), ("van-2", 1), ("van-1", 0)]
    assert await listed(api, micro=True) == [("van-1", 5)]
    assert await listed(api, state=["driving", "paused"]) == [("van-2", 6)]
    overlapping = {"from": (T0 + timedelta(minutes=5)).isoformat(), "to": (T0 + timedelta(hours=2)).isoformat()}
    assert await listed(api, **overlapping) == [("van-2", 1), ("van-1", 0)]
    assert (await api.viewer.get("overview")).json()["open_trips"] == 1

    asked: dict[str, Any] = {"limit": 2, "device": "van-1"}
    pages = []
    while True:
        page = (await api.viewer.get("trips", params=asked)).json()
        pages.append([one["start_at"][11:13] for one in page["items"]])
        if page["next"] is None:
            break
        asked["cursor"] = page["next"]
    assert pages == [["13", "12"], ["10", "08"]]
    assert (await api.viewer.get("trips", params={"cursor": "WzEsIDJd"})).status_code == 422


async def test_a_trip_is_shown_whole_and_reading_it_is_in_the_audit(api: Api, fleet: Database) -> None:
    [one, *_] = (await api.viewer.get("trips", params={"device": "van-2"})).json()["items"]
    assert (one["distance_km"], one["stops"], one["start"]) == (7.5, 1, {"lat": 50.0, "lon": 8.0})
    shown = (await api.viewer.get(f"trips/{one['id']}")).json()
    assert (shown["track"], shown["stop_list"], shown["gap_list"]) == ("_p~iF~ps|U", [STOP], [])
    audit = (await api.admin.get("audit", params={"object": "device:van-2", "action": "position.read"})).json()["items"]
    assert [line["actor"] for line in audit] == [f"user:{api.viewer.name}"]


async def test_operators_merge_split_and_take_back(api: Api, fleet: Database) -> None:
    found = (await api.viewer.get("trips", params={"device": "van-1", "micro": False})).json()["items"]
    ids = [one["id"] for one in found]
    assert (await api.viewer.post("trips/merge", json={"ids": ids[:2]})).status_code == 403
    other = (await api.viewer.get("trips", params={"device": "van-2"})).json()["items"][0]["id"]
    assert (await api.operator.post("trips/merge", json={"ids": [ids[0], other]})).status_code == 422
    merged = await api.operator.post("trips/merge", json={"ids": ids[:2]})
    assert (merged.status_code, merged.json()["kind"]) == (202, "merge"), merged.text
    outside = await api.operator.post(f"trips/{ids[2]}/split", json={"at": found[2]["end_at"]})
    assert outside.status_code == 422
    split = await api.operator.post(f"trips/{ids[2]}/split", json={"at": (T0 + timedelta(minutes=4)).isoformat()})
    assert split.status_code == 202, split.text
    assert (await api.operator.delete(f"trip-edits/{merged.json()['id']}")).status_code == 204
    assert (await api.operator.delete(f"trip-edits/{merged.json()['id']}")).status_code == 409
    edits = (await api.viewer.get("trip-edits", params={"device": "van-1"})).json()["items"]
    assert [(one["kind"], one["undone_by"]) for one in edits] == [
        ("split", None),
        ("merge", f"user:{api.operator.name}"),
    ]
    audit = (await api.admin.get("audit", params={"object": "device:van-1", "action": "trip."})).json()["items"]
    assert [line["action"] for line in audit] == ["trip.undo_merge", "trip.split", "trip.merge"]


async def test_rules_are_checked_kept_and_forgotten(api: Api, fleet: Database) -> None:
    assert (await api.viewer.put("trip-rules/*", json={"rules": {"off_resume_s": 30}})).status_code == 403
    wrong = await api.operator.put("trip-rules/truck", json={"rules": {"idle_timeout": 30}})
    assert (wrong.status_code, "no trip rule 'idle_timeout'" in wrong.json()["detail"]) == (422, True)
    for type_ in ("*", "truck"):
        assert (await api.operator.put(f"trip-rules/{type_}", json={"rules": {"off_resume_s": 30}})).status_code == 200
    found = (await api.viewer.get("trip-rules")).json()
    assert [(one["type"], one["rules"]) for one in found["items"]] == [
        (t, {"off_resume_s": 30}) for t in ("*", "truck")
    ]
    assert found["defaults"]["off_resume_s"] == 60
    assert (await api.operator.delete("trip-rules/truck")).status_code == 204
    assert (await api.operator.delete("trip-rules/truck")).status_code == 404
    again = {"device": "van-1", "from": T0.isoformat(), "to": (T0 + timedelta(hours=1)).isoformat()}
    assert (await api.operator.post("trips/again", json=again)).status_code == 202
    assert (await api.operator.post("trips/again", json=again | {"to": again["from"]})).status_code == 422
