"""Secrets: issued once, rotated in two phases, expired when a device stays away (fault 44), revoked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from outrider.access.keys import KeyRing, verifier
from outrider.access.secrets import device_secret
from outrider.contract import topics
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import connected
from outrider.testing.waiting import eventually
from outrider_registry.context import Registry
from outrider_registry.control import credentials as control
from outrider_registry.control.message import Message
from outrider_registry.store import credentials
from outrider_registry.store.transactions import of_platform, of_tenant
from outrider_registry.testing import KEYS, Api
from outrider_registry.testing.control import Device, control_plane
from outrider_registry.testing.control import register as register_rows

STATES = "SELECT generation, state FROM registry.credential WHERE device = %s ORDER BY generation"


async def register(api: Api, *devices: str, **details: Any) -> None:
    """Devices of acme, each with a first secret."""
    for device in devices:
        assert (await api.operator.post("devices", json={"id": device, **details})).status_code == 201
        assert (await api.operator.post(f"devices/{device}/credentials")).status_code == 201


async def rotate(api: Api, device: str, **how: Any) -> dict[str, Any]:
    """The answer to a rotation."""
    answer = await api.operator.post(f"devices/{device}/credentials/rotate", json=how)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def digest(device: str, generation: int) -> str:
    """What a device sends of the secret that it has stored."""
    return hashlib.sha256(device_secret(KEYS, device, generation).encode()).hexdigest()[:16]


def confirmation(device: str, generation: Any, digest_: str | None = None, tenant: str = "acme") -> Message:
    """A device's confirmation, as the control plane gets it."""
    payload = {"generation": generation} | ({"digest": digest_} if digest_ else {})
    topic = f"fleet/v1/{tenant}/{device}/credential/confirm"
    delivery = Delivery(topic, json.dumps(payload).encode(), 1, cast(Connection, None), 1_800_000_000_000, None)
    return Message({"tenant": tenant, "device": device}, delivery)


async def confirm(registry: Registry, *messages: Message) -> None:
    """Let the control plane handle them."""
    await control.on_confirm(registry, messages)


async def to_deliver(registry: Registry, connected: Sequence[str] = (), again_s: float = 180) -> list[tuple[str, int]]:
    """(device, generation) of what would be sent now."""
    async with of_platform(registry.database) as connection:
        due = await credentials.to_deliver(connection, connected, again_s, 100)
    return sorted((secret.device, secret.generation) for _, secret in due)


async def test_a_first_secret_is_shown_once(api: Api, database: Database) -> None:
    await api.operator.post("devices", json={"id": "van-7"})
    answer = await api.operator.post("devices/van-7/credentials")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["username"], body["generation"], body["key_id"]) == ("van-7", 1, KEYS.newest)
    assert body["secret"] == device_secret(KEYS, "van-7", 1)
    assert body["topics"]["telemetry"] == "fleet/v1/acme/van-7/telemetry"
    assert (await api.operator.post("devices/van-7/credentials")).status_code == 409
    assert (await api.viewer.post("devices/van-7/credentials")).status_code == 403
    listed = await api.viewer.get("devices/van-7/credentials")
    assert body["secret"] not in listed.text
    (only,) = listed.json()["items"]
    assert (only["generation"], only["kind"], only["state"]) == (1, "secret", "active")
    assert database.value("SELECT verifier FROM registry.credential") == verifier(body["secret"])
    days = database.value("SELECT extract(day FROM rotates_at - issued_at)::int FROM registry.credential")
    assert days == 90


async def test_rotation_waits_for_the_devices_confirmation(api: Api, database: Database) -> None:
    await register(api, "van-7")
    answer = await rotate(api, "van-7")
    assert (answer["generation"], answer["state"], answer["secret"]) == (2, "delivered", None)
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "delivered")]
    assert database.value(
        "SELECT grace_until > now() + interval '29 days' FROM registry.credential WHERE generation = 1"
    )
    assert await to_deliver(api.registry) == [("van-7", 2)]
    assert (await rotate(api, "van-7"))["generation"] == 2, "one at a time"
    await confirm(api.registry, confirmation("van-7", 2, digest("van-7", 2)))
    assert database.rows(STATES, "van-7") == [(1, "replaced"), (2, "active")]
    assert database.value("SELECT count(*) FROM registry.credential WHERE grace_until IS NOT NULL") == 0
    assert await to_deliver(api.registry) == []
    (row,) = (await api.operator.get("audit?action=credential.confirm")).json()["items"]
    assert (row["actor"], row["object"], row["detail"]) == ("device:van-7", "device:van-7", {"generation": 2})


