"""Saved charts: one's own, and shared ones."""

from __future__ import annotations

from typing import Any

from outrider.testing.fixtures import Database
from outrider_registry.testing import Api

DEFINITION: dict[str, Any] = {
    "series": [{"device": "van-1", "metric": "speed_kmh", "color": "#ff8800", "axis": "right"}],
    "range": {"last_s": 3600},
    "aggregation": "max",
    "style": "area",
}


async def test_a_chart_is_saved_changed_shared_and_deleted(api: Api, database: Database) -> None:
    made = await api.viewer.post("charts", json={"name": "Speed", "definition": DEFINITION})
    assert made.status_code == 201, made.text
    chart = made.json()
    assert (chart["definition"], chart["shared"], chart["owner"], chart["mine"]) == (DEFINITION, False, "vera", True)
    path = f"charts/{chart['id']}"
    for someone in (api.operator, api.admin, api.other):
        assert (await someone.get(path)).status_code == 404, "not shared"
        assert (await someone.get("charts")).json()["items"] == []
    fixed = {**DEFINITION, "range": {"from": "2026-03-01T13:00:00+01:00", "to": "2026-03-02"}}
    shared = await api.viewer.put(
        path, json={"name": "Speed", "shared": True, "definition": fixed}, headers={"if-match": '"1"'}
    )
    assert shared.json()["definition"]["range"] == {
        "from": "2026-03-01T12:00:00.000Z",
        "to": "2026-03-02T00:00:00.000Z",
    }
    assert (shared.json()["version"], (await api.operator.get(path)).json()["mine"]) == (2, False)
    assert (await api.operator.put(path, json={"name": "x", "definition": DEFINITION})).status_code == 403
    assert (await api.operator.delete(path)).status_code == 403
    stale = await api.viewer.put(path, json={"name": "x", "definition": DEFINITION}, headers={"if-match": '"1"'})
    assert stale.status_code == 412
    assert (
        await api.admin.put(path, json={"name": "Pace", "shared": True, "definition": DEFINITION})
    ).status_code == 200
    assert (await api.other.get(path)).status_code == 404
    assert (await api.admin.delete(path)).status_code == 204
    assert (await api.viewer.get(path)).status_code == 404
    actions = database.rows("SELECT action FROM registry.audit WHERE action LIKE 'chart.%%' ORDER BY number")
    assert [action for (action,) in actions] == ["chart.create", "chart.change", "chart.change", "chart.delete"]


async def test_charts_are_listed_by_name(api: Api) -> None:
    for name in ("b", "A", "c\N{SOFT HYPHEN}", "C"):
        await api.viewer.post("charts", json={"name": name, "definition": DEFINITION})
    await api.operator.post("charts", json={"name": "d", "shared": True, "definition": DEFINITION})
    await api.operator.post("charts", json={"name": "hidden", "definition": DEFINITION})
    found: list[str] = []
    query: dict[str, Any] = {"limit": 1}
    while True:
        page = (await api.viewer.get("charts", params=query)).json()
        found += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert sorted(found) == sorted(["A", "b", "C", "c\N{SOFT HYPHEN}", "d"])
    assert found[:2] == ["A", "b"]


NO_CHARTS: list[dict[str, Any]] = [
    {"series": []},
    {"series": DEFINITION["series"] * 21},
    {"series": [{"device": "van-1", "metric": "a b"}]},
    {"series": [{"device": "van-1", "metric": "x", "color": "red;background:url(x)"}]},
    {"range": {}},
    {"range": {"last_s": 0}},
    {"range": {"last_s": 60, "from": "2026-03-01", "to": "2026-03-02"}},
    {"range": {"from": "2026-03-01"}},
    {"range": {"from": "0001-01-01T00:00:00+14:00", "to": "2026-03-02"}},
    {"aggregation": "median"},
    {"style": "pie"},
    {"script": "x"},
]


async def test_what_is_no_chart_is_refused(api: Api) -> None:
    for change in NO_CHARTS:
        answer = await api.viewer.post("charts", json={"name": "x", "definition": {**DEFINITION, **change}})
        assert answer.status_code == 422, (change, answer.text)
