"""Commands: at most once, always ended, and held back by an emergency stop (fault 39)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from outrider.contract import topics
from outrider.device.control import Answer, Commands, Order
from outrider.runtime.errors import Transient
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import Client, connected
from outrider.testing.waiting import eventually
from outrider_registry import kinds, merge
from outrider_registry.context import Registry
from outrider_registry.control import commands
from outrider_registry.store import commands as store
from outrider_registry.store import stops
from outrider_registry.store.transactions import of_platform
from outrider_registry.testing import Api, running_api
from outrider_registry.testing.control import Device, control_plane, register

COMMANDS = "fleet/v1/acme/van-7/command/+"


@pytest.fixture
async def plane(database: Database, mosquitto: Mosquitto) -> AsyncIterator[Registry]:
    register(database, "van-7", "van-8")
    async with control_plane(database, mosquitto.url) as registry:
        yield registry


@pytest.fixture
async def fleet(plane: Registry) -> AsyncIterator[Api]:
    """The API over the registry whose leader leads."""
    async with running_api(plane) as api:
        yield api


@pytest.fixture
async def client(plane: Registry, mosquitto: Mosquitto) -> AsyncIterator[Client]:
    async with connected(mosquitto.url, "van-7", [COMMANDS]) as client:
        yield client


@pytest.fixture
def device(client: Client) -> Device:
    return Device(client, "van-7")


async def send(api: Api, name: str = "reboot", device: str = "van-7", **more: Any) -> str:
    answer = await api.operator.post(f"devices/{device}/commands", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def state(database: Database, id_: str) -> str:
    return str(database.value("SELECT state FROM registry.command WHERE id = %s", id_))


def row(database: Database, id_: str) -> dict[str, Any]:
    document: dict[str, Any] = database.value("SELECT to_jsonb(c) FROM registry.command c WHERE id = %s", id_)
    return document


# ------------------------------------------------------------------------------------------------ the way of a command
async def test_a_command_goes_out_at_once_and_comes_back_with_its_result(
    fleet: Api, database: Database, device: Device
) -> None:
    await device.status("online")
    id_ = await send(fleet, params={"delay_s": 5})
    (message,) = await eventually(lambda: device.commands("reboot"))
    assert (message["id"], message["params"]) == (id_, {"delay_s": 5})
    delivery = device.client.received[-1]
    assert delivery.properties is not None
    assert delivery.properties["response_topic"] == ["fleet/v1/acme/van-7/command/reboot/response"]
    assert delivery.properties["correlation_data"] == [uuid.UUID(id_).bytes]
    assert 1 <= delivery.properties["message_expiry_interval"][0] <= commands.IN_BROKER_MAX_S
    await eventually(lambda: state(database, id_) == "sent")
    for status in ("accepted", "running"):
        await device.answer("reboot", id_, status)
        await eventually(lambda status=status: state(database, id_) == status)  # type: ignore[misc]
    await device.answer("reboot", id_, "succeeded", {"boot": 12})
    await eventually(lambda: state(database, id_) == "succeeded")
    body = (await fleet.viewer.get(f"commands/{id_}")).json()
    assert body["result"] == {"boot": 12}
    assert body["sent_at"] <= body["accepted_at"] <= body["finished_at"]
    audit = database.rows(
        "SELECT actor, action FROM registry.audit WHERE object = %s ORDER BY number", f"command:{id_}"
    )
    assert audit == [("user:otto", "command.create"), ("device:van-7", "command.finish")]


async def test_a_command_waits_for_its_device(fleet: Api, database: Database, device: Device) -> None:
    await device.status("offline")
    id_ = await send(fleet)
    await commands.send_due(fleet.registry)
    assert (state(database, id_), device.commands("reboot")) == ("queued", [])
    await device.status("online")
    await eventually(lambda: state(database, id_) == "sent")
    await eventually(lambda: device.commands("reboot"))


async def test_a_device_that_does_not_listen_yet_gets_it_when_it_does(
    fleet: Api, database: Database, mosquitto: Mosquitto
) -> None:
    async with connected(mosquitto.url, "van-8") as silent:
        await Device(silent, "van-8").status("online")
        id_ = await send(fleet, device="van-8")
        await eventually(lambda: row(database, id_)["tried_at"])
        assert state(database, id_) == "queued", "nobody subscribed, so nobody has it"
        await silent.connection.subscribe(["fleet/v1/acme/van-8/command/+"])
        await eventually(lambda: state(database, id_) == "sent", commands.RETRY_UNHEARD_S + 20)


async def test_a_device_that_comes_back_without_having_answered_gets_it_again_and_knows_it(
    fleet: Api, database: Database, device: Device
) -> None:
    await device.status("online")
    id_ = await send(fleet)
    await eventually(lambda: len(device.commands("reboot")) == 1)
    await device.status("online")
    await eventually(lambda: len(device.commands("reboot")) == 2)
    await device.answer("reboot", id_, "accepted")
    await eventually(lambda: state(database, id_) == "accepted")
    await device.status("offline")
    await device.status("online")
    await commands.send_due(fleet.registry)
    assert [message["id"] for message in device.commands("reboot")] == [id_, id_], "accepted: not sent any more"


# ------------------------------------------------------------------------------------------------ fault 39
class Agent:
    """A device that keeps what it must over a power cut, and counts what it carries out."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.commands = Commands()
        self.carried_out: list[str] = []
        self.seen = 0

    def power_cut(self) -> list[Answer]:
        """Starts again with what it had on disk; the answers it gives then."""
        self.commands = Commands(json.loads(json.dumps(self.commands.kept())))
        return self.commands.interrupted()

    def work(self, *, until: str = "succeeded") -> list[Answer]:
        """Handle what has arrived; the answers, which may get lost."""
        answers = []
        for message in self.device.commands("reboot")[self.seen :]:
            self.seen += 1
            found = self.commands.receive("reboot", json.dumps(message).encode(), None)
            if isinstance(found, Order):
                self.carried_out.append(found.id)
                answers.append(self.commands.answer(found, "accepted"))
                if until == "succeeded":
                    answers.append(self.commands.answer(found, "succeeded"))
            elif found is not None:
                answers.append(found)
        return answers

    async def say(self, answers: list[Answer]) -> None:
        for answer in answers:
            topic = self.device.topic(topics.COMMAND_RESPONSE, name=answer.name)
            await self.device.client.publish(topic, answer.payload)


