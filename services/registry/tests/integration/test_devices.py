"""Devices: registering, changing, finding them; and nobody else's."""

from __future__ import annotations

from typing import Any

from outrider.testing.fixtures import Database
from outrider_registry.testing import Api, Client


async def register(client: Client, *ids: str, **fields: Any) -> None:
    for device in ids:
        answer = await client.post("devices", json={"id": device, **fields})
        assert answer.status_code == 201, answer.text


async def listed(client: Client, **query: Any) -> list[str]:
    answer = await client.get("devices", params=query)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def audit(database: Database, action: str) -> list[tuple[str, Any]]:
    return [
        (str(object_), detail)
        for object_, detail in database.rows(
            "SELECT object, detail FROM registry.audit WHERE action = %s ORDER BY number", action
        )
    ]


async def test_a_device_is_registered_changed_and_removed(api: Api, database: Database) -> None:
    made = await api.operator.post(
        "devices",
        json={"id": "van-7", "name": "Van 7", "type": "van", "tags": ["red", "blue", "red"], "serial": "SN-1"},
    )
    assert made.status_code == 201, made.text
    assert (made.headers["etag"], made.headers["location"]) == ('"1"', "/api/v1/devices/van-7")
    assert made.json()["tags"] == ["blue", "red"]
    assert made.json()["presence"]["state"] == "unknown"
    assert database.value("SELECT tenant FROM registry.device WHERE id = 'van-7'") == "acme"

    changed = await api.operator.patch(
        "devices/van-7", json={"name": "Van seven", "tags": []}, headers={"if-match": '"1"'}
    )
    assert (changed.status_code, changed.headers["etag"], changed.json()["type"]) == (200, '"2"', "van")
    stale = await api.operator.patch("devices/van-7", json={"name": "x"}, headers={"if-match": '"1"'})
    assert (stale.status_code, stale.json()["current_version"]) == (412, 2)
    same = await api.operator.patch("devices/van-7", json={"name": "Van seven"}, headers={"if-match": '"2"'})
    assert same.headers["etag"] == '"2"', "nothing changed"

    database.rows("INSERT INTO registry.presence_event (tenant, device, state) VALUES ('acme', 'van-7', 'online')")
    assert (await api.operator.delete("devices/van-7")).status_code == 204
    assert (await api.operator.get("devices/van-7")).status_code == 404
    assert database.value("SELECT count(*) FROM registry.presence_event") == 0
    assert audit(database, "device.change") == [
        ("device:van-7", {"changes": {"name": ["Van 7", "Van seven"], "tags": [["blue", "red"], []]}})
    ]
    assert audit(database, "device.delete")[0][1]["serial"] == "SN-1"


async def test_a_change_of_tags_changes_the_desired_state(api: Api) -> None:
    made = await api.admin.post(
        "configurations",
        json={"name": "slow", "applies_to": "tag", "selector": "parked", "state": {"interval_s": 600}},
    )
    assert made.status_code == 201, made.text
    await register(api.admin, "van-7")
    assert (await api.admin.get("devices/van-7/shadow")).json()["desired"] == {}
    await api.admin.patch("devices/van-7", json={"tags": ["parked"]})
    assert (await api.admin.get("devices/van-7/shadow")).json()["desired"] == {"interval_s": 600}


async def test_disabling_and_enabling_keeps_everything(api: Api, database: Database) -> None:
    await register(api.admin, "van-7", name="Van")
    off = await api.operator.post("devices/van-7/disable")
    assert (off.json()["status"], off.json()["version"]) == ("disabled", 2)
    assert (await api.operator.post("devices/van-7/disable")).json()["version"] == 2, "again changes nothing"
    assert not database.value("SELECT enabled FROM registry.directory WHERE device = 'van-7'")
    on = await api.operator.post("devices/van-7/enable")
    assert (on.json()["status"], on.json()["name"]) == ("active", "Van")
    database.rows("UPDATE registry.device SET status = 'pending'")
    assert (await api.operator.post("devices/van-7/enable")).status_code == 409, "its claim decides"


