"""What `outrider doctor` asks of the broker, the database and the services."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from uuid import uuid4

import orjson
import psycopg
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from outrider.contract.limits import BROKER_PACKET_MAX_BYTES
from outrider.runtime import migrate
from outrider.runtime.errors import NotStored, OutriderError, Transient
from outrider.runtime.mqtt import Connection, Delivery

SETTINGS = """
SELECT current_setting('server_version_num')::int AS version, version() AS long_version,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes, clock_timestamp() AS clock
"""
ROLE = """
SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb AS strong FROM pg_roles WHERE rolname = %s
"""
MAY_CHANGE = """
SELECT t.name FROM (VALUES ('telemetry.sample'), ('telemetry.sample_text'), ('telemetry.sample_json'),
                           ('telemetry.event'), ('logs.line')) t (name)
WHERE to_regclass(t.name) IS NOT NULL AND has_table_privilege(%s, t.name, %s)
"""
CHANGES = {"lifecycle": "UPDATE, TRUNCATE"}
"""What no service may do to what is stored, UPDATE, DELETE, TRUNCATE; lifecycle alone removes what has expired."""
SLOTS = """
SELECT group_name, count(*) AS slots,
       count(*) FILTER (WHERE holder IS NULL OR heartbeat_at < now() - interval '10 seconds') AS unattended,
       max(extract(epoch FROM now() - heartbeat_at))::float AS oldest_s
FROM runtime.slot GROUP BY group_name ORDER BY group_name
"""
DEPTH = "SELECT group_name, topic, batches FROM runtime.depth WHERE batches > 0 ORDER BY batches DESC"
REJECTED = """
SELECT (SELECT count(*) FROM rejected.message WHERE replayed_at IS NULL) AS kept,
       (SELECT coalesce(sum(messages), 0) FROM rejected.overflow)::bigint AS not_kept
"""
GAPS = """
SELECT count(*) AS boots, coalesce(sum(missing), 0)::bigint AS missing FROM (
    SELECT missing FROM telemetry.sequence_state WHERE missing > 0
    UNION ALL SELECT missing FROM logs.sequence_state WHERE missing > 0) gaps
"""

WAITING_TRIPS = "SELECT count(*), coalesce(extract(epoch FROM now() - min(at)), 0)::float FROM trips.touched"
FAILED_JOBS = "SELECT name, problem FROM lifecycle.job WHERE problem IS NOT NULL ORDER BY name"

MOSQUITTO_MIN = (2, 0, 21)
POSTGRES_MIN = 140_000
DEPTH_WARN_BATCHES = 100
UNACKED_WARN_S = 30.0
CLOCK_WARN_S = 2.0
TRIPS_WARN_S = 60.0
IN_HAND = "outrider_in_hand_oldest_seconds"


class Level(StrEnum):
    """How well it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One finding; `advice` says what to do where it is not OK."""

    name: str
    level: Level
    detail: str
    advice: str = ""


class Process(Protocol):
    """A service process as the platform's state names it."""

    http_port: int | None


def judge(name: str, good: bool, detail: str, advice: str, bad: Level = Level.FAIL) -> Check:
    """OK, or `bad` with the advice."""
    return Check(name, Level.OK, detail) if good else Check(name, bad, detail, advice)


async def check_broker(url: str) -> list[Check]:
    """Version and the settings that lose data, as far as a client can find out."""
    told: dict[str, bytes] = {}
    version_came = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        told[delivery.topic] = delivery.payload
        if delivery.topic == "$SYS/broker/version":
            version_came.set()

    client_id = f"svc:doctor:{uuid4().hex[:8]}"
    try:
        first = await _open(url, client_id, on_delivery, clean_start=True)
    except OutriderError as error:
        return [Check("broker", Level.FAIL, str(error), "Start it (`outrider up`), or mend --mqtt-url.")]
    checks = [Check("broker", Level.OK, url.rsplit("@", 1)[-1])]
    await first.subscribe(["$SYS/broker/version", "$SYS/broker/publish/messages/dropped"], qos=0)
    with suppress(TimeoutError):
        await asyncio.wait_for(version_came.wait(), 3)
    checks.append(_version(told.get("$SYS/broker/version", b"").decode(errors="replace")))
    packet_max = int(first.properties.get("maximum_packet_size", [268_435_455])[0])
    checks.append(
        judge(
            "broker max_packet_size",
            packet_max >= BROKER_PACKET_MAX_BYTES,
            f"{packet_max:,} bytes",
            f"Set max_packet_size {BROKER_PACKET_MAX_BYTES}: a bus batch that does not fit is never delivered.",
        )
    )
    window = int(first.properties.get("receive_maximum", [65_535])[0])
    checks.append(
        judge(
            "broker receive maximum",
            window >= 100,
            f"{window:,} messages in flight",
            "Set max_inflight_messages 1000: a low one caps every service at window / commit time.",
            Level.WARN,
        )
    )
    checks.append(await _says_nobody_listens(first))
    await first.close()
    checks.append(await _keeps_sessions(url, client_id, on_delivery))
    dropped = int(told.get("$SYS/broker/publish/messages/dropped", b"0") or 0)
    checks.append(
        judge(
            "broker dropped messages",
            dropped == 0,
            f"{dropped:,} since it started",
            "A queue was full: raise max_queued_bytes, add replicas; numbered messages come again by themselves.",
            Level.WARN,
        )
    )
    return checks