async def test_the_reply_is_lost_and_the_command_comes_twice_yet_is_carried_out_once(
    fleet: Api, database: Database, device: Device
) -> None:
    agent = Agent(device)
    await device.status("online")
    id_ = await send(fleet)
    await eventually(lambda: device.commands("reboot"))
    agent.work()  # every answer gets lost
    await device.status("online")
    await eventually(lambda: len(device.commands("reboot")) == 2)
    answers = agent.work()
    await agent.say(answers + answers)
    await eventually(lambda: state(database, id_) == "succeeded")
    assert agent.carried_out == [id_]


async def test_a_reboot_in_the_middle_ends_the_command_and_does_not_begin_it_again(
    fleet: Api, database: Database, device: Device
) -> None:
    agent = Agent(device)
    await device.status("online")
    id_ = await send(fleet)
    await eventually(lambda: device.commands("reboot"))
    agent.work(until="accepted")  # and the power goes before the answer does
    interrupted = agent.power_cut()
    await device.status("online", boot=2)
    await agent.say(interrupted)
    await eventually(lambda: state(database, id_) == "failed")
    await agent.say(agent.work())
    assert agent.carried_out == [id_]


async def test_what_was_never_sent_expires_and_what_was_not_answered_times_out(
    fleet: Api, database: Database, device: Device
) -> None:
    await device.status("online")
    unanswered = await send(fleet)
    begun = await send(fleet, timeout_s=1)
    await eventually(lambda: state(database, begun) == "sent" and state(database, unanswered) == "sent")
    await device.answer("reboot", begun, "accepted")
    database.rows("UPDATE registry.command SET expires_at = now() - interval '10 s' WHERE id = %s", unanswered)
    await eventually(lambda: state(database, begun) == "timed_out")
    await eventually(lambda: state(database, unanswered) == "timed_out")
    never = await send(fleet, device="van-8", expires_s=1)
    await eventually(lambda: state(database, never) == "expired")
    assert row(database, unanswered)["result"] == {"detail": "it was sent, and the device did not answer"}
    assert not database.rows("SELECT 1 FROM registry.command WHERE finished_at IS NULL")
    audit = database.rows(
        "SELECT actor, detail ->> 'state' FROM registry.audit WHERE action = 'command.finish' ORDER BY 2"
    )
    assert audit == [("registry", "expired"), ("registry", "timed_out"), ("registry", "timed_out")]