NO_DEVICES: list[dict[str, Any]] = [
    {"id": "Van"},
    {"id": "-van"},
    {"id": "v" * 64},
    {"tags": ["Red"]},
    {"tags": [f"t{n}" for n in range(33)]},
    {"latitude": 52.5},
    {"latitude": 91, "longitude": 0},
    {"name": "a\0b"},
    {"name": "n" * 201},
    {"gateway": "nobody"},
    {"gateway": "van-7"},
    {"gateway": "child"},
    {"gateway": "theirs"},
    {"colour": "red"},
]


async def test_what_cannot_be_is_refused(api: Api) -> None:
    await register(api.admin, "pi-1")
    await register(api.admin, "child", gateway="pi-1")
    await register(api.other, "theirs")
    for fields in NO_DEVICES:
        answer = await api.admin.post("devices", json={"id": "van-7", **fields})
        assert answer.status_code == 422, (fields, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


async def test_gateways_do_not_chain(api: Api) -> None:
    await register(api.admin, "pi-1", "pi-2")
    await register(api.admin, "sensor-1", gateway="pi-1")
    chained = await api.admin.patch("devices/pi-1", json={"gateway": "pi-2"})
    assert (chained.status_code, "do not chain" in chained.json()["detail"]) == (422, True)
    kept = await api.admin.delete("devices/pi-1")
    assert (kept.status_code, "gateway of 1" in kept.json()["detail"]) == (409, True)
    assert await listed(api.admin, gateway="pi-1") == ["sensor-1"]
    freed = await api.admin.patch("devices/sensor-1", json={"gateway": None})
    assert freed.json()["gateway"] is None
    assert (await api.admin.delete("devices/pi-1")).status_code == 204


async def test_devices_of_another_tenant_do_not_exist(api: Api) -> None:
    await register(api.other, "theirs", name="Secret")
    for method, path, body in (
        ("GET", "devices/theirs", None),
        ("PATCH", "devices/theirs", {"name": "mine"}),
        ("DELETE", "devices/theirs", None),
        ("POST", "devices/theirs/disable", None),
    ):
        foreign = await api.admin.request(method, path, json=body)
        missing = await api.admin.request(method, path.replace("theirs", "nobodys"), json=body)
        assert (foreign.status_code, missing.status_code) == (404, 404)
        assert foreign.json()["detail"].replace("theirs", "nobodys") == missing.json()["detail"]
    await register(api.admin, "mine")
    taken, own = [await api.admin.post("devices", json={"id": device}) for device in ("theirs", "mine")]
    assert (taken.status_code, own.status_code) == (409, 409)
    assert taken.text.replace("theirs", "mine") == own.text, "a taken id does not tell whose it is"
    assert await listed(api.admin) == ["mine"]
    assert (await api.other.get("devices/theirs")).json()["name"] == "Secret"


async def test_who_may_read_may_not_write(api: Api) -> None:
    await register(api.operator, "van-7")
    assert (await api.viewer.get("devices/van-7")).status_code == 200
    for method, path in (("POST", "devices"), ("PATCH", "devices/van-7"), ("DELETE", "devices/van-7")):
        assert (await api.viewer.request(method, path, json={"id": "x"})).status_code == 403, path
    assert (await api.nobody.get("devices")).status_code == 401


async def test_pages_follow_each_other_in_every_order(api: Api, database: Database) -> None:
    names = [f"d-{n:02}" for n in range(25)]
    for number, device in enumerate(names):
        await register(api.admin, device, name=f"Name {number % 7}")
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state, seen_at) SELECT id, tenant, 'online', now() "
        "FROM registry.device WHERE id < 'd-10'"
    )
    for sort in ("id", "name", "seen_at", "presence"):
        found = {}
        for order in (sort, f"-{sort}"):
            pages, query = [], {"limit": 7, "sort": order}
            while True:
                page = (await api.admin.get("devices", params=query)).json()
                assert page["total"] == (None if "cursor" in query else 25)
                pages += [item["id"] for item in page["items"]]
                if page["next"] is None:
                    break
                query["cursor"] = page["next"]
            found[order] = pages
        assert sorted(found[sort]) == names
        assert found[f"-{sort}"] == found[sort][::-1]
    assert found["presence"][:15] == names[10:][::-1] or found["presence"][:10] == names[:10]
    first = (await api.admin.get("devices", params={"limit": 7, "sort": "seen_at"})).json()
    other_order = await api.admin.get("devices", params={"cursor": first["next"], "sort": "name"})
    assert other_order.status_code == 422


