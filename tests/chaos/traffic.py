"""The vocabulary of the timelines: messages beside those of the fleet, and consumers that misbehave."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

import orjson

from outrider.contract import topics
from outrider.contract.batch import BatchNumber, Header, Sample, Samples, encode_samples
from outrider.device.acks import parse_ack
from outrider.runtime.errors import ConnectionLost, Transient
from outrider.runtime.mqtt import Connection, Delivery
from tests.chaos.book import Entry
from tests.chaos.devices import TENANT, Device, Load, new_boot
from tests.chaos.stage import Stage
from tests.chaos.timeline import Action
from tests.identities import login

STALLED = "svc:stalled:0"
DROPPED = "$SYS/broker/publish/messages/dropped"
FLOOD_CONNECTIONS = 4
FLOOD_WINDOW = 20
POISONED = "poisoned"
POISONED_SLOT = 9_999
"""No ingest slot has this number, so nobody's depth is wrong by these batches."""
MESSAGE_ROWS = 10
FILES_BESIDE = 1_000
"""Open files of the harness, and of the broker, beside those of a crowd."""


@dataclass(frozen=True)
class Poison:
    """A sample of a bus batch that no ledger can hold, and the reason that must be named; `ts` 0: a good time."""

    kind: str
    value: object
    reason: str
    ts: int = 0


POISONS = (
    Poison("string", "NUL \0", "bad_value"),
    Poison("number", None, "bad_value"),  # what JSON has for NaN and the infinities
    Poison("number", "twelve", "bad_value"),
    Poison("number", 1.0, "clock_invalid", ts=31_494_784_780_800_000),  # the year 999999
    Poison("json", {"a": "NUL \0"}, "bad_value"),
)


def clone_cards(count: int) -> Action:
    """Somebody publishes under boot and seq of messages that are stored already, with other values: all conflicts."""

    async def run(stage: Stage) -> None:
        stored = [d.newest_acked for d in stage.fleet.devices if type(d) is Device and d.newest_acked is not None]
        chosen = stage.random.sample(stored, min(count, len(stored)))
        assert chosen, "nothing is stored yet that could be cloned"
        connection = await stage.client("clone")
        try:
            for entry in chosen:
                assert entry.ts is not None
                clone = {"boot": entry.boot, "seq": entry.seq, "ts": entry.ts + 1, "m0": 1e15 + entry.number}
                topic = topics.TELEMETRY.name(tenant=TENANT, device=entry.device)
                await connection.publish(topic, orjson.dumps(clone))
                stage.counts["card cloned"] += 1
                await stage.eventually(
                    "SELECT count(*) FROM rejected.message WHERE reason = 'conflict' "
                    f"AND (device, boot, seq) = ('{entry.device}', {entry.boot}, {entry.seq})",
                    1,
                    20,
                )
        finally:
            await connection.close(end_session=True)

    return Action(f"{count} cloned cards", run)


def flood(count: int) -> Action:
    """Undecodable messages in a row, unnumbered; every one must be kept, and good messages flow on meanwhile.

    For scenarios that leave the broker alone.
    """

    async def run(stage: Stage) -> None:
        began_s = time.monotonic()
        # A device of its own, whose quota holds them all, and a tenant of its own, which the checker need not read.
        device = f"flood-{stage.random.getrandbits(32)}"
        await stage.register("flood", [device])
        served = asyncio.create_task(_until_served(stage, began_s))
        payloads = (f"no JSON {n}".encode() for n in range(count))
        await _publish_all(stage, topics.TELEMETRY.name(tenant="flood", device=device), payloads)
        stage.counts["undecodable"] += count
        await stage.eventually(
            "SELECT count(DISTINCT digest) FROM rejected.message WHERE reason = 'not_json' "
            f"AND (tenant, device) = ('flood', '{device}')",
            count,
            60 + count / 1_000,
        )
        stage.note_worst(f"{count:,} undecodable messages kept", time.monotonic() - began_s)
        stage.note_worst(f"every device served during {count:,} undecodable messages", await served)

    return Action(f"{count:,} undecodable messages in a row", run)