async def test_an_end_is_the_end_and_a_late_answer_is_kept_beside_it(
    fleet: Api, database: Database, device: Device
) -> None:
    await device.status("online")
    done = await send(fleet)
    late = await send(fleet)
    await eventually(lambda: state(database, done) == "sent" and state(database, late) == "sent")
    await device.answer("reboot", done, "failed", "broken")
    database.rows("UPDATE registry.command SET expires_at = now() - interval '10 s' WHERE id = %s", late)
    await eventually(lambda: state(database, late) == "timed_out")
    for status in ("accepted", "succeeded", "running"):
        await device.answer("reboot", done, status)
        await device.answer("reboot", late, status, status)
    await eventually(lambda: "late" in row(database, late)["result"])
    assert (state(database, done), row(database, done)["result"]) == ("failed", "broken")
    assert state(database, late) == "timed_out"
    assert row(database, late)["result"]["late"] == {"status": "succeeded", "result": "succeeded"}
    assert database.value("SELECT count(*) FROM registry.audit WHERE action = 'command.finish'") == 2


async def test_answers_in_the_wrong_order_only_go_forward(fleet: Api, database: Database, device: Device) -> None:
    await device.status("online")
    id_ = await send(fleet)
    await eventually(lambda: state(database, id_) == "sent")
    await device.answer("reboot", id_, "running")
    await device.answer("reboot", id_, "accepted")
    await eventually(lambda: state(database, id_) == "running")
    await device.answer("reboot", id_, "succeeded", 1)
    await device.answer("reboot", id_, "running")
    await eventually(lambda: state(database, id_) == "succeeded")


async def test_only_the_device_that_was_asked_may_answer(
    fleet: Api, database: Database, device: Device, client: Client
) -> None:
    await device.status("online")
    id_ = await send(fleet)
    await eventually(lambda: state(database, id_) == "sent")
    register(database, "foreign", tenant="third")
    await Device(client, "van-8").answer("reboot", id_, "succeeded")
    await Device(client, "foreign", "third").answer("reboot", id_, "succeeded")
    await Device(client, "van-7", "third").answer("reboot", id_, "succeeded")
    await device.answer("get-logs", id_, "succeeded")
    await device.answer("reboot", str(uuid.uuid4()), "succeeded")
    await device.answer("reboot", "no-uuid", "succeeded")
    await client.publish(device.topic(topics.COMMAND_RESPONSE, name="reboot"), {"id": id_, "status": "perfect"})
    await eventually(lambda: database.value("SELECT count(*) FROM rejected.message") == 7)
    assert state(database, id_) == "sent"
    reasons = dict(database.rows("SELECT reason, count(*) FROM rejected.message GROUP BY reason"))
    assert reasons == {"bad_value": 6, "wrong_tenant": 1}