async def test_devices_are_found(api: Api, database: Database) -> None:
    await register(api.admin, "van-1", name="Red Van", serial="SN-77", tags=["north", "van"], type="van", tier="pi")
    await register(api.admin, "van-2", name="Blue 100%_van", tags=["south"], type="van")
    await register(api.admin, "truck-1", tags=["north"], status="disabled")
    assert await listed(api.admin, q="VAN") == ["van-1", "van-2"]
    assert await listed(api.admin, q="sn-77") == ["van-1"]
    assert await listed(api.admin, q="north van") == ["van-1"], "every word"
    assert await listed(api.admin, q="100%_") == ["van-2"], "no wildcards"
    assert await listed(api.admin, q="\\") == []
    assert await listed(api.admin, tag=["north", "van"]) == ["van-1"]
    assert await listed(api.admin, type="van", tier="pi") == ["van-1"]
    assert await listed(api.admin, status="disabled") == ["truck-1"]
    database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-2', 'acme', 'online')")
    assert await listed(api.admin, presence="online") == ["van-2"]
    assert await listed(api.admin, presence="unknown") == ["truck-1", "van-1"]
    assert (await api.admin.get("tags")).json() == [
        {"name": "north", "count": 2},
        {"name": "south", "count": 1},
        {"name": "van", "count": 1},
    ]
    assert (await api.admin.get("types")).json() == [{"name": "van", "count": 2}]


async def test_last_seen_is_the_newest_of_status_and_data(api: Api, database: Database) -> None:
    await register(api.admin, "van-1", "van-2")
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state, seen_at) VALUES ('van-1', 'acme', 'online', '2026-01-01T00:00Z')"
    )
    database.rows(
        "INSERT INTO telemetry.seen (device, tenant, seen_at) VALUES ('van-1', 'acme', '2026-01-02T00:00Z'), "
        "('van-2', 'other', '2026-01-02T00:00Z')"
    )
    assert (await api.admin.get("devices/van-1")).json()["presence"]["seen_at"] == "2026-01-02T00:00:00.000Z"
    assert (await api.admin.get("devices/van-2")).json()["presence"]["seen_at"] is None, "heard under another tenant"


async def test_overview_counts_the_tenant_only(api: Api, database: Database) -> None:
    await register(api.admin, "van-1", "van-2")
    await register(api.admin, "van-3", status="disabled")
    await register(api.other, "theirs")
    database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-1', 'acme', 'online')")
    for tenant, seq in (("acme", 1), ("acme", 2), ("other", 3)):
        database.rows(
            "SELECT rejected.keep(ARRAY[%s], ARRAY['van-1'], ARRAY['telemetry'], ARRAY[1::bigint], ARRAY[%s::bigint], "
            "ARRAY['not_json'], ARRAY[''], ARRAY['t'], ARRAY['x'::bytea], ARRAY[now()], 'ingest')",
            tenant,
            seq,
        )
    database.rows(
        "INSERT INTO registry.emergency_stop (tenant, reason, stopped_by) VALUES ('acme', 'fire', 'user:ada')"
    )
    figures = (await api.viewer.get("overview")).json()
    assert figures.pop("stop")["reason"] == "fire"
    assert figures == {
        "devices": 3,
        "online": 1,
        "offline": 0,
        "unknown": 2,
        "disabled": 1,
        "pending": 0,
        "rejected_24h": 2,
        "gaps": 0,
        "open_commands": 0,
        "open_trips": 0,
    }