def flood_past_quota(count: int, room: int) -> Action:
    """Undecodable messages of a device whose quota holds only `room` more: those are kept, and the rest is counted."""

    async def run(stage: Stage) -> None:
        device = f"flood-{stage.random.getrandbits(32)}"
        await stage.register("flood", [device])
        counted = "SELECT coalesce(sum(messages), 0)::bigint FROM rejected.overflow WHERE reason = 'not_json'"
        ((before,),) = await stage.admin(counted)
        assert isinstance(before, int)
        await stage.admin(
            "INSERT INTO rejected.usage (tenant, device, messages, bytes) "
            f"SELECT 'flood', '{device}', device_messages - {room}, 0 FROM rejected.quota"
        )
        try:
            payloads = (f"no JSON {n}".encode() for n in range(count))
            await _publish_all(stage, topics.TELEMETRY.name(tenant="flood", device=device), payloads)
            await stage.eventually(counted, before + count - room, 30)
            kept = f"SELECT count(*) FROM rejected.message WHERE (tenant, device) = ('flood', '{device}')"
            await stage.eventually(kept, room, 10)
            ((messages,),) = await stage.admin(kept)
            assert messages == room, f"{messages} messages kept where the quota holds {room}"
        finally:
            # or what is only said to be there would count towards the quota of everyone
            await stage.admin(f"DELETE FROM rejected.usage WHERE (tenant, device) = ('flood', '{device}')")
        stage.counts["rejection past the quota"] += count - room

    return Action(f"{count:,} undecodable messages where the quota holds {room:,}", run)


def deep_topic(levels: int) -> Action:
    """A topic of so many levels; the broker closes that connection, and no other."""

    async def run(stage: Stage) -> None:
        connection = await stage.client("deep")
        try:
            with suppress(ConnectionLost):
                await connection.publish(topics.TELEMETRY.name(tenant=TENANT, device="deep") + "/a" * levels, b"1")
            assert connection.closed.is_set(), "the broker took it"
        finally:
            await connection.close(end_session=True)
        stage.counts["topic too deep"] += 1

    return Action(f"a topic of {levels:,} levels", run)


def long_topic(chars: int) -> Action:
    """A topic with a level of so many characters: a device may not publish there, and what comes there all the same is kept."""

    async def run(stage: Stage) -> None:
        device = f"long-{stage.random.getrandbits(32)}"
        (secret,) = (await stage.register(TENANT, [device])).values()
        own = topics.TELEMETRY.name(tenant=TENANT, device=device)
        topic = f"{own}/{'a' * (chars - len(own) - 3)}/b"
        url, refusal = login(stage.platform.state.device_mqtt_url, device, secret), ""
        own_connection = await stage.client(device, url=url, timeout_s=60)
        try:
            await own_connection.publish(topic, b'{"m0":1}')
        except Transient as error:
            refusal = str(error)
        finally:
            await own_connection.close(end_session=True)
        assert "not authorized" in refusal, f"the broker let a device publish beside its own topics {refusal}"
        connection = await stage.client("long-topic")
        try:
            await connection.publish(topic, b'{"m0":1}')
        finally:
            await connection.close(end_session=True)
        kept = f"SELECT count(*) FROM rejected.message WHERE device = '{device}' AND reason = 'bad_name'"
        await stage.eventually(kept, 1, 20)
        stage.counts["topic too long"] += 1

    return Action(f"a topic level of {chars:,} characters", run)


async def _until_served(stage: Stage, since_s: float) -> float:
    while not stage.fleet.served_since(since_s):
        await asyncio.sleep(0.05)
    return time.monotonic() - since_s


async def _publish_all(stage: Stage, topic: str, payloads: Iterator[bytes]) -> None:
    async def work(connection: Connection) -> None:
        for payload in payloads:
            await connection.publish(topic, payload)

    flood = f"flood-{stage.random.getrandbits(32)}"  # two floods at once are two clients
    connections = [await stage.client(f"{flood}-{n}") for n in range(FLOOD_CONNECTIONS)]
    try:
        await asyncio.gather(*(work(connection) for connection in connections for _ in range(FLOOD_WINDOW)))
    finally:
        for connection in connections:
            await connection.close(end_session=True)