async def test_a_standby_takes_over_and_goes_on_sending(database: Database, mosquitto: Mosquitto) -> None:
    register(database, "van-7")
    async with connected(mosquitto.url, "van-7", [COMMANDS]) as client:
        device = Device(client, "van-7")
        async with control_plane(database, mosquitto.url) as first, running_api(first) as api:
            await device.status("online")
            one = await send(api)
            await eventually(lambda: state(database, one) == "sent")
        two = str(
            database.value(
                "INSERT INTO registry.command (tenant, device, name, created_by, expires_at)"
                " VALUES ('acme', 'van-7', 'reboot', 'test', now() + interval '1 h') RETURNING id"
            )
        )
        await device.answer("reboot", one, "succeeded")  # nobody attends the slot: it waits in the broker
        async with control_plane(database, mosquitto.url):
            await eventually(lambda: state(database, two) == "sent")
            await eventually(lambda: state(database, one) == "succeeded")


# ------------------------------------------------------------------------------------------------ emergency stop
async def test_while_a_stop_stands_no_command_starts_and_after_it_what_waited_goes_out(
    fleet: Api, database: Database, device: Device
) -> None:
    await device.status("online")
    await eventually(lambda: database.rows("SELECT 1 FROM registry.presence WHERE state = 'online'"))
    assert (await fleet.operator.put("stop", json={"reason": "smoke"})).status_code == 200
    refused = await fleet.operator.post("devices/van-7/commands", json={"name": "reboot"})
    assert refused.status_code == 423
    assert "smoke" in refused.json()["detail"]
    waiting = str(
        database.value(
            "INSERT INTO registry.command (tenant, device, name, created_by, expires_at)"
            " VALUES ('acme', 'van-7', 'reboot', 'test', now() + interval '1 h') RETURNING id"
        )
    )
    assert await commands.send_due(fleet.registry) == 0
    assert (state(database, waiting), device.commands("reboot")) == ("queued", [])
    assert (await fleet.operator.delete("stop")).json()["stopped"] is False
    await eventually(lambda: state(database, waiting) == "sent")


async def test_once_a_stop_has_answered_no_further_command_starts(
    fleet: Api, database: Database, device: Device
) -> None:
    """Commands pour in while the stop is pressed: nothing reaches the device that was not sent before it answered."""
    await device.status("online")
    stopping = asyncio.Event()

    async def pour() -> int:
        number = 0
        while True:
            answer = await fleet.token.post("devices/van-7/commands", json={"name": "reboot"})
            if answer.status_code == 423:
                return number
            number += 1
            if number == 20:
                stopping.set()

    pouring = [asyncio.create_task(pour()) for _ in range(3)]
    await stopping.wait()
    assert (await fleet.operator.put("stop", json={"reason": "now"})).status_code == 200
    sent_by_then = database.value("SELECT count(*) FROM registry.command WHERE state <> 'queued'")
    await asyncio.gather(*pouring)
    for _ in range(5):
        assert await commands.send_due(fleet.registry) == 0
    assert database.value("SELECT count(*) FROM registry.command WHERE state <> 'queued'") == sent_by_then
    assert len({message["id"] for message in device.commands("reboot")}) == sent_by_then


