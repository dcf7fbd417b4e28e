"""Shadow: reports in any order, desired state published and kept retained, two operators (faults 37, 38, 48)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from outrider.contract import topics
from outrider.device.control import Shadow as DeviceShadow
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import connected
from outrider.testing.waiting import eventually
from outrider_registry.context import Registry
from outrider_registry.control import retained
from outrider_registry.control import shadow as control_shadow
from outrider_registry.store import shadows
from outrider_registry.store.transactions import of_platform, of_tenant
from outrider_registry.testing import Api, running_api
from outrider_registry.testing.control import Device, control_plane, register, until

DESIRED = "fleet/v1/acme/van-7/shadow/desired"


def shadow(database: Database, device: str = "van-7") -> dict[str, Any]:
    rows = database.rows("SELECT to_jsonb(s) FROM registry.shadow s WHERE device = %s", device)
    return rows[0][0] if rows else {}


def configure(
    database: Database, name: str, state: dict[str, Any], applies_to: str = "all", selector: str = ""
) -> None:
    database.rows(
        "INSERT INTO registry.configuration (tenant, name, applies_to, selector, state) VALUES ('acme', %s, %s, %s, %s)",
        name,
        applies_to,
        selector,
        json.dumps(state),
    )


async def recompute(registry: Registry, devices: list[str] | None = None) -> int:
    async with of_tenant(registry.database, "acme") as connection:
        return await shadows.recompute(connection, devices)


async def desired_in_broker(url: str, filter_: str = DESIRED) -> dict[str, Any]:
    found, connection = await retained.read(url, "reader", [filter_])
    await connection.close(end_session=True)
    return {topic: json.loads(payload) for topic, payload in found.items()}


# ------------------------------------------------------------------------------------------------ recompute
async def test_recompute_merges_by_type_tier_and_tag_and_bumps_only_what_changed(
    registry: Registry, database: Database
) -> None:
    register(database, "van-7", type="van", tier="pi", tags=["cold"])
    register(database, "van-8", type="van")
    register(database, "sensor-1")
    register(database, "foreign", tenant="other")
    configure(database, "base", {"interval_s": 60})
    assert await recompute(registry) == 3
    configure(database, "vans", {"interval_s": 30}, "type", "van")
    configure(database, "cold", {"fan": True, "interval_s": 10}, "tag", "cold")
    assert await recompute(registry) == 2
    assert await recompute(registry) == 0
    rows = database.rows("SELECT device, desired, desired_version FROM registry.shadow ORDER BY device")
    assert rows == [
        ("sensor-1", {"interval_s": 60}, 1),
        ("van-7", {"interval_s": 10, "fan": True}, 2),
        ("van-8", {"interval_s": 30}, 2),
    ]
    database.rows("UPDATE registry.device SET tags = '{}' WHERE id = 'van-7'")
    assert await recompute(registry, ["van-7", "van-8"]) == 1
    assert shadow(database)["desired"] == {"interval_s": 30}


async def test_recompute_of_ten_thousand_devices_is_set_based(registry: Registry, database: Database) -> None:
    database.rows("INSERT INTO registry.tenant (name) VALUES ('acme')")
    database.rows(
        "INSERT INTO registry.device (id, tenant, type, tags)"
        " SELECT 'd-' || i, 'acme', CASE mod(i, 2) WHEN 0 THEN 'van' ELSE 'truck' END, ARRAY['t' || mod(i, 5)]"
        " FROM generate_series(1, 10000) i"
    )
    configure(database, "base", {"interval_s": 60})
    configure(database, "t1", {"fan": True}, "tag", "t1")
    async with asyncio.timeout(10):  # below 1 s on two cores
        assert await recompute(registry) == 10_000
    assert (
        database.value('SELECT count(*) FROM registry.shadow WHERE desired = \'{"fan": true, "interval_s": 60}\'')
        == 2000
    )


async def test_the_next_version_exceeds_every_version_the_device_or_the_broker_knows(
    registry: Registry, database: Database
) -> None:
    register(database, "van-7")
    database.rows(
        "INSERT INTO registry.shadow (device, tenant, desired_version, reported_version, published_version)"
        " VALUES ('van-7', 'acme', 3, 40, 17)"
    )
    configure(database, "base", {"interval_s": 60})
    assert await recompute(registry) == 1
    assert shadow(database)["desired_version"] == 41


# ------------------------------------------------------------------------------------------------ reports
async def test_reports_count_by_version_whatever_their_order(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with control_plane(database, mosquitto.url), connected(mosquitto.url, "van-7") as client:
        device = Device(client, "van-7")
        await device.report(3, {"b": None, "c": 3})
        await device.report(1, {"a": 1, "b": 1, "c": 1})
        await device.report(2, {"a": None, "b": 2, "d": {"x": 1}})
        await eventually(lambda: shadow(database).get("reported") == {"c": 3, "d": {"x": 1}})
        assert shadow(database)["reported_version"] == 3


async def test_reports_that_cannot_be_are_kept_with_their_reason(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    register(database, "van-8", status="disabled")
    deep: Any = 1
    for _ in range(20):
        deep = {"a": deep}
    topic = topics.SHADOW_REPORTED.name(tenant="acme", device="van-7")
    async with control_plane(database, mosquitto.url), connected(mosquitto.url, "van-7") as client:
        bad: list[tuple[str, Any]] = [
            (topic, "{"),
            (topic, {"version": -1, "state": {}}),
            (topic, {"version": 1, "state": deep}),
            (topic, '{"version": 1, "state": {"a": "\\u0000"}}'),
            (topic, '{"version": 1, "state": {"a": NaN}}'),
            (topic, {"version": shadows.VERSIONS_AHEAD_MAX + 1, "state": {}}),
            (topic.replace("acme", "other"), {"version": 1, "state": {}}),
            (topic.replace("van-7", "van-8"), {"version": 1, "state": {}}),
            (topic.replace("van-7", "van-9"), {"version": 1, "state": {}}),
        ]
        await asyncio.gather(
            *(client.publish(*one) for one in bad), client.publish(topic, {"version": 1, "state": {"a": 1}})
        )
        await eventually(lambda: database.value("SELECT count(*) FROM rejected.message") == len(bad))
        await eventually(lambda: shadow(database).get("reported") == {"a": 1})
    reasons = database.rows("SELECT reason, count(*) FROM rejected.message GROUP BY reason ORDER BY reason")
    assert dict(reasons) == {
        "bad_value": 5,
        "disabled_device": 1,
        "not_json": 1,
        "unknown_device": 1,
        "wrong_tenant": 1,
    }


async def test_a_reported_state_is_bounded(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with control_plane(database, mosquitto.url), connected(mosquitto.url, "van-7") as client:
        device = Device(client, "van-7")
        await device.report(1, {"a": "x" * 40_000})
        await device.report(1, {"b": "x" * 40_000})
        await eventually(lambda: database.rows("SELECT 1 FROM rejected.message WHERE reason = 'bad_value'"))
        assert list(shadow(database)["reported"]) == ["a"]


# ------------------------------------------------------------------------------------------------ publishing
async def test_of_a_hundred_changes_while_a_device_is_away_only_the_newest_is_applied(
    database: Database, mosquitto: Mosquitto
) -> None:
    """Fault 37: with a new session it is the only one that the device gets; with a kept one the last, versions rising."""
    register(database, "van-7")
    kept: list[Delivery] = []

    async def connect(client_id: str, into: list[Delivery], *, clean: bool) -> Connection:
        connection = await Connection.open(
            mosquitto.url, client_id, into.append, clean_start=clean, session_expiry_s=3600, receive_maximum=1000
        )
        await connection.subscribe([DESIRED])
        return connection

    await (await connect("van-7", kept, clean=True)).close()
    async with control_plane(database, mosquitto.url) as registry, running_api(registry) as api:
        for number in range(100):
            answer = await api.operator.patch("devices/van-7/shadow", json={"overrides": {"n": number}})
            assert answer.status_code == 200, answer.text
        await eventually(lambda: shadow(database)["published_version"] == 100)
        new: list[Delivery] = []
        for client_id, into, clean in (("other-agent", new, True), ("van-7", kept, False)):
            connection = await connect(client_id, into, clean=clean)
            await eventually(lambda into=into: into and json.loads(into[-1].payload)["version"] == 100)  # type: ignore[misc]
            await connection.close(end_session=True)
    assert [json.loads(d.payload) for d in new] == [{"version": 100, "state": {"n": 99}}]
    device, applied = DeviceShadow(), {}
    for delivery in kept:
        applied = device.desired(delivery.payload) or applied
    assert applied == {"n": 99}


async def test_a_device_answers_and_the_delta_closes(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with (
        control_plane(database, mosquitto.url) as registry,
        running_api(registry) as api,
        connected(mosquitto.url, "van-7", [DESIRED]) as client,
    ):
        changed = (await api.operator.patch("devices/van-7/shadow", json={"overrides": {"fan": True}})).json()
        assert (changed["delta"], changed["sources"], changed["version"]) == ({"fan": True}, {"fan": "device"}, 1)
        (desired,) = await eventually(lambda: client.documents(DESIRED))
        await Device(client, "van-7").report(desired["version"], desired["state"])
        await eventually(lambda: shadow(database)["reported"] == {"fan": True})
        body = (await api.viewer.get("devices/van-7/shadow")).json()
        assert (body["delta"], body["reported_version"], body["published_version"]) == ({}, 1, 1)


async def test_the_broker_s_loss_of_retained_messages_is_mended(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7", "van-8")
    configure(database, "base", {"interval_s": 60})
    async with control_plane(database, mosquitto.url) as registry:
        assert await recompute(registry) == 2
        await eventually(lambda: shadow(database, "van-8")["published_version"] == 1)
        await asyncio.to_thread(mosquitto.kill)
        for file in mosquitto.data_dir.glob("mosquitto.db*"):
            file.unlink()
        await asyncio.to_thread(mosquitto.start)
        found: dict[str, Any] = {}

        async def both() -> bool:
            found.update(await desired_in_broker(mosquitto.url, topics.SHADOW_DESIRED.filter()))
            return len(found) == 2

        await until(both)
    assert {document["version"] for document in found.values()} == {1}


async def test_a_replica_that_was_frozen_before_it_published_leaves_the_newer_state_retained(
    registry: Registry, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(database, "van-7")
    configure(database, "all", {"interval_s": 60})
    await recompute(registry)
    monkeypatch.setattr(control_shadow, "PUBLISH_WITHIN_S", 0.2)
    unpublished = shadows.unpublished

    async def frozen(connection: psycopg.AsyncConnection, limit: int) -> list[shadows.Desired]:
        found = await unpublished(connection, limit)
        with psycopg.connect(database.admin_url) as admin:  # another one leads now and has published a newer version
            admin.execute("UPDATE registry.shadow SET desired_version = 9, published_version = 9")
            admin.execute("SELECT pg_sleep(0.3)")
        return found

    monkeypatch.setattr(shadows, "unpublished", frozen)
    with pytest.raises(Transient, match="took longer"):  # a publisher that is tried says that it is not connected
        await control_shadow.publish_desired(registry)
    assert shadow(database)["published_version"] == 9


async def test_a_broker_that_knows_a_newer_version_than_a_restored_database_gets_a_newer_one(
    database: Database, mosquitto: Mosquitto
) -> None:
    """Fault 48: yesterday's database, today's broker and devices."""
    register(database, "van-7", "van-8")
    database.rows(
        "INSERT INTO registry.shadow (device, tenant, desired, desired_version, published_version)"
        " VALUES ('van-7', 'acme', '{\"a\": 1}', 5, 5)"
    )
    async with connected(mosquitto.url, "yesterday", ["fleet/#"]) as client:
        for name, version in (("van-7", 9), ("van-8", 3), ("gone", 4)):
            document = {"version": version, "state": {"a": 2}}
            await client.publish(topics.SHADOW_DESIRED.name(tenant="acme", device=name), document, retain=True)
    async with control_plane(database, mosquitto.url), connected(mosquitto.url, "van-7", ["fleet/#"]) as client:
        await eventually(lambda: shadow(database)["published_version"] == 10)
        await eventually(lambda: shadow(database, "van-8").get("published_version") == 4)
        found = await desired_in_broker(mosquitto.url, topics.SHADOW_DESIRED.filter())
        assert found == {
            DESIRED: {"version": 10, "state": {"a": 1}},
            DESIRED.replace("van-7", "van-8"): {"version": 4, "state": {}},
        }
        # The device, too, may know more than both.
        await Device(client, "van-7").report(20, {"a": 2})
        await eventually(lambda: Device(client, "van-7").desired()[-1] == {"version": 21, "state": {"a": 1}})


async def test_what_a_removed_device_leaves_in_the_broker_is_cleared(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    configure(database, "base", {"interval_s": 60})
    async with control_plane(database, mosquitto.url) as registry, connected(mosquitto.url, "van-7") as client:
        await recompute(registry)
        await Device(client, "van-7").status("online")
        await eventually(lambda: shadow(database)["published_version"] == 1)
        assert len(await desired_in_broker(mosquitto.url, "fleet/v1/acme/van-7/#")) == 2
        database.rows("DELETE FROM registry.device WHERE id = 'van-7'")

        async def empty() -> bool:
            return not await desired_in_broker(mosquitto.url, "fleet/v1/acme/van-7/#")

        await until(empty)


# ------------------------------------------------------------------------------------------------ API
async def test_of_two_operators_who_edit_one_shadow_the_second_is_told(api: Api, database: Database) -> None:
    """Fault 38, by If-Match (412) and by the version in the body (409)."""
    register(database, "van-7")
    read = await api.operator.get("devices/van-7/shadow")
    assert read.headers["etag"] == '"0"'
    first = await api.operator.patch(
        "devices/van-7/shadow", json={"overrides": {"a": 1}}, headers={"if-match": read.headers["etag"]}
    )
    assert first.status_code == 200, first.text
    assert first.headers["etag"] == '"1"'
    second = await api.admin.patch(
        "devices/van-7/shadow", json={"overrides": {"a": 2}}, headers={"if-match": read.headers["etag"]}
    )
    assert (second.status_code, second.json()["current_version"]) == (412, 1)
    third = await api.admin.patch("devices/van-7/shadow", json={"overrides": {"a": 2}, "version": 0})
    assert (third.status_code, third.json()["current_version"]) == (409, 1)
    assert shadow(database)["desired"] == {"a": 1}
    fourth = await api.admin.patch("devices/van-7/shadow", json={"overrides": {"a": 2}, "version": 1})
    assert fourth.status_code == 200


async def test_of_two_edits_at_the_same_moment_one_wins(api: Api, database: Database) -> None:
    register(database, "van-7")
    answers = await asyncio.gather(
        *(api.operator.patch("devices/van-7/shadow", json={"overrides": {f"k{n}": n}, "version": 0}) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert len(shadow(database)["desired"]) == 1


async def test_configurations_and_wishes_changed_at_once_all_count(api: Api, database: Database) -> None:
    register(database, "van-7")
    jobs = [
        *(api.operator.put(f"configurations/c{n}", json={"state": {f"c{n}": n}}) for n in range(5)),
        *(api.operator.patch("devices/van-7/shadow", json={"overrides": {f"o{n}": n}}) for n in range(5)),
    ]
    answers = await asyncio.gather(*jobs)
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert shadow(database)["desired"] == {f"{kind}{n}": n for kind in "co" for n in range(5)}


async def test_a_wish_goes_with_null_and_the_configuration_counts_again(api: Api, database: Database) -> None:
    register(database, "van-7")
    await api.operator.put("configurations/base", json={"state": {"level": "info", "nested": {"a": 1, "b": 1}}})
    await api.operator.patch("devices/van-7/shadow", json={"overrides": {"level": "debug", "nested": {"a": 2}}})
    body = (await api.operator.get("devices/van-7/shadow")).json()
    assert body["desired"] == {"level": "debug", "nested": {"a": 2, "b": 1}}
    assert body["sources"] == {"level": "device", "nested": "device"}
    await api.operator.patch("devices/van-7/shadow", json={"overrides": {"level": None}})
    body = (await api.operator.get("devices/van-7/shadow")).json()
    assert (body["desired"]["level"], body["sources"]["level"]) == ("info", "base")


async def test_a_preview_counts_and_shows_and_stores_nothing(api: Api, database: Database) -> None:
    register(database, *(f"van-{n}" for n in range(8)), type="van")
    register(database, "truck-1", type="truck")
    new = {"name": "vans", "applies_to": "type", "selector": "van", "state": {"interval_s": 5}}
    answer = await api.viewer.post("configurations/preview", json={"configuration": new})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["devices"], body["applies_to"], len(body["examples"])) == (8, 8, 5)
    assert body["examples"][0] == {"device": "van-0", "before": {}, "after": {"interval_s": 5}}
    assert not database.rows("SELECT 1 FROM registry.configuration UNION SELECT 1 FROM registry.shadow")


async def test_typed_keys_refuse_with_key_value_and_what_is_allowed(api: Api, database: Database) -> None:
    register(database, "van-7")
    rule = {"type": "integer", "minimum": 1, "maximum": 3600, "unit": "s"}
    assert (await api.operator.put("configuration-keys/interval_s", json=rule)).status_code == 200
    for answer in (
        await api.operator.put("configurations/base", json={"state": {"interval_s": 0}}),
        await api.operator.patch("devices/van-7/shadow", json={"overrides": {"interval_s": 0}}),
        await api.operator.post(
            "configurations/preview", json={"configuration": {"name": "x", "state": {"interval_s": 0}}}
        ),
    ):
        assert answer.status_code == 422
        assert "interval_s = 0 is out of range; allowed: integer 1 … 3600 s" in answer.json()["detail"]
    await api.operator.put("configurations/base", json={"state": {"interval_s": 5}})
    answer = await api.operator.put("configuration-keys/interval_s", json={**rule, "minimum": 10})
    assert answer.status_code == 409
    assert "configuration base" in answer.json()["detail"]
    assert [key["key"] for key in (await api.viewer.get("configuration-keys")).json()["items"]] == ["interval_s"]
    assert (await api.operator.delete("configuration-keys/interval_s")).status_code == 204
    assert (await api.operator.put("configurations/base", json={"state": {"interval_s": "any"}})).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("configurations/base", {"state": {}}),
        ("configurations/base", {"state": {"a": None}}),
        ("configurations/base", {"state": {"a": "x" * 9000}}),
        ("configurations/base", {"applies_to": "tag", "state": {"a": 1}}),
        ("configurations/base", {"selector": "x", "state": {"a": 1}}),
        ("configurations/base", {"name": "other", "state": {"a": 1}}),
        ("configurations/base", {"state": {"a" * 200: 1}}),
        ("configuration-keys/a", {"type": "integer", "minimum": 2, "maximum": 1}),
        ("configuration-keys/a", {"type": "integer", "choices": []}),
        ("configuration-keys/a", {"type": "integer", "choices": ["x"]}),
        ("configuration-keys/a", {"type": "boolean", "minimum": 1}),
    ],
)
async def test_what_cannot_be_configured(api: Api, path: str, body: dict[str, Any]) -> None:
    answer = await api.operator.put(path, json=body)
    assert answer.status_code == 422, answer.text


async def test_a_configuration_that_makes_a_device_s_state_too_large_is_refused_whole(
    api: Api, database: Database
) -> None:
    register(database, "van-7")
    assert (await api.operator.put("configurations/a", json={"state": {"a": "x" * 5000}})).status_code == 200
    answer = await api.operator.put("configurations/b", json={"state": {"b": "x" * 5000}})
    assert answer.status_code == 422
    assert "van-7" in answer.json()["detail"]
    assert list(shadow(database)["desired"]) == ["a"]
    assert (await api.viewer.get("configurations/b")).status_code == 404


async def test_configurations_are_listed_changed_with_their_version_and_deleted(api: Api, database: Database) -> None:
    register(database, "van-7")
    body = {"name": "weak", "state": {"a": 1}}
    assert (await api.operator.post("configurations", json=body)).status_code == 201
    assert (await api.operator.post("configurations", json=body)).status_code == 409
    await api.operator.put("configurations/strong", json={"state": {"a": 2}, "priority": 5})
    assert [c["name"] for c in (await api.viewer.get("configurations")).json()["items"]] == ["strong", "weak"]
    stale = await api.operator.put("configurations/strong", json={"state": {"a": 3}}, headers={"if-match": '"7"'})
    assert stale.status_code == 412
    assert shadow(database)["desired"] == {"a": 2}
    assert (await api.operator.delete("configurations/strong")).status_code == 204
    assert shadow(database)["desired"] == {"a": 1}
    assert (await api.operator.delete("configurations/strong")).status_code == 404
    actions = database.rows("SELECT action, object FROM registry.audit WHERE tenant = 'acme' ORDER BY number")
    assert actions == [
        ("config.create", "configuration:weak"),
        ("config.create", "configuration:strong"),
        ("config.delete", "configuration:strong"),
    ]


async def test_values_of_configurations_stay_out_of_the_audit(api: Api, database: Database) -> None:
    register(database, "van-7")
    await api.operator.put("configurations/wifi", json={"state": {"wifi_password": "hunter2"}})
    await api.operator.patch("devices/van-7/shadow", json={"overrides": {"wifi_password": "hunter3"}})
    text = database.value("SELECT string_agg(detail::text, '') FROM registry.audit")
    assert "wifi_password" in text
    assert "hunter" not in text


async def test_shadows_and_configurations_of_another_tenant_look_like_none(api: Api, database: Database) -> None:
    register(database, "van-7")
    await api.operator.put("configurations/base", json={"state": {"a": 1}})
    assert (await api.other.get("devices/van-7/shadow")).status_code == 404
    assert (await api.other.patch("devices/van-7/shadow", json={"overrides": {"a": 2}})).status_code == 404
    assert (await api.other.get("configurations/base")).status_code == 404
    assert (await api.other.delete("configurations/base")).status_code == 404
    assert (await api.viewer.patch("devices/van-7/shadow", json={"overrides": {}})).status_code == 403
    async with of_platform(api.registry.database) as connection:
        assert await shadows.recompute(connection, None) == 0


async def test_a_change_without_a_version_is_refused(api: Api, database: Database) -> None:
    register(database, "van-7")
    del api.operator.headers["if-match"]
    answer = await api.operator.patch("devices/van-7/shadow", json={"overrides": {"a": 1}})
    assert answer.status_code == 428
