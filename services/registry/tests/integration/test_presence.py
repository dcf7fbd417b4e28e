"""Presence: what devices say, corrected where the broker says nothing (fault 41)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outrider.contract import topics
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected
from outrider.testing.waiting import eventually
from outrider_registry.context import Registry
from outrider_registry.control import presence
from outrider_registry.control.message import Message
from outrider_registry.testing import Api
from outrider_registry.testing.control import Device, control_plane, register, until


@pytest.fixture
async def plane(database: Database, mosquitto: Mosquitto) -> AsyncIterator[Registry]:
    register(database, "van-7", "van-8")
    async with control_plane(database, mosquitto.url) as registry:
        yield registry


@pytest.fixture
async def client(plane: Registry, mosquitto: Mosquitto) -> AsyncIterator[Client]:
    async with connected(mosquitto.url, "van-7") as client:
        yield client


@pytest.fixture
def device(client: Client) -> Device:
    return Device(client, "van-7")


def state(database: Database, name: str = "van-7") -> tuple[Any, ...] | None:
    rows = database.rows("SELECT state, reason, boots FROM registry.presence WHERE device = %s", name)
    return rows[0] if rows else None


def events(database: Database, name: str = "van-7") -> list[tuple[str, str]]:
    return database.rows("SELECT state, reason FROM registry.presence_event WHERE device = %s ORDER BY id", name)  # type: ignore[return-value]


async def retained(url: str, topic: str) -> list[dict[str, Any]]:
    async with connected(url, "reader", [topic, "outrider/test/end"]) as reader:
        await reader.publish("outrider/test/end", b"{}")  # later than the subscription, so behind what is retained
        await eventually(lambda: reader.documents("outrider/test/end"), interval_s=0.005)
        return reader.documents(topic)


def hear(database: Database, name: str, at: datetime, tenant: str = "acme") -> None:
    """As ingest notes that there was data of a device."""
    database.rows(
        "INSERT INTO telemetry.seen VALUES (%s, %s, %s) ON CONFLICT (device) DO UPDATE SET seen_at = EXCLUDED.seen_at",
        name,
        tenant,
        at,
    )


async def test_status_makes_presence_boots_firmware_and_events(
    plane: Registry, database: Database, device: Device
) -> None:
    await device.status("online", boot=11, fw="1.4.0", tier="esp32")
    await device.status("offline", boot=11, reason="will")
    await device.status("online", boot=12, fw="1.5.0", tier="esp32")
    await device.status("online", boot=12, fw="1.5.0", tier="esp32")
    await device.status("offline", reason="reboot")
    await eventually(lambda: state(database) == ("offline", "reboot", 2))
    assert events(database) == [("online", ""), ("offline", "will"), ("online", ""), ("offline", "reboot")]
    assert database.rows("SELECT firmware, tier FROM registry.device WHERE id = 'van-7'") == [("1.5.0", "esp32")]


async def test_what_a_person_wrote_stays_until_the_device_says_something_else(
    plane: Registry, database: Database, device: Device
) -> None:
    await device.status("online", fw="1.4.0", tier="esp32")
    await eventually(lambda: state(database))
    database.rows("UPDATE registry.device SET tier = 'special' WHERE id = 'van-7'")
    await device.status("offline", fw="1.4.0", tier="esp32")
    await eventually(lambda: state(database) == ("offline", "", 0))
    assert database.value("SELECT tier FROM registry.device WHERE id = 'van-7'") == "special"


async def test_a_new_tier_changes_what_is_desired(plane: Registry, database: Database, device: Device) -> None:
    database.rows(
        "INSERT INTO registry.configuration (tenant, name, applies_to, selector, state)"
        " VALUES ('acme', 'small', 'tier', 'esp32', '{\"interval_s\": 60}')"
    )
    await device.status("online", tier="esp32")
    await eventually(
        lambda: database.rows("SELECT desired, desired_version FROM registry.shadow") == [({"interval_s": 60}, 1)]
    )


async def test_retained_statuses_that_come_again_change_nothing(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with connected(mosquitto.url, "van-7") as client:
        device = Device(client, "van-7")
        async with control_plane(database, mosquitto.url):
            await device.status("online", boot=11)
            await eventually(lambda: state(database) == ("online", "", 1))
        before = database.rows("SELECT * FROM registry.presence")
        async with control_plane(database, mosquitto.url):
            await device.report(1, {"done": True})  # later than the retained status in the same session
            await eventually(lambda: database.rows("SELECT 1 FROM registry.shadow WHERE reported_version = 1"))
        assert database.rows("SELECT * FROM registry.presence") == before
        assert events(database) == [("online", "")]


async def test_a_retained_status_from_before_the_registry_is_taken(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with connected(mosquitto.url, "van-7") as client:
        await Device(client, "van-7").status("online", boot=11)
    async with control_plane(database, mosquitto.url):
        await eventually(lambda: state(database) == ("online", "", 1))


async def test_a_will_takes_a_device_offline(plane: Registry, database: Database, mosquitto: Mosquitto) -> None:
    topic = topics.STATUS.name(tenant="acme", device="van-7")
    will = (topic, b'{"state":"offline","reason":"will"}', 1, True)
    connection = await Connection.open(
        mosquitto.url,
        "van-7",
        lambda _: None,
        clean_start=True,
        session_expiry_s=0,
        receive_maximum=10,
        will=will,
    )
    await connection.publish(topic, b'{"state":"online"}', retain=True)
    await eventually(lambda: state(database) == ("online", "", 0))
    connection.abort()
    await eventually(lambda: state(database) == ("offline", "will", 0))


@pytest.mark.parametrize(
    ("tenant", "name", "reason"),
    [
        ("acme", "stranger", "unknown_device"),
        ("other", "van-7", "wrong_tenant"),
        ("acme", "van-off", "disabled_device"),
        ("closed", "van-closed", "disabled_device"),
    ],
)
async def test_a_status_of_nobody_is_refused_and_kept(
    plane: Registry, database: Database, client: Client, tenant: str, name: str, reason: str
) -> None:
    register(database, "van-off", status="disabled")
    register(database, "van-closed", tenant="closed")
    database.rows("UPDATE registry.tenant SET disabled_at = now() WHERE name = 'closed'")
    await Device(client, name, tenant).status("online")
    await eventually(lambda: database.rows("SELECT 1 FROM rejected.message"))
    owner = "acme" if reason == "wrong_tenant" else tenant  # whose device it is sees it
    assert database.rows("SELECT tenant, device, reason FROM rejected.message") == [(owner, name, reason)]
    assert state(database, name) is None


async def test_a_broken_status_is_kept_and_the_others_of_its_batch_count(
    plane: Registry, database: Database, device: Device, client: Client
) -> None:
    topic = device.topic(topics.STATUS)
    await asyncio.gather(
        client.publish(topic, "{nonsense"),
        client.publish(topic, {"state": "asleep"}),
        client.publish(Device(client, "van-8").topic(topics.STATUS), {"state": "online"}),
        client.publish(topic, b""),
    )
    await eventually(lambda: state(database, "van-8") == ("online", "", 0))
    rows = database.rows("SELECT reason FROM rejected.message ORDER BY reason")
    assert rows == [("bad_value",), ("not_json",)]
    assert state(database) is None


async def test_a_refused_retained_status_is_cleared_from_the_broker(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with connected(mosquitto.url, "van-7") as client:
        await Device(client, "van-7", "other").status("online")
    topic = topics.STATUS.name(tenant="other", device="van-7")
    async with control_plane(database, mosquitto.url):

        async def empty() -> bool:
            return not await retained(mosquitto.url, topic)

        await until(empty)
    assert not database.rows("SELECT 1 FROM registry.presence")


async def test_data_from_a_device_said_to_be_offline_brings_it_back_and_silence_takes_it_away(
    plane: Registry, database: Database, device: Device, mosquitto: Mosquitto
) -> None:
    await device.status("offline", reason="will")
    await eventually(lambda: state(database) == ("offline", "will", 0))
    now = datetime.now(UTC)
    hear(database, "van-7", now + timedelta(seconds=presence.DATA_MARGIN_S - 1))
    assert await presence.correct_states(plane, None) == 0, "it may have been on its way"
    hear(database, "van-7", now + timedelta(seconds=presence.DATA_MARGIN_S + 1))
    assert await presence.correct_states(plane, None) == 1
    assert state(database) == ("online", "data", 0)
    (said,) = await retained(mosquitto.url, device.topic(topics.STATUS))
    assert (said["state"], said["reason"], said["by"]) == ("online", "data", "registry")
    # Nobody would send a will for it.
    hear(database, "van-7", now - timedelta(seconds=100))
    database.rows("UPDATE registry.presence SET since = now() - interval '100 s'")
    assert await presence.correct_states(plane, None) == 1
    assert state(database) == ("offline", "silent", 0)
    assert events(database) == [("offline", "will"), ("online", "data"), ("offline", "silent")]


async def test_data_of_a_device_without_any_status_counts_only_in_its_own_tenant(
    plane: Registry, database: Database
) -> None:
    hear(database, "van-7", datetime.now(UTC))
    hear(database, "van-8", datetime.now(UTC), tenant="other")
    await presence.correct_states(plane, None)
    assert state(database) == ("online", "data", 0)
    assert state(database, "van-8") is None


async def test_who_was_online_before_the_broker_was_started_and_says_nothing_is_offline(
    plane: Registry, database: Database, device: Device, client: Client
) -> None:
    await device.status("online")
    await Device(client, "van-8").status("online")
    await eventually(lambda: state(database) and state(database, "van-8"))
    started = datetime.now(UTC) - timedelta(seconds=plane.settings.presence_silence_s + 1)
    database.rows("UPDATE registry.presence SET status_at = %s", started - timedelta(seconds=1))
    hear(database, "van-8", started + timedelta(seconds=1))
    assert await presence.correct_states(plane, None) == 0, "a broker that does not say so was not restarted"
    assert await presence.correct_states(plane, started) == 1
    assert state(database) == ("offline", "silent", 0)
    assert state(database, "van-8") == ("online", "", 0)


async def test_the_broker_says_when_it_was_started(plane: Registry, mosquitto: Mosquitto) -> None:
    broker = presence._BrokerStart()
    watching = asyncio.create_task(broker.watch(plane))
    try:
        await eventually(lambda: broker.at)
    finally:
        watching.cancel()
    assert broker.at is not None
    assert timedelta(0) <= datetime.now(UTC) - broker.at < timedelta(minutes=2)


async def test_a_kick_without_a_will_is_noted_unless_the_device_is_back_already(
    plane: Registry, database: Database, device: Device, client: Client, mosquitto: Mosquitto
) -> None:
    await device.status("online", boot=1)
    await Device(client, "van-8").status("online", boot=1)
    await eventually(lambda: state(database) and state(database, "van-8"))
    kicked_at = datetime.now(UTC) - timedelta(milliseconds=1)  # statuses are dated in whole ones
    await device.status("online", boot=2)
    await eventually(lambda: state(database) == ("online", "", 2))
    await presence.mark_offline(plane, ["van-7", "van-8", "nobody"], "kicked", kicked_at)
    assert state(database) == ("online", "", 2)
    assert state(database, "van-8") == ("offline", "kicked", 1)
    (said,) = await retained(mosquitto.url, topics.STATUS.name(tenant="acme", device="van-8"))
    assert (said["state"], said["reason"], said["by"]) == ("offline", "kicked", "registry")


async def test_a_correction_that_crossed_with_the_device_s_own_word_is_taken_back(
    plane: Registry, database: Database, device: Device, client: Client, mosquitto: Mosquitto
) -> None:
    await device.status("online")
    await eventually(lambda: state(database) == ("online", "", 0))
    topic = device.topic(topics.STATUS)
    await client.publish(topic, {"state": "offline", "reason": "kicked", "by": "registry"}, retain=True)

    async def taken_back() -> bool:
        return [said["state"] for said in await retained(mosquitto.url, topic)] == ["online"]

    await until(taken_back)
    assert state(database) == ("online", "", 0)


async def test_a_disabled_device_is_offline_and_its_data_does_not_bring_it_back(
    plane: Registry, database: Database, device: Device
) -> None:
    await device.status("online")
    await eventually(lambda: state(database) == ("online", "", 0))
    database.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-7'")
    await eventually(lambda: state(database) == ("offline", "disabled", 0))
    hear(database, "van-7", datetime.now(UTC) + timedelta(seconds=60))
    await presence.correct_states(plane, None)
    assert state(database) == ("offline", "disabled", 0)


async def test_children_go_and_come_with_their_gateway(plane: Registry, database: Database, device: Device) -> None:
    register(database, "sensor-1", "sensor-2", gateway="van-7")
    await device.status("online")
    await Device(device.client, "sensor-1").status("online")
    await Device(device.client, "sensor-2").status("offline", reason="battery")
    await eventually(lambda: state(database, "sensor-2"))
    await device.status("offline", reason="will")
    await eventually(lambda: state(database, "sensor-1") == ("offline", "gateway", 0))
    assert state(database, "sensor-2") == ("offline", "battery", 0)
    await device.status("online")
    await eventually(lambda: state(database, "sensor-1") == ("online", "gateway", 0))
    assert state(database, "sensor-2") == ("offline", "battery", 0)


async def test_states_that_the_broker_lost_are_retained_again(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state, reason) VALUES ('van-7','acme','offline','will')"
    )
    async with control_plane(database, mosquitto.url):

        async def again() -> bool:
            said = await retained(mosquitto.url, "fleet/v1/acme/van-7/status")
            return [document["state"] for document in said] == ["offline"]

        await until(again)


async def test_the_api_shows_presence_with_its_events_to_its_tenant_only(api: Api, database: Database) -> None:
    register(database, "van-7")
    answer = await api.viewer.get("devices/van-7/presence")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["events"]) == ("unknown", [])
    await presence.mark_offline(api.registry, [], "kicked")
    database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-7', 'acme', 'online')")
    database.rows("INSERT INTO registry.presence_event (tenant, device, state) VALUES ('acme', 'van-7', 'online')")
    body = (await api.viewer.get("devices/van-7/presence")).json()
    assert body["state"] == "online"
    assert [event["state"] for event in body["events"]] == ["online"]
    assert (await api.other.get("devices/van-7/presence")).status_code == 404
    assert (await api.nobody.get("devices/van-7/presence")).status_code == 401


def test_a_word_of_a_device_is_made_storable() -> None:
    assert presence._word("a\0b\ud800c" + "x" * 100) == "abc" + "x" * 61
    assert presence._document(b"[1]") == {}
    assert presence._document(json.dumps({"by": "registry"}).encode()) == {"by": "registry"}


async def test_an_old_status_that_a_killed_broker_brings_back_is_no_sign_of_life(
    plane: Registry, database: Database, device: Device
) -> None:
    """Its last second is lost with it: the will that said offline, and the `online` of before is retained again."""
    await device.status("online", boot=11)
    await device.status("offline", reason="will")
    await eventually(lambda: state(database) == ("offline", "will", 1))
    started = datetime.now(UTC) - timedelta(seconds=plane.settings.presence_silence_s + 1)
    database.rows("UPDATE registry.presence SET status_at = %s", started - timedelta(seconds=1))
    topic = topics.STATUS.name(tenant="acme", device="van-7")
    payload = b'{"state":"online","boot":11}'
    old = Delivery(topic, payload, 1, device.client.connection, time.time_ns() // 1_000_000, None, retained=True)
    await presence.on_status(plane, [Message({"tenant": "acme", "device": "van-7"}, old)])
    assert state(database) == ("online", "", 1)
    assert await presence.correct_states(plane, started) == 1
    assert state(database) == ("offline", "silent", 1)
