"""The vocabulary of the timelines: what can be done to processes, servers, network and devices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import orjson
import psycopg

from outrider.contract import topics
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from tests.chaos.devices import KEEPALIVE_S, TENANT, Device
from tests.chaos.stage import Stage
from tests.chaos.timeline import Action

STALLED = "svc:stalled:0"
DROPPED = "$SYS/broker/publish/messages/dropped"


def kill(service: str) -> Action:
    """kill -9 of a process of a service, or of `mosquitto` or `postgres`."""
    return Action(f"kill -9 {service}", lambda stage: stage.kill(service))


def freeze(service: str, for_s: float) -> Action:
    """SIGSTOP, and SIGCONT later."""
    return Action(f"freeze {service} for {for_s:g} s", lambda stage: stage.freeze(service, for_s))


def restart(service: str) -> Action:
    """Graceful stop and start."""
    return Action(f"restart {service}", lambda stage: stage.restart(service))


def scale(service: str, count: int) -> Action:
    """So many processes of a service."""
    return Action(f"scale {service} to {count}", lambda stage: stage.scale(service, count))


def stop(server: str, for_s: float) -> Action:
    """Graceful stop of a server for a while."""

    async def run(stage: Stage) -> None:
        async with stage.without(server):
            await asyncio.sleep(for_s)

    return Action(f"stop {server} for {for_s:g} s", run)


def wipe_broker() -> Action:
    """The broker restarts and has forgotten every session, queue and retained message."""

    async def run(stage: Stage) -> None:
        async with stage.without("mosquitto"):
            stage.forget_sessions()

    return Action("restart mosquitto with an empty persistence folder", run)


def read_only(for_s: float) -> Action:
    """PostgreSQL takes no writes."""

    async def run(stage: Stage) -> None:
        stage.counts["read-only"] += 1
        await stage.admin("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(for_s)
            refuses = await asyncio.to_thread(_is_read_only, stage.admin_url)
            assert refuses, "PostgreSQL went on taking writes"
        finally:
            await stage.admin("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")

    return Action(f"PostgreSQL read-only for {for_s:g} s", run)


def _is_read_only(url: str) -> bool:
    with psycopg.connect(url, connect_timeout=5) as connection:
        return connection.execute("SHOW transaction_read_only").fetchone() == ("on",)


FILL = """
INSERT INTO telemetry.sample (series_id, ts, value)
SELECT s.id, now() - interval '1 second' * n / 1000, 0 FROM
    (SELECT id FROM telemetry.series WHERE tenant = 'filler') s, generate_series(1, 600000) n ON CONFLICT DO NOTHING