def poison_bus(count: int) -> Action:
    """Batches on the bus that no writer can read, among good ones; each is isolated and kept."""

    async def run(stage: Stage) -> None:
        connection = await stage.client("poison")
        run_id = stage.random.getrandbits(32)
        try:
            for number in range(count):
                topic = topics.BUS_SAMPLES.name(shard=number % 4)
                await connection.publish(topic, f"poison {run_id} {number}".encode())
        finally:
            await connection.close(end_session=True)
        stage.counts["poison"] += count
        await stage.eventually(
            "SELECT count(DISTINCT digest) FROM rejected.message WHERE reason = 'unknown_format' "
            f"AND position('poison {run_id} '::bytea IN payload) = 1",
            count,
            30,
        )

    return Action(f"{count} poisoned bus batches", run)


def poison_row(rows: int) -> Action:
    """For each kind of poison a bus batch of so many good rows with one that cannot be stored among them.

    The messages of the batch stand in the book, so the checker judges them. For scenarios that leave the broker alone.
    """

    async def run(stage: Stage) -> None:
        entries: dict[tuple[int, int], Entry] = {}
        connection = await stage.client(POISONED, on_delivery=lambda delivery: _note_ack(entries, delivery))
        ((slots,),) = await stage.admin("SELECT count(*) FROM runtime.slot WHERE group_name = 'writer-timeseries'")
        shard = topics.shard_of(POISONED, slots)
        began_ms = time.time_ns() // 1_000_000 - 60_000
        try:
            await connection.subscribe([topics.ACK.name(tenant=TENANT, device=POISONED)], qos=0)
            for turn, poison in enumerate(POISONS):
                payload = _poisoned_batch(stage, poison, rows, began_ms + turn * rows, entries)
                await connection.publish(topics.BUS_SAMPLES.name(shard=shard), payload)
                stage.counts["poison row"] += 1
            deadline = time.monotonic() + 30
            while not all(entry.acked for entry in entries.values()):
                assert time.monotonic() < deadline, "a batch with a poison row is not acknowledged"
                await asyncio.sleep(0.05)
        finally:
            await connection.close(end_session=True)

    return Action(f"one poison row of each kind in a batch of {rows:,}", run)


