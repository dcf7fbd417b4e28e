"""Everybody tries everything: each kind of account against each topic of the contract, allow and deny, on both series.

What is expected stands here, written out; it is not taken from `outrider.access.rights`. `-s` prints the table. Denied means
PUBACK 0x87, a refused SUBACK, or nothing delivered (fault 40).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from outrider.access import accounts, bootstrap, rights
from outrider.access.accounts import Client, Role
from outrider.access.dynsec import Dynsec
from outrider.contract import topics
from outrider.contract.topics import Topic
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto, ServerError, mosquitto
from outrider.testing.fixtures import unavailable

pytestmark = pytest.mark.servers

TOPICS: Mapping[str, Topic] = {name: value for name, value in vars(topics).items() if isinstance(value, Topic)}
RAW = {"TELEMETRY", "TELEMETRY_METRIC", "LOG", "EVENT"}
SAID_BY_DEVICES = RAW | {"STATUS", "SHADOW_REPORTED", "COMMAND_RESPONSE", "JOB_PROGRESS"}
TOLD_DEVICES = {"ACK", "SHADOW_DESIRED", "COMMAND", "JOB", "TRIP"}
SECRETS = {"CREDENTIAL", "CREDENTIAL_CONFIRM"}
CLAIMS = {"CLAIM", "CLAIM_REPLY"}
BUS = {"BUS_SAMPLES", "BUS_LOGS", "BUS_EVENTS", "BUS_REJECTED", "BUS_TRIPS"}
ATTENDED = {"ATTENDED"}
"""OWN is the slot of writer-timeseries, SIBLING that of writer-logs."""
ODD = {"%u telemetry", "%u ack"}
"""A device's topics with the name of an account that is none: what %u in a 2.0 acl_file makes of it."""
OF_DEVICES = SAID_BY_DEVICES | TOLD_DEVICES | SECRETS

# Whose topic: of the one who tries, of another device of the tenant, of another tenant's, of the one who tries but below
# another tenant, of a gateway's child, of another claim.
OWN, SIBLING, FOREIGN, MOVED, CHILD = "own", "sibling", "foreign", "moved", "child"
DEVICES = {
    OWN: ("acme", None),
    SIBLING: ("acme", "van-2"),
    FOREIGN: ("other", "bus-1"),
    MOVED: ("other", None),
    CHILD: ("acme", "node-1"),
}
OTHERS = {
    "$CONTROL/dynamic-security/v1": "$CONTROL",
    "$SYS/broker/uptime": "$SYS",
    "somewhere/else": "else",
}
Cell = tuple[str, str]
"""Topic's name in the contract (or a word for one that is not in it), whose."""


def cells(names: set[str], *whose: str) -> set[Cell]:
    return {(name, where) for name in names for where in whose}


EVERYONES = (OWN, SIBLING, FOREIGN, MOVED, CHILD)


@dataclass(frozen=True)
class Who:
    """An account, what it may send and what it gets."""

    username: str
    sends: set[Cell]
    receives: set[Cell]
    roles: tuple[str, ...] = ()
    shares: bool = False
    """May join ingest's group."""

    @property
    def door(self) -> str:
        return "service" if self.username.startswith("svc:") else "device"


def people_and_devices(old: bool) -> list[Who]:
    """Mosquitto 2.0 cannot tell tenants apart: there a device may act under its own name in any (ingest checks)."""
    own = (OWN, MOVED) if old else (OWN,)
    device = "device" if old else "tenant:acme"
    sends = cells(SAID_BY_DEVICES | {"CREDENTIAL_CONFIRM"}, *own)
    receives = cells(TOLD_DEVICES | {"CREDENTIAL"}, *own)
    read = cells(SAID_BY_DEVICES | TOLD_DEVICES, OWN, SIBLING, CHILD) | cells(ODD, OWN)
    return [
        Who("van-1", sends, receives, (device,)),
        Who(
            "gate-1",
            sends | cells(SAID_BY_DEVICES, CHILD),
            receives | cells(TOLD_DEVICES, CHILD),
            (device, "gateway:gate-1"),
        ),
        Who("shut-1", set(), set(), ("denied",)),
        Who("claim:c0ffee01", cells({"CLAIM"}, OWN), cells({"CLAIM_REPLY"}, OWN), ("claim:c0ffee01",)),
        Who("user:vera", set(), read, ("viewer:acme",)),
        Who("user:root", set(), cells(SAID_BY_DEVICES | TOLD_DEVICES, *EVERYONES) | cells(ODD, OWN), ("viewer:*",)),
    ]