async def test_confirmations_come_twice_late_and_wrong(api: Api, database: Database) -> None:
    await register(api, "van-7")
    await rotate(api, "van-7")
    await confirm(
        api.registry, confirmation("van-7", 1), confirmation("van-7", 3), confirmation("van-7", 9_999_999_999)
    )
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "delivered")]
    await confirm(api.registry, confirmation("van-7", 2), confirmation("van-7", 2))
    await confirm(api.registry, confirmation("van-7", 2))
    await rotate(api, "van-7")
    await confirm(api.registry, confirmation("van-7", 2), confirmation("van-7", 1))
    assert database.rows(STATES, "van-7") == [(1, "replaced"), (2, "active"), (3, "delivered")]
    assert database.value("SELECT count(*) FROM registry.audit WHERE action = 'credential.confirm'") == 1


async def test_a_damaged_secret_is_not_switched_to(api: Api, database: Database) -> None:
    await register(api, "van-7", "van-8")
    await rotate(api, "van-7")
    await rotate(api, "van-8")
    await confirm(
        api.registry,
        confirmation("van-7", 2, digest("van-7", 3)),
        confirmation("van-8", 2, digest("van-8", 2)),
        confirmation("van-8", "two"),
    )
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "delivered")]
    assert database.rows(STATES, "van-8") == [(1, "replaced"), (2, "active")], "one bad message holds nobody up"
    kept = database.rows("SELECT device, reason FROM rejected.message ORDER BY device")
    assert kept == [("van-7", "bad_value"), ("van-8", "bad_value")]


async def test_nobody_confirms_for_a_device_of_another_tenant(api: Api, database: Database) -> None:
    await register(api, "van-7")
    await rotate(api, "van-7")
    await confirm(api.registry, confirmation("van-7", 2, tenant="other"), confirmation("van-99", 2))
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "delivered")]
    assert database.rows("SELECT reason FROM rejected.message ORDER BY 1") == [("unknown_device",), ("wrong_tenant",)]


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_order_one_secret_is_active(api: Api, database: Database, seed: int) -> None:
    """Rotations and confirmations of all generations at once: never none, never two, and only forward."""
    chance = random.Random(seed)
    await register(api, "van-7")
    newest = 1
    for _ in range(3):
        work = [rotate(api, "van-7", now=chance.random() < 0.3) for _ in range(2)]
        work += [confirm(api.registry, confirmation("van-7", chance.randint(1, newest + 2))) for _ in range(4)]  # type: ignore[misc]
        chance.shuffle(work)
        await asyncio.gather(*work)
        states = database.rows(STATES, "van-7")
        (active,) = [generation for generation, state in states if state == "active"]
        assert active >= newest
        newest = active
        delivered = [generation for generation, state in states if state == "delivered"]
        assert all(generation > active for generation in delivered)
        assert len(delivered) <= 1


async def test_at_once_for_a_person_at_the_device(api: Api, database: Database) -> None:
    await register(api, "van-7")
    await rotate(api, "van-7")
    answer = await rotate(api, "van-7", now=True)
    assert (answer["generation"], answer["state"]) == (3, "active")
    assert answer["secret"] == device_secret(KEYS, "van-7", 3)
    assert database.rows(STATES, "van-7") == [(1, "replaced"), (2, "replaced"), (3, "active")]
    await confirm(api.registry, confirmation("van-7", 2))
    assert database.rows(STATES, "van-7") == [(1, "replaced"), (2, "replaced"), (3, "active")]