async def test_a_stop_waits_for_what_is_being_sent(registry: Registry, database: Database) -> None:
    """The brake and the sender exclude each other, also in different replicas."""
    async with of_platform(registry.database) as sender:
        await stops.sending(sender)
        async with of_platform(registry.database) as stopper:
            await stopper.execute("SET LOCAL lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await stops.put(stopper, "*", "now", "test")
            await stopper.rollback()


class SlowPublisher:
    """Takes a command and does not say so until the test lets it."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def publish(self, topic: str, payload: bytes, **_: Any) -> None:
        self.taken.append(topic)
        self.begun.set()
        await self.let.wait()


async def test_a_stop_answers_only_when_what_was_on_its_way_is_sent(api: Api, database: Database) -> None:
    register(database, "van-7")
    database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-7', 'acme', 'online')")
    await send(api)
    publisher: Any = SlowPublisher()
    sending = asyncio.create_task(commands.send_due(dataclasses.replace(api.registry, publisher=publisher)))
    await publisher.begun.wait()
    await send(api)
    stopping = asyncio.create_task(api.operator.put("stop", json={"reason": "now"}))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'"
    await eventually(lambda: database.rows(waiting))
    assert not stopping.done()
    publisher.let.set()
    assert (await stopping).status_code == 200
    assert await sending == 1
    assert await commands.send_due(dataclasses.replace(api.registry, publisher=publisher)) == 0
    assert len(publisher.taken) == 1
    states = database.rows("SELECT state FROM registry.command ORDER BY created_at")
    assert states == [("sent",), ("queued",)]


async def test_a_replica_that_was_frozen_while_it_sent_sends_nothing_once_it_goes_on(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one took over and ended its sessions, so the brake was free and a stop was made."""
    register(database, "van-7")
    database.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-7', 'acme', 'online')")
    await send(api)
    monkeypatch.setattr(commands, "SEND_TIMEOUT_S", 0.3)
    due = store.due

    async def frozen(connection: psycopg.AsyncConnection, *limits: Any) -> list[store.Due]:
        found = await due(connection, *limits)
        with psycopg.connect(database.admin_url) as admin:  # as a stopped process does, nothing here goes on meanwhile
            admin.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            admin.execute("SELECT pg_advisory_xact_lock(%s)", (stops.LOCK,))
            admin.execute("INSERT INTO registry.emergency_stop VALUES ('*', 'now', 'test')")
            admin.execute("SELECT pg_sleep(0.4)")
        return found

    monkeypatch.setattr(store, "due", frozen)
    publisher: Any = SlowPublisher()
    publisher.let.set()
    with pytest.raises(Transient):
        await commands.send_due(dataclasses.replace(api.registry, publisher=publisher))
    assert publisher.taken == []


async def test_a_stop_of_the_platform_holds_every_tenant_and_only_its_administrators_make_one(
    api: Api, database: Database
) -> None:
    register(database, "van-7")
    assert (await api.admin.put("stop", json={"reason": "x", "everything": True})).status_code == 403
    assert (await api.viewer.put("stop", json={"reason": "x"})).status_code == 403
    assert (await api.platform.put("stop", json={"reason": "all", "everything": True})).status_code == 200
    body = (await api.viewer.get("stop")).json()
    assert (body["stopped"], body["everything"], body["reason"]) == (True, True, "all")
    assert (await api.other.get("stop")).json()["stopped"] is True
    assert (await api.operator.post("devices/van-7/commands", json={"name": "reboot"})).status_code == 423
    assert (await api.admin.delete("stop")).status_code == 404, "that one is not theirs"
    assert (await api.admin.delete("stop?everything=true")).status_code == 403
    assert (await api.platform.delete("stop?everything=true")).status_code == 200
    assert (await api.other.get("stop")).json() == {
        "stopped": False,
        "stops": [],
        "everything": None,
        "reason": None,
        "stopped_by": None,
        "stopped_at": None,
    }
    actions = database.rows("SELECT tenant, action, object FROM registry.audit ORDER BY number")
    assert actions == [("-", "stop.begin", "stop:*"), ("-", "stop.end", "stop:*")]


async def test_a_stop_of_one_tenant_is_not_another_s(api: Api, database: Database) -> None:
    register(database, "foreign", tenant="other")
    assert (await api.operator.put("stop", json={"reason": "smoke"})).json()["stopped"] is True
    assert (await api.operator.put("stop", json={"reason": "second"})).json()["reason"] == "smoke"
    assert (await api.other.get("stop")).json()["stopped"] is False
    assert (await api.other.post("devices/foreign/commands", json={"name": "reboot"})).status_code == 201
    assert (await api.other.delete("stop")).status_code == 404


# ------------------------------------------------------------------------------------------------ API
@pytest.mark.parametrize(
    ("name", "params", "why"),
    [
        ("reboot", {"delay_s": -1}, "delay_s"),
        ("reboot", {"delay": 1}, "delay"),
        ("reboot", {"delay_s": "5"}, "delay_s"),
        ("get-logs", {"lines": 0}, "lines"),
        ("get-logs", {"level": "loud"}, "level"),
        ("set-interval", {}, "interval_s"),
        ("set-interval", {"interval_s": 0}, "interval_s"),
        ("run-diagnostics", {"checks": "all"}, "checks"),
        ("honk", {"a": "x" * 9000}, "bytes"),
    ],
)
def test_parameters_of_known_commands_are_checked_and_the_refusal_says_what_is_allowed(
    name: str, params: dict[str, Any], why: str
) -> None:
    with pytest.raises(merge.NotAllowed, match=why):
        kinds.check(name, params)


def test_known_commands_and_any_other() -> None:
    assert kinds.check("reboot", {}) == {}
    assert kinds.check("reboot", {"delay_s": None}) == {}
    assert kinds.check("set-interval", {"interval_s": 10}) == {"interval_s": 10}
    assert kinds.check("honk", {"times": [1, None]}) == {"times": [1, None]}


async def test_commands_are_listed_and_canceled_and_belong_to_their_tenant(api: Api, database: Database) -> None:
    register(database, "van-7", "van-8")
    register(database, "van-off", status="disabled")
    ids = [await send(api, "honk") for _ in range(3)] + [await send(api, "honk", "van-8")]
    page = (await api.viewer.get("commands?limit=3")).json()
    assert [item["id"] for item in page["items"]] == ids[:0:-1]
    rest = (await api.viewer.get("commands", params={"cursor": page["next"]})).json()
    assert ([item["id"] for item in rest["items"]], rest["next"]) == (ids[:1], None)
    assert len((await api.viewer.get("devices/van-7/commands")).json()["items"]) == 3
    assert (await api.operator.post(f"commands/{ids[0]}/cancel")).json()["state"] == "canceled"
    assert (await api.operator.post(f"commands/{ids[0]}/cancel")).status_code == 200
    database.rows("UPDATE registry.command SET state = 'running' WHERE id = %s", ids[1])
    assert (await api.operator.post(f"commands/{ids[1]}/cancel")).status_code == 409
    listed = (await api.viewer.get("commands?state=canceled&state=running")).json()["items"]
    assert {item["id"] for item in listed} == set(ids[:2])
    for client, path in (
        (api.other, f"commands/{ids[0]}"),
        (api.other, "devices/van-7/commands"),
        (api.viewer, f"commands/{uuid.uuid4()}"),
    ):
        assert (await client.get(path)).status_code == 404
    assert (await api.other.post(f"commands/{ids[2]}/cancel")).status_code == 404
    assert (await api.viewer.post(f"commands/{ids[2]}/cancel")).status_code == 403
    assert (await api.operator.post("devices/van-off/commands", json={"name": "honk"})).status_code == 409
    assert (await api.other.post("devices/van-7/commands", json={"name": "honk"})).status_code == 404
    assert (await api.viewer.get("commands?cursor=WzFd")).status_code == 422


async def test_open_commands_of_a_device_are_bounded(api: Api, database: Database) -> None:
    register(database, "van-7")
    database.rows(
        "INSERT INTO registry.command (tenant, device, name, created_by, expires_at)"
        " SELECT 'acme', 'van-7', 'honk', 'test', now() + interval '1 h' FROM generate_series(1, 99)"
    )
    answers = await asyncio.gather(
        *(api.operator.post("devices/van-7/commands", json={"name": "honk"}) for _ in range(3))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