ACK = cells({"ACK"}, *EVERYONES)
SERVICES = [
    Who(
        "svc:ingest",
        cells({"BUS_SAMPLES", "BUS_LOGS", "BUS_EVENTS"}, OWN) | cells(ATTENDED, OWN, SIBLING) | ACK,
        cells(RAW, *EVERYONES),
        shares=True,
    ),
    Who("svc:writer-timeseries", ACK, cells({"BUS_SAMPLES", "BUS_EVENTS", "ATTENDED"}, OWN)),
    Who("svc:writer-logs", ACK, cells({"BUS_LOGS"}, OWN) | cells(ATTENDED, SIBLING)),
    Who(
        "svc:trips",
        cells({"TRIP"}, *EVERYONES) | cells({"BUS_TRIPS"}, OWN),
        cells({"TRIP"}, *EVERYONES) | cells({"BUS_SAMPLES"}, OWN) | {("$SYS", OWN)},
    ),
    Who(
        "svc:lifecycle",
        cells(SAID_BY_DEVICES | {"CREDENTIAL_CONFIRM", "SHADOW_DESIRED", "TRIP", "JOB"}, *EVERYONES),
        cells(SAID_BY_DEVICES | TOLD_DEVICES, *EVERYONES),
    ),
    Who("svc:gateway", cells({"TELEMETRY", "LOG", "EVENT"}, *EVERYONES), ACK),
    Who(
        "svc:registry",
        cells(RAW | {"STATUS", "SHADOW_DESIRED", "COMMAND", "CREDENTIAL"}, *EVERYONES)
        | cells({"CLAIM_REPLY"}, OWN, SIBLING)
        | {("$CONTROL", OWN)},
        cells({"STATUS", "SHADOW_REPORTED", "SHADOW_DESIRED", "COMMAND_RESPONSE", "CREDENTIAL_CONFIRM"}, *EVERYONES)
        | cells({"CLAIM"}, OWN, SIBLING)
        | {("$SYS", OWN)},
    ),
    Who(
        "svc:tools",
        cells(RAW, *EVERYONES),
        cells(SAID_BY_DEVICES | TOLD_DEVICES, *EVERYONES) | cells(BUS, OWN) | {("$SYS", OWN)},
    ),
]
WIDE = ["#", "+/#", "fleet/#", "fleet/v1/#", "fleet/v1/+/+/+", "outrider/#", "$SYS/#", "$CONTROL/#"]
SHARED = ["$share/ingest/fleet/v1/+/+/telemetry/#", "$share/mine/fleet/#", "$share/mine/outrider/v1/samples/0"]


def targets(who: Who) -> dict[str, Cell]:
    """Every topic that is tried, with its cell."""
    user = "van-1" if ":" in who.username else who.username
    found: dict[str, Cell] = {}
    for name, topic in TOPICS.items():
        if name in OF_DEVICES:
            for where, (tenant, device) in DEVICES.items():
                # nobody's own where the account is no device's: van-1 stands for "some device of acme"
                found[topic.name(tenant=tenant, device=device or user, metric="rpm", name="reboot")] = (name, where)
        elif name in CLAIMS:
            found[topic.name(claim="c0ffee01")] = (name, OWN)
            found[topic.name(claim="c0ffee02")] = (name, SIBLING)
        elif name in ATTENDED:
            found[topic.name(group="writer-timeseries", slot=0)] = (name, OWN)
            found[topic.name(group="writer-logs", slot=0)] = (name, SIBLING)
        else:
            found[topic.name(shard=0)] = (name, OWN)
    if who.username.startswith(("claim:", "user:")):  # see ODD
        found[topics.TELEMETRY.name(tenant="acme", device=who.username)] = ("%u telemetry", OWN)
        found[topics.ACK.name(tenant="acme", device=who.username)] = ("%u ack", OWN)
    return found | {topic: (word, OWN) for topic, word in OTHERS.items()}


def test_the_table_knows_every_topic_of_the_contract() -> None:
    assert set(TOPICS) == OF_DEVICES | CLAIMS | BUS | ATTENDED


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    try:
        program = mosquitto.find(series=request.param)
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)
    folder: Path = tmp_path_factory.mktemp("broker")
    with Mosquitto(folder / "mosquitto", program=program, test_account=True) as running:
        asyncio.run(fill(running))
        yield running


def is_old(broker: Mosquitto) -> bool:
    return broker.version.startswith("2.0")