async def test_a_device_that_stays_away_keeps_its_secret_until_the_grace_ends(api: Api, database: Database) -> None:
    """Fault 44: rotated while offline for 30 days: the old secret works until its window ends, then it claims again."""
    await register(api, "van-7")
    database.rows("UPDATE registry.credential SET rotates_at = now() - interval '1 second'")
    async with of_platform(api.registry.database) as connection:
        (rotated,) = await credentials.rotate_due(connection, KEYS, 90, 30, 100)
    assert (rotated.device, rotated.generation, rotated.state) == ("van-7", 2, "delivered")
    # 29 days and 23 hours later
    database.rows("UPDATE registry.credential SET grace_until = now() + interval '1 hour' WHERE generation = 1")
    async with of_platform(api.registry.database) as connection:
        assert await credentials.expire(connection, 100) == []
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "delivered")]
    # and two hours after that
    database.rows("UPDATE registry.credential SET grace_until = now() - interval '1 hour' WHERE generation = 1")
    async with of_platform(api.registry.database) as connection:
        assert await credentials.expire(connection, 100) == [("van-7", "acme", 1), ("van-7", "acme", 2)]
    assert database.rows(STATES, "van-7") == [(1, "expired"), (2, "expired")]
    await confirm(api.registry, confirmation("van-7", 2))
    assert database.rows(STATES, "van-7") == [(1, "expired"), (2, "expired")], "too late"
    refused = await api.operator.post("devices/van-7/credentials/rotate", json={})
    assert refused.status_code == 409
    # now a claim for it lets it in again, under the same id
    claim = (await api.operator.post("claims", json={"device": "van-7"})).json()
    asked = {"claim": claim["id"], "token": claim["token"], "serial": "SN-1"}
    reply = (await api.nobody.post("enrol", json=asked)).json()
    assert (reply["device"], reply["generation"]) == ("van-7", 3)
    assert reply["secret"] == device_secret(KEYS, "van-7", 3)


async def test_old_secrets_are_rotated_a_few_at_a_time(api: Api, database: Database) -> None:
    await register(api, *(f"van-{number}" for number in range(5)))
    database.rows("UPDATE registry.credential SET rotates_at = now() - interval '1 day' WHERE device <> 'van-4'")
    database.rows("UPDATE registry.device SET gateway = 'van-4' WHERE id = 'van-3'")
    database.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-2'")
    rounds = []
    for _ in range(3):
        async with of_platform(api.registry.database) as connection:
            rounds.append([s.device for s in await credentials.rotate_due(connection, KEYS, 90, 30, 1)])
    assert sorted(rounds) == [[], ["van-0"], ["van-1"]], "not those that are disabled or behind a gateway"


async def test_what_is_sent_to_whom(api: Api, database: Database) -> None:
    await register(api, "online", "offline", "silent", "disabled")
    for device in ("online", "offline", "silent", "disabled"):
        await rotate(api, device)
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state) VALUES ('online', 'acme', 'online'), ('offline', 'acme', 'offline')"
    )
    await api.operator.post("devices/disabled/disable")
    assert await to_deliver(api.registry) == [("online", 2), ("silent", 2)]
    async with of_platform(api.registry.database) as connection:
        due = [secret for _, secret in await credentials.to_deliver(connection, (), 180, 100)]
        await credentials.note_delivered(connection, due)
    assert await to_deliver(api.registry) == [], "not again and again"
    assert await to_deliver(api.registry, connected=["online"]) == [("online", 2)], "but to who has just connected"
    assert await to_deliver(api.registry, again_s=-1) == [("online", 2), ("silent", 2)], "and after a while"


async def test_a_child_of_a_gateway_has_no_secret(api: Api) -> None:
    await register(api, "pi-3")
    await api.operator.post("devices", json={"id": "sensor-1", "gateway": "pi-3"})
    for path, body in (("credentials", None), ("credentials/rotate", {}), ("credentials/rotate", {"now": True})):
        answer = await api.operator.post(f"devices/sensor-1/{path}", json=body)
        assert answer.status_code == 409, path
        assert "pi-3, which speaks for it" in answer.json()["detail"]


async def test_disabled_devices_get_nothing(api: Api) -> None:
    await register(api, "van-7")
    await api.operator.post("devices/van-7/disable")
    for path in ("credentials", "credentials/rotate"):
        answer = await api.operator.post(f"devices/van-7/{path}")
        assert answer.status_code == 409
        assert "disabled" in answer.json()["detail"]


async def test_revoking(api: Api, database: Database) -> None:
    await register(api, "van-7")
    await rotate(api, "van-7")
    answer = await api.operator.post("devices/van-7/credentials/revoke", json={"generation": 2})
    assert answer.json() == {"revoked": [{"generation": 2, "kind": "secret"}]}
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "revoked")]
    assert database.value("SELECT count(*) FROM registry.credential WHERE grace_until IS NOT NULL") == 0, "1 stays"
    await rotate(api, "van-7")
    answer = await api.operator.post("devices/van-7/credentials/revoke", json={"generation": 1})
    assert [one["generation"] for one in answer.json()["revoked"]] == [1, 3], "what was sent over it goes with it"
    assert (await api.operator.post("devices/van-7/credentials/revoke", json={"generation": 1})).status_code == 409
    assert (await api.operator.post("devices/van-7/credentials/revoke")).json() == {"revoked": []}
    assert (await api.operator.post("devices/van-7/credentials")).json()["generation"] == 4, "a new one can be issued"