def _poisoned_batch(
    stage: Stage, poison: Poison, rows: int, first_ms: int, entries: dict[tuple[int, int], Entry]
) -> bytes:
    """The batch that ingest would make of `rows` / `MESSAGE_ROWS` messages; they are written down in the book."""
    book, boot, now_ms = stage.fleet.book, new_boot(), time.time_ns() // 1_000_000
    messages: list[tuple[Header, Samples]] = []
    bad = stage.random.randint(1, rows // MESSAGE_ROWS)
    for seq in range(1, rows // MESSAGE_ROWS + 1):
        ts = first_ms + seq
        entry = book.add(POISONED, "telemetry", boot, seq, MESSAGE_ROWS, ts=ts)
        entries[boot, seq] = entry
        samples: list[Sample] = [(f"m{i}", "number", ts, entry.number) for i in range(MESSAGE_ROWS)]
        if seq == bad:
            entry.refusals, entry.rows_if_refused = frozenset({poison.reason}), MESSAGE_ROWS
            samples.insert(MESSAGE_ROWS // 2, ("x", poison.kind, poison.ts or ts, poison.value))  # type: ignore[arg-type]
        messages.append((Header(TENANT, POISONED, "telemetry", boot, seq, now_ms), Samples.of(samples)))
    return encode_samples(BatchNumber(POISONED_SLOT, boot, 1), messages)


def _note_ack(entries: dict[tuple[int, int], Entry], delivery: Delivery) -> None:
    ack = parse_ack(delivery.payload)
    if ack is None:
        return
    for seq, reason in ack.rejected:
        if entry := entries.get((ack.boot, seq)):
            entry.named = (reason,)
    for first, last in ack.seq:
        for seq in range(first, last + 1):
            if entry := entries.get((ack.boot, seq)):
                entry.acked = True


def crowd(count: int) -> Action:
    """So many more devices, each with one message, lose their connections at once and come back at once."""

    async def run(stage: Stage) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert files >= count + FILES_BESIDE, (
            f"{files} files may be open; `ulimit -n {count + FILES_BESIDE}` allows more"
        )
        book, url = stage.fleet.book, stage.platform.state.device_mqtt_url
        registering_s = time.monotonic()
        secrets = await stage.register(TENANT, [f"crowd-{n}" for n in range(count)])
        devices = [
            Device(name, book, Load(1, 1), Random(number), partial(login, url, name, secret))
            for number, (name, secret) in enumerate(secrets.items())
        ]
        running = [asyncio.create_task(device.run(), name=device.name) for device in devices]
        try:
            await _until_all(devices, lambda device: device.connected, 30 + count / 50)
            stage.note_worst(f"{count:,} devices registered and online", time.monotonic() - registering_s)
            began_s = time.monotonic()
            for device in devices:
                device.produce()
                device.reconnect()
            stage.counts["device of a crowd reconnected"] += count
            await _until_all(devices, lambda d: d.last_online_s > began_s and d.settled, 30 + count / 50)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.gather(*(device.close() for device in devices))
        online_s = sorted(device.last_online_s - began_s for device in devices)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("last", 1.0)):
            stage.note_worst(f"{count:,} devices back online, {name}", online_s[int(share * (count - 1))])

    return Action(f"{count:,} more devices reconnect at once", run)


async def _until_all(devices: Sequence[Device], is_well: Callable[[Device], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(map(is_well, devices)):
        missing = sum(not is_well(device) for device in devices)
        assert time.monotonic() < deadline, f"{missing} of {len(devices)} devices are missing after {timeout_s:.0f} s"
        await asyncio.sleep(0.1)


def stalled_group(for_s: float) -> Action:
    """One more consumer group takes one batch and never acknowledges it."""

    async def run(stage: Stage) -> None:
        connection = await stage.client(STALLED, clean_start=False, session_expiry_s=3600, receive_maximum=1)
        stage.counts["group stalled"] += 1
        try:
            await connection.subscribe([topics.BUS_SAMPLES.filter()])
            await asyncio.sleep(for_s)
            await connection.unsubscribe([topics.BUS_SAMPLES.filter()])
        finally:
            await connection.close(end_session=True)

    return Action(f"a consumer group that stalls for {for_s:g} s", run)


def limit_queues(messages: int, for_s: float, service: str) -> Action:
    """A service is away while the broker keeps at most so many messages for it and drops the rest, with success."""

    async def run(stage: Stage) -> None:
        usual = stage.broker_configuration()
        async with stage.without("mosquitto"):
            stage.configure_broker(usual + f"max_queued_messages {messages}\nsys_interval 1\n")
        try:
            async with stage.without(service):
                await asyncio.sleep(for_s)
                stage.counts["dropped by the broker"] += await _dropped(stage)
        finally:
            stage.configure_broker(usual)
            async with stage.without("mosquitto"):
                pass

    return Action(f"{service} away for {for_s:g} s with {messages} queued messages at most", run)


async def _dropped(stage: Stage) -> int:
    """What the broker says it dropped; an AssertionError if that is nothing."""
    told: list[int] = []
    connection = await stage.client("dropped", on_delivery=lambda delivery: told.append(int(delivery.payload)))
    try:
        await connection.subscribe([DROPPED], qos=0)
        deadline = time.monotonic() + 5
        while not (told and told[-1]) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
    finally:
        await connection.close(end_session=True)
    assert told, f"the broker does not tell {DROPPED}"
    assert told[-1], "the broker dropped nothing, so its counter cannot alert"
    return told[-1]