async def fill(broker: Mosquitto) -> None:
    dynsec = await Dynsec.open(broker.url_of("registry"))
    desired = await dynsec.read()
    for who in people_and_devices(is_old(broker)):
        for role in who.roles:
            acls = rights.gateway_role([("acme", "node-1")]) if role == "gateway:gate-1" else rights.role(role)
            desired.roles[role] = Role.of(role, acls)
        desired.clients[who.username] = Client(who.username, "x", roles=frozenset(who.roles), password="secret")
    assert await dynsec.apply(accounts.plan(desired, await dynsec.read())) == []
    await dynsec.close()


class Peer:
    """A connection that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.connection: Connection

    @classmethod
    async def open(cls, url: str, client_id: str, will: tuple[str, bytes, int, bool] | None = None) -> Peer:
        peer = cls()

        def keep(delivery: Delivery) -> None:
            peer.received.append((delivery.topic, delivery.payload))
            delivery.connection.ack([delivery.packet_id])

        peer.connection = await Connection.open(
            url, client_id, keep, clean_start=True, session_expiry_s=0, receive_maximum=1000, will=will
        )
        return peer

    async def flush(self) -> None:
        """What the broker had for this connection has come: it answers in order."""
        with suppress(Transient):  # refused or not: it is an answer
            await self.connection.unsubscribe(["no/such/filter"])


def url_of(broker: Mosquitto, who: Who) -> str:
    if who.door == "service":
        return broker.url_of(who.username.removeprefix("svc:"))
    return f"mqtt://{who.username.replace(':', '%3A')}:secret@127.0.0.1:{broker.device_port}"


async def everybody(broker: Mosquitto) -> AsyncIterator[tuple[Who, str]]:
    for who in (*people_and_devices(is_old(broker)), *SERVICES):
        yield who, url_of(broker, who)


async def test_publishing_plain_retained_and_as_a_will(broker: Mosquitto) -> None:
    """What arrives at somebody who sees everything is exactly what may be sent."""
    wrong: list[str] = []
    async for who, url in everybody(broker):
        watcher = await Peer.open(broker.url, "test:watcher")
        await watcher.connection.subscribe(["#"])
        await watcher.flush()
        watcher.received.clear()
        tried = targets(who)
        allowed = {topic for topic, cell in tried.items() if cell in who.sends}
        accepted = set()
        for topic in tried:
            # A connection each: 2.0.21 counts refused messages as in flight for ever, and ends it at the second one.
            peer = await Peer.open(url, "any")
            try:
                # What must not be is tried retained, which would outlive the attempt.
                await publish(peer, topic, b"sent", retain=topic not in allowed)
                accepted.add(topic)
            except Transient as error:
                if "not authorized" not in str(error):
                    wrong.append(f"{who.username} on {topic}: {error}")
            await peer.connection.close(end_session=True)
        wrong += [f"{who.username} may publish {topic}" for topic in sorted(accepted - allowed)]
        wrong += [f"{who.username} may not publish {topic}" for topic in sorted(allowed - accepted)]
        for topic in sorted(tried, key=lambda topic: topic in allowed):  # what may be comes last
            try:
                peer = await Peer.open(url, "any", (topic, b"will", 1, topic not in allowed))
            except Transient:
                continue  # refused with its will
            peer.connection.abort()
        sentinel = await Peer.open(broker.url, "test:sentinel", ("sentinel/x", b"will", 1, False))
        sentinel.connection.abort()
        async with asyncio.timeout(10):
            while ("sentinel/x", b"will") not in watcher.received:
                await asyncio.sleep(0.01)
        seen = {(topic, payload) for topic, payload in watcher.received if topic != "sentinel/x"}
        plain = {topic for topic in allowed if not topic.startswith("$")}
        for payload in (b"sent", b"will"):
            got = {topic for topic, body in seen if body == payload}
            wrong += [f"{payload!r} of {who.username} was delivered on {topic}" for topic in sorted(got - plain)]
            wrong += [f"{payload!r} of {who.username} did not come on {topic}" for topic in sorted(plain - got)]
        await watcher.connection.close(end_session=True)
    assert wrong == []


async def test_subscribing_and_receiving_live_and_retained(broker: Mosquitto) -> None:
    """However somebody subscribes, what comes is exactly what is meant for them."""
    wrong: list[str] = []
    tester = await Peer.open(broker.url, "test:tester")
    rows: list[tuple[str, dict[str, Cell], set[str], set[str]]] = []
    async for who, url in everybody(broker):
        tried = targets(who)
        published = [topic for topic in tried if not topic.startswith("$")]
        for topic in published:
            await publish(tester, topic, b"retained", retain=True)
        allowed = {topic for topic, cell in tried.items() if cell in who.receives}
        peer = await Peer.open(url, "any")
        for topic_filter in [*tried, *WIDE, *SHARED, *(topics.share("ingest", raw) for raw in topics.RAW_FILTERS)]:
            try:
                await peer.connection.subscribe([topic_filter])
                granted = True
            except Transient as error:
                granted = False
                if "not authorized" not in str(error):
                    wrong.append(f"{who.username} on {topic_filter}: {error}")
            if topic_filter.startswith("$share/") and granted != (
                who.shares and topic_filter.startswith("$share/ingest/")
            ):
                wrong.append(f"{who.username} joins {topic_filter}: {granted}")
            if topic_filter == "fleet/#" and who.username.startswith("user:") and not granted:
                wrong.append(f"{who.username} cannot subscribe to fleet/#")
        for topic in published:
            await publish(tester, topic, b"live")
        await peer.flush()
        got = {topic for topic, _ in peer.received if topic in tried}
        beyond = {topic for topic, _ in peer.received if topic not in tried and not topic.startswith("$SYS/")}
        if not who.username.startswith("svc:"):
            beyond |= {topic for topic, _ in peer.received if topic.startswith("$")}
        expected = {topic for topic in allowed if not topic.startswith("$SYS")} | (got & allowed)
        wrong += [f"{who.username} received {topic}" for topic in sorted(got - expected | beyond)]
        wrong += [f"{who.username} did not receive {topic}" for topic in sorted(expected - got)]
        if not who.shares:  # shared subscriptions get no retained messages
            kept = {topic for topic, payload in peer.received if payload == b"retained" and topic in tried}
            wrong += [
                f"{who.username} did not get {topic} retained" for topic in sorted(expected - kept) if topic[0] != "$"
            ]
        await peer.connection.close(end_session=True)
        for topic in published:
            await publish(tester, topic, b"", retain=True)
        rows.append((who.username, tried, {t for t, cell in tried.items() if cell in who.sends}, got))
    await tester.connection.close(end_session=True)
    show(broker, rows)
    assert wrong == []


async def test_no_client_id_is_taken_over_through_the_devices_door(broker: Mosquitto) -> None:
    slot = await Peer.open(broker.url_of("ingest"), "svc:ingest:0")
    sibling = await Peer.open(f"mqtt://gate-1:secret@127.0.0.1:{broker.device_port}", "gate-1")
    for who in people_and_devices(is_old(broker)):
        if who.username == "gate-1":
            continue
        for client_id in ("svc:ingest:0", "gate-1"):
            await (await Peer.open(url_of(broker, who), client_id)).connection.close(end_session=True)
    await slot.flush()
    await sibling.flush()
    assert not slot.connection.closed.is_set()
    assert not sibling.connection.closed.is_set()
    await slot.connection.close()
    await sibling.connection.close()


async def publish(peer: Peer, topic: str, payload: bytes, *, retain: bool = False) -> None:
    with suppress(NotStored):  # nobody listens, but it was allowed
        await peer.connection.publish(topic, payload, retain=retain)


def show(broker: Mosquitto, rows: list[tuple[str, dict[str, Cell], set[str], set[str]]]) -> None:
    """A table of who may send (s) and receives (r) what."""
    print(f"\nMosquitto {broker.version}: s sends, r receives, · neither")
    whole = sorted({cell for _, tried, _, _ in rows for cell in tried.values()}, key=lambda cell: (cell[0], cell[1]))
    names = [name.removeprefix("svc:") for name, *_ in rows]
    print(f"{'topic':32}" + "".join(f"{name[:12]:>13}" for name in names))
    for cell in whole:
        marks = []
        for _, tried, sends, gets in rows:
            of_cell = {topic for topic, its in tried.items() if its == cell}
            mark = ("s" if of_cell & sends else "") + ("r" if of_cell & gets else "")
            marks.append("" if not of_cell else mark or "·")
        print(f"{cell[0].lower() + ', ' + cell[1]:32}" + "".join(f"{mark:>13}" for mark in marks))


def test_no_service_is_missing_in_the_table(broker: Mosquitto) -> None:
    assert {who.username for who in SERVICES} == {bootstrap.username_of(service) for service in rights.SERVICES}