async def test_credentials_of_another_tenant_do_not_exist(api: Api) -> None:
    await register(api, "van-7")
    assert (await api.other.get("devices/van-7/credentials")).status_code == 404
    for path in ("credentials", "credentials/rotate", "credentials/revoke"):
        assert (await api.other.post(f"devices/van-7/{path}")).status_code == 404


async def test_a_new_master_key_goes_out_even_while_an_old_secret_is_on_its_way(api: Api, database: Database) -> None:
    """What to do when a master key leaked: rotate everything, at once."""
    await register(api, "van-7")
    await rotate(api, "van-7")
    both = KeyRing(
        {"k2": b"another test's own master key, 32 bytes", "k1": b"a test's own master key, 32 bytes and more"}
    )
    async with of_tenant(api.registry.database, "acme") as connection:
        secret = await credentials.rotate(connection, both, "van-7", 90, 30)
    assert (secret.generation, secret.key_id, secret.of(both)) == (3, "k2", device_secret(both, "van-7", 3, "k2"))
    assert database.rows(STATES, "van-7") == [(1, "active"), (2, "replaced"), (3, "delivered")]


async def test_many_at_once(api: Api, database: Database) -> None:
    names = [f"van-{number}" for number in range(300)]
    database.rows("INSERT INTO registry.device (id, tenant) SELECT unnest(%s::text[]), 'acme'", names)
    async with of_tenant(api.registry.database, "acme") as connection:
        issued = await credentials.issue_many(connection, KEYS, [*names, "van-7", "nobody"], 90)
    assert {secret.device: secret.of(KEYS) for secret in issued} == {
        name: device_secret(KEYS, name, 1) for name in names
    }
    async with of_tenant(api.registry.database, "acme") as connection:
        assert await credentials.issue_many(connection, KEYS, names, 90) == [], "who has one keeps it"
    assert database.value("SELECT count(*) FROM registry.credential") == 300


async def test_use_is_noted(api: Api, database: Database) -> None:
    await register(api, "van-7", "van-8")
    database.rows(
        """INSERT INTO registry.presence (device, tenant, state, since)
           VALUES ('van-7', 'acme', 'online', '2100-01-01 12:00Z'), ('van-8', 'acme', 'online', '2026-01-01 12:00Z')"""
    )
    async with of_platform(api.registry.database) as connection:
        await credentials.note_use(connection, ["van-7", "van-8"])
    assert database.value("SELECT last_used_at IS NULL FROM registry.credential WHERE device = 'van-8'"), (
        "older than it"
    )
    (only,) = (await api.viewer.get("devices/van-7/credentials")).json()["items"]
    assert only["last_used_at"] == "2100-01-01T12:00:00.000Z"


async def test_nobody_is_shut_out_because_the_registry_was_away(database: Database, mosquitto: Mosquitto) -> None:
    """The grace ended while nothing ran: devices get their new secret first."""
    register_rows(database, "van-7")
    add = """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at, grace_until)
             VALUES ('van-7', %s, 'acme', 'secret', %s, 'k1', %s, now(), %s)"""
    ended = datetime.now(UTC) - timedelta(days=1)
    database.rows(add, 1, "active", verifier(device_secret(KEYS, "van-7", 1)), ended)
    database.rows(add, 2, "delivered", verifier(device_secret(KEYS, "van-7", 2)), None)
    topic = topics.CREDENTIAL.name(tenant="acme", device="van-7")
    async with control_plane(database, mosquitto.url), connected(mosquitto.url, "van-7", [topic]) as client:
        await Device(client, "van-7").status("online")
        await eventually(lambda: client.documents(topic))
        await client.publish(topics.CREDENTIAL_CONFIRM.name(tenant="acme", device="van-7"), {"generation": 2})
        await eventually(lambda: database.rows(STATES, "van-7") == [(1, "replaced"), (2, "active")])