async def _open(url: str, client_id: str, on_delivery: Callable[[Delivery], None], *, clean_start: bool) -> Connection:
    return await Connection.open(
        url, client_id, on_delivery, clean_start=clean_start, session_expiry_s=60, receive_maximum=64, timeout_s=5
    )


def _version(text: str) -> Check:
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        return Check("broker version", Level.WARN, "not told ($SYS is off or is not readable)", "Set sys_interval 10.")
    version = tuple(int(part) for part in match.groups())
    return judge(
        "broker version",
        version >= MOSQUITTO_MIN,
        text,
        "Mosquitto before 2.0.21 breaks receive-maximum and loses the ack window: install 2.0.21 or newer "
        "(Debian 12: bookworm-backports).",
    )


async def _says_nobody_listens(connection: Connection) -> Check:
    name = "broker names unheard messages"
    advice = "Ingest relies on PUBACK reason 0x10 to know that nobody stores a message: use Mosquitto 2.0.21 or newer."
    try:
        await connection.publish(f"outrider/doctor/{uuid4().hex}", b"")
    except NotStored:
        return Check(name, Level.OK, "PUBACK reason 0x10")
    except Transient as error:
        return Check(name, Level.WARN, str(error), advice)
    return Check(name, Level.FAIL, "PUBACK without a reason", advice)


async def _keeps_sessions(url: str, client_id: str, on_delivery: Callable[[Delivery], None]) -> Check:
    name = "broker keeps sessions"
    try:
        second = await _open(url, client_id, on_delivery, clean_start=False)
    except OutriderError as error:
        return Check(name, Level.FAIL, str(error), "Look at the broker's log.")
    kept = second.session_present
    await second.close(end_session=True)
    return judge(
        name,
        kept,
        "the session was there after a reconnect" if kept else "the session was gone after a reconnect",
        "Remove max_session_expiry / persistent_client_expiration limits: a service that restarts loses its queue.",
    )


def check_database(url: str) -> Iterator[Check]:
    """Durability, migrations, rights, and what the tables say of slots, depth, rejections and gaps."""
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
    except psycopg.Error as error:
        yield Check(
            "database",
            Level.FAIL,
            str(error).strip().splitlines()[0],
            "Start it (`outrider up`), or mend --database-url.",
        )
        return
    with connection:
        before_s = time.time()
        version, long_version, fsync, synchronous, pages, clock = _row(connection, SETTINGS)
        ahead_s = clock.timestamp() - (before_s + time.time()) / 2
        yield judge("database", version >= POSTGRES_MIN, long_version.split(" on ")[0], "Use PostgreSQL 14 or newer.")
        for setting, value, good in (
            ("fsync", fsync, ("on",)),
            ("synchronous_commit", synchronous, ("on", "remote_write", "remote_apply", "local")),
            ("full_page_writes", pages, ("on",)),
        ):
            yield judge(
                f"database {setting}",
                value in good,
                value,
                f"Set {setting} = on: without it an acknowledged message can be lost in a crash.",
            )
        yield judge(
            "database clock",
            abs(ahead_s) < CLOCK_WARN_S,
            f"{ahead_s:+.3f} s from here",
            "Run NTP on both machines: times of devices are judged by this clock.",
            Level.WARN,
        )
        missing = migrate.pending(url)
        yield judge("migrations", not missing, ", ".join(missing) or "all applied", "Run `outrider migrate`.")
        if not missing:
            yield from _roles(connection)
            yield from _slots(connection)
            yield from _tables(connection)
            yield from _trips_and_jobs(connection)