"""


def fill_disk(for_s: float) -> Action:
    """PostgreSQL cannot extend its tables: see `Stage.full_disk`."""

    async def run(stage: Stage) -> None:
        await stage.admin(
            "INSERT INTO telemetry.series (tenant, device, metric, kind) "
            "VALUES ('filler', 'filler', 'm', 'number') ON CONFLICT DO NOTHING",
            FILL,
        )
        with stage.full_disk():
            await asyncio.sleep(for_s)
        log = (stage.platform.data_dir / "logs" / "postgres.log").read_text(errors="replace")
        assert "could not extend file" in log, "PostgreSQL met no full disk"

    return Action(f"disk of PostgreSQL full for {for_s:g} s", run)


def end_sessions(service: str) -> Action:
    """PostgreSQL ends the sessions of a service, whatever they are doing."""
    query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '{service}/%'"

    async def run(stage: Stage) -> None:
        ((ended,),) = await stage.admin(query)
        assert isinstance(ended, int)
        assert ended, f"{service} had no database session"
        stage.counts["database session ended"] += ended

    return Action(f"end the database sessions of {service}", run)


def lose_commit_replies(service: str, times: int) -> Action:
    """The next commits of a service succeed, and its connection dies before the reply."""

    async def run(stage: Stage) -> None:
        proxy = await stage.reply_proxy(service)
        before = proxy.swallowed
        proxy.lose_reply_to(b"COMMIT\0", times)
        deadline = time.monotonic() + 20
        while proxy.swallowed - before < times and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        stage.counts["commit reply lost"] += proxy.swallowed - before
        assert proxy.swallowed - before == times, f"only {proxy.swallowed - before} replies were lost"

    return Action(f"lose the replies to {times} commits of {service}", run)


def cut(share: float = 1.0) -> Action:
    """Device connections are reset, all at once."""

    async def run(stage: Stage) -> None:
        stage.counts["connections cut"] += stage.fleet.network.cut(share)

    return Action(f"cut {share:.0%} of the device connections", run)


def reconnect_all() -> Action:
    """All devices lose their connections at once; how long until the last is back is `everyone back online`."""

    async def run(stage: Stage) -> None:
        began_s = time.monotonic()
        stage.counts["connections cut"] += stage.fleet.network.cut()
        deadline = began_s + 30
        while time.monotonic() < deadline:
            if all(device.connected and device.last_online_s > began_s for device in stage.fleet.devices):
                break
            await asyncio.sleep(0.05)
        took = sorted(device.last_online_s - began_s for device in stage.fleet.devices)
        _worst(stage, "everyone back online", took[-1])

    return Action("cut all device connections and wait for the last to return", run)


def outage(for_s: float) -> Action:
    """No device can reach the broker."""

    async def run(stage: Stage) -> None:
        network = stage.fleet.network
        network.refusing = True
        stage.counts["connections cut"] += network.cut()
        await asyncio.sleep(for_s)
        network.refusing = False

    return Action(f"no network for {for_s:g} s", run)


def bad_network(for_s: float, *, delay_s: float = 0.0, loss: float = 0.0) -> Action:
    """Delay each way and a share of lost segments between devices and broker."""

    async def run(stage: Stage) -> None:
        network = stage.fleet.network
        stage.counts["bad network"] += 1
        network.delay_s, network.loss = delay_s, loss
        await asyncio.sleep(for_s)
        network.delay_s, network.loss = 0.0, 0.0

    return Action(f"{delay_s * 2:g} s round trip and {loss:.0%} loss for {for_s:g} s", run)


def half_open(share: float = 1.0) -> Action:
    """Connections fall silent without a close; devices must notice by their keepalive."""

    async def run(stage: Stage) -> None:
        began_s = time.monotonic()
        stage.counts["half-open"] += stage.fleet.network.fall_silent(share)
        if share < 1:
            return
        deadline = began_s + 5 * KEEPALIVE_S
        while time.monotonic() < deadline:
            if all(device.last_online_s > began_s for device in stage.fleet.devices):
                break
            await asyncio.sleep(0.1)
        _worst(stage, "half-open noticed", max(d.last_online_s for d in stage.fleet.devices) - began_s)

    return Action(f"{share:.0%} of the device connections fall silent", run)


def reboot(share: float) -> Action:
    """Devices start again with a new boot id."""

    async def run(stage: Stage) -> None:
        stage.counts["device rebooted"] += stage.fleet.reboot(share)

    return Action(f"reboot {share:.0%} of the devices", run)


def jump_clocks(share: float, by_s: float, for_s: float) -> Action:
    """Clocks of devices are wrong for a while."""

    async def run(stage: Stage) -> None:
        stage.counts["clock jumped"] += stage.fleet.jump_clocks(share, by_s)
        await asyncio.sleep(for_s)
        stage.fleet.set_clocks()

    return Action(f"clocks of {share:.0%} of the devices {by_s / 3600:+g} h for {for_s:g} s", run)


def clone_cards(count: int) -> Action:
    """Somebody publishes under boot and seq of messages that are stored already, with other values: all conflicts."""

    async def run(stage: Stage) -> None:
        stored = [d.newest_acked for d in stage.fleet.devices if type(d) is Device and d.newest_acked is not None]
        chosen = stage.random.sample(stored, min(count, len(stored)))
        assert chosen, "nothing is stored yet that could be cloned"
        connection = await _client(stage, "clone")
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
    """Undecodable messages in a row, unnumbered; every one must be kept. For scenarios that leave the broker alone."""

    async def run(stage: Stage) -> None:
        connection = await _client(stage, "flood")
        topic = topics.TELEMETRY.name(tenant=TENANT, device="flood")
        run_id = stage.random.getrandbits(32)
        payloads = [f"no JSON {run_id} {n}".encode() for n in range(count)]
        try:
            await asyncio.gather(*(connection.publish(topic, payload) for payload in payloads))
        finally:
            await connection.close(end_session=True)
        stage.counts["undecodable"] += count
        await stage.eventually(
            "SELECT count(DISTINCT digest) FROM rejected.message WHERE reason = 'not_json' "
            f"AND position('no JSON {run_id} '::bytea IN payload) = 1",
            count,
            60,
        )

    return Action(f"{count:,} undecodable messages in a row", run)


def poison_bus(count: int) -> Action:
    """Batches on the bus that no writer can read, among good ones; each is isolated and kept."""

    async def run(stage: Stage) -> None:
        connection = await _client(stage, "poison")
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


def stalled_group(for_s: float) -> Action:
    """One more consumer group takes one batch and never acknowledges it."""

    async def run(stage: Stage) -> None:
        connection = await _client(stage, STALLED, clean_start=False, session_expiry_s=3600, receive_maximum=1)
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
    connection = await _client(stage, "dropped", on_delivery=lambda delivery: told.append(int(delivery.payload)))
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


async def _client(
    stage: Stage, client_id: str, on_delivery: Callable[[Delivery], None] = lambda _: None, **options: object
) -> Connection:
    """A connection straight to the broker."""
    settings = {"clean_start": True, "session_expiry_s": 0, "receive_maximum": 100, **options}
    deadline = time.monotonic() + 10
    while True:
        with suppress(Transient):
            return await Connection.open(
                stage.platform.state.mqtt_url,
                client_id,
                on_delivery,
                **settings,  # type: ignore[arg-type]
            )
        if time.monotonic() > deadline:
            raise AssertionError(f"{client_id} cannot connect to the broker")
        await asyncio.sleep(0.2)


def _worst(stage: Stage, what: str, seconds: float) -> None:
    stage.worst[what] = max(stage.worst.get(what, 0.0), round(seconds, 2))