def _row(connection: psycopg.Connection, statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row


def _roles(connection: psycopg.Connection) -> Iterator[Check]:
    for service in migrate.packages():
        role = migrate.role_of(service)
        row = connection.execute(ROLE, (role,)).fetchone()
        if row is None:
            yield Check(f"role {role}", Level.WARN, "does not exist", "Give every service its own role (see docs).")
            continue
        may_change = [
            name
            for (name,) in connection.execute(
                MAY_CHANGE, (role, CHANGES.get(service, "UPDATE, DELETE, TRUNCATE"))
            ).fetchall()
        ]
        problems = ["is a superuser or may create roles or databases"] if row[0] else []
        problems += [f"may change {name}" for name in may_change]
        yield judge(
            f"role {role}",
            not problems,
            ", ".join(problems)
            or f"may {'remove what has expired' if service in CHANGES else 'add to the ledger'} at most",
            "Revoke it: a service may never change or remove what is stored.",
        )


def _slots(connection: psycopg.Connection) -> Iterator[Check]:
    rows = connection.execute(SLOTS).fetchall()
    if not rows:
        yield Check("slots", Level.WARN, "none declared", "No service ever ran on this database: `outrider up`.")
    for group, slots, unattended, oldest_s in rows:
        yield judge(
            f"slots {group}",
            unattended == 0,
            f"{slots} slots, {unattended} unattended"
            + (f", oldest heartbeat {oldest_s:.1f} s ago" if oldest_s is not None else ""),
            f"Start {group} (`outrider service start {group}`), or add a replica: its queue grows meanwhile.",
        )


def _tables(connection: psycopg.Connection) -> Iterator[Check]:
    depths = connection.execute(DEPTH).fetchall()
    total = sum(batches for _, _, batches in depths)
    shown = ", ".join(f"{group} {topic}: {batches:,}" for group, topic, batches in depths[:8])
    yield judge(
        "depth",
        total < DEPTH_WARN_BATCHES,
        f"{total:,} batches published and not committed" + (f" ({shown})" if shown else ""),
        "A writer is stopped, slow or catching up: look at its /readyz and at the database's load.",
        Level.WARN,
    )
    kept, not_kept = _row(connection, REJECTED)
    yield judge(
        "rejected messages",
        not_kept == 0,
        f"{kept:,} kept, {not_kept:,} past the quota only counted",
        "Look at `outrider rejected list`, mend the cause, replay or purge.",
        Level.WARN,
    )
    boots, missing = _row(connection, GAPS)
    yield judge(
        "gaps",
        missing == 0,
        f"{missing:,} messages missing in {boots:,} sequences" if missing else "none",
        "Devices are asked for them; those that stay were lost before they came here.",
        Level.WARN,
    )


def _trips_and_jobs(connection: psycopg.Connection) -> Iterator[Check]:
    """Where trips and lifecycle are installed: is either behind?"""
    if _row(connection, "SELECT to_regclass('trips.touched') IS NOT NULL")[0]:
        waiting, oldest_s = _row(connection, WAITING_TRIPS)
        yield judge(
            "trips",
            oldest_s < TRIPS_WARN_S,
            f"{waiting:,} windows wait to be segmented, the oldest for {oldest_s:.0f} s" if waiting else "up to date",
            "It catches up by itself after a backlog; if it does not, see the log of trips, or add a replica.",
            Level.WARN,
        )
    if _row(connection, "SELECT to_regclass('lifecycle.job') IS NOT NULL")[0]:
        failed = connection.execute(FAILED_JOBS.encode()).fetchall()
        yield judge(
            "lifecycle jobs",
            not failed,
            "; ".join(f"{name}: {problem}" for name, problem in failed) or "the last run of each went well",
            "It tries again by itself; what stays needs you: the message says what.",
            Level.WARN,
        )


def check_gateway(url: str) -> Check:
    """The address that devices and programs are told answers."""
    status, _ = _get(f"{url}/api/v1/openapi.json")
    return judge(
        "gateway",
        status == 200,
        f"{url} answers" if status == 200 else f"{url} does not answer" if status is None else f"{url} says {status}",
        "Does it run (`outrider status`)? With a proxy in front, OUTRIDER_GATEWAY_URL names what it forwards.",
    )


def check_service(name: str, process: Process) -> Iterator[Check]:
    """Liveness, readiness, and how long the oldest message in hand has waited."""
    if process.http_port is None:
        return
    base = f"http://127.0.0.1:{process.http_port}"
    health, _ = _get(base + "/healthz")
    if health != 200:
        yield Check(
            f"service {name}",
            Level.FAIL,
            "does not answer" if health is None else f"/healthz says {health}",
            f"`outrider service start {name}`; its log is in the data folder.",
        )
        return
    ready, body = _get(base + "/readyz")
    problems = ""
    with suppress(ValueError, AttributeError):
        problems = "; ".join(f"{what}: {why}" for what, why in orjson.loads(body).get("problems", {}).items())
    yield judge(f"service {name}", ready == 200, "ready" if ready == 200 else problems or "not ready", "See its log.")
    oldest_s = max((sample.value for sample in metrics_of(process.http_port).get(IN_HAND, [])), default=0.0)
    yield judge(
        f"un-acked in {name}",
        oldest_s < UNACKED_WARN_S,
        f"oldest message in hand {oldest_s:.1f} s",
        "It cannot store or pass on what it holds: look at the database and the next service.",
        Level.WARN,
    )


def _get(url: str) -> tuple[int | None, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=3) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return None, b""


def metrics_of(http_port: int) -> dict[str, list[Sample]]:
    """Samples of a process's metrics by name; empty if it does not answer."""
    _, body = _get(f"http://127.0.0.1:{http_port}/metrics")
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found
