"""Why `$share` alone loses data: one group of consumers, seven ways to run it, each with its fault, every message counted.

    python -m tests.experiments.share_alone

A publisher sends numbered QoS 1 messages through a private Mosquitto to four consumer processes, which are killed,
stopped and started meanwhile. A number that the broker took (PUBACK) is afterwards stored by a consumer, or waits in
a queue that nobody attends (stuck), or is lost. The last way is Outrider's own: `outrider.runtime`'s consumer on leased slots.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.runtime.errors import NotStored
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import Mosquitto, Postgres, base
from outrider.testing.fixtures import prepare_database
from outrider.testing.waiting import eventually
from tests.experiments.share_consumer import ATTENDED, NUMBER, STORE_BATCH, Member

CONSUMERS = 4
BURST = 50
LONG_S = 3600
SHORT_S = 3
EXPIRY_MARGIN_S = 2.0
"""The broker looks for expired sessions about once a second."""
QUIET_S = 1.5
"""Nothing more is stored after so long a silence of consumers that need a fraction of it for a batch."""


@dataclass(frozen=True)
class Way:
    """One way to run the group, and what happens to it while messages flow."""

    name: str
    title: str
    fault: Callable[[Group, Publisher], Coroutine[Any, Any, None]]
    fault_title: str
    clean: bool = False
    expiry_s: int = LONG_S
    fixed_names: bool = False
    ack_first: bool = False
    unsubscribe: bool = False
    slots: bool = False


@dataclass(frozen=True)
class Setting:
    """Servers and sizes that all ways share."""

    mqtt_url: str
    database_url: str
    folder: Path
    messages: int
    rate: int
    store_s: float
    """What the store of a batch takes; so a session is stored at no more than STORE_BATCH / store_s messages a second."""
    lease_timeout_s: float


@dataclass(frozen=True)
class Result:
    """What became of the messages of one way; each number is counted once, `again` are the further copies stored."""

    way: Way
    accepted: int
    unheard: int
    received: int
    stored: int
    again: int
    stuck: int
    took_s: float

    @property
    def lost(self) -> int:
        """Messages the broker answered with success and that nobody has, not even a queue."""
        return self.accepted + self.unheard - self.stored - self.stuck


class Publisher:
    """Sends the numbers 0, 1, 2 … at a steady rate and keeps those that got a PUBACK."""

    def __init__(self, setting: Setting, topic: str) -> None:
        self._setting = setting
        self._topic = topic
        self.accepted: set[int] = set()
        self.unheard: set[int] = set()
        """Answered with reason 0x10, no matching subscribers: success for most client libraries."""

    async def run(self) -> None:
        """Returns when every message is answered."""
        setting = self._setting
        name = f"publisher-{secrets.token_hex(4)}"
        connection = await Connection.open(
            setting.mqtt_url, name, lambda _: None, clean_start=True, session_expiry_s=0, receive_maximum=10
        )
        began_s = time.monotonic()
        for first in range(0, setting.messages, BURST):
            await asyncio.sleep(max(0.0, began_s + first / setting.rate - time.monotonic()))
            numbers = range(first, min(first + BURST, setting.messages))
            await asyncio.gather(*(self._publish(connection, number) for number in numbers))
        await connection.close(end_session=True)

    async def _publish(self, connection: Connection, number: int) -> None:
        try:
            await connection.publish(f"{self._topic}/{number % CONSUMERS}", NUMBER.pack(number))
            self.accepted.add(number)
        except NotStored:
            self.unheard.add(number)

    async def has_sent(self, share: float) -> None:
        """Waits until this share of all messages is answered."""
        wanted = share * self._setting.messages
        await eventually(lambda: len(self.accepted) + len(self.unheard) >= wanted, 30, interval_s=0.005)


@dataclass
class Group:
    """The consumer processes of one way; `alone` are the sessions that nobody attends any more."""

    way: Way
    setting: Setting
    members: list[tuple[Member, subprocess.Popen[bytes]]] = field(default_factory=list)
    alone: list[Member] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the members' journals lie."""
        return self.setting.folder / self.way.name

    async def start(self, count: int, names: list[str] | None = None) -> None:
        """Start so many members, under `names` or new ones; returns when all are subscribed."""
        way, setting = self.way, self.setting
        logs = []
        for number in range(count):
            name = names[number] if names else f"consumer-{secrets.token_hex(4)}"
            member = Member(
                name=name,
                folder=str(self.folder),
                mqtt_url=setting.mqtt_url,
                store_s=setting.store_s,
                topic_filter=f"$share/{way.name}/experiment/{way.name}/+",
                clean=way.clean,
                expiry_s=way.expiry_s,
                ack_first=way.ack_first,
                unsubscribe=way.unsubscribe,
                database_url=setting.database_url if way.slots else "",
                lease_timeout_s=setting.lease_timeout_s,
            )
            log = self.folder / f"log.{name}.{secrets.token_hex(2)}"
            process = base.spawn(base.launcher(member.command, death_signal=signal.SIGKILL), log)
            self.members.append((member, process))
            logs.append((log, process))
        await eventually(lambda: all(_attends(log, process) for log, process in logs), 40, interval_s=0.02)

    async def end(self, count: int, how: signal.Signals) -> list[str]:
        """End the first `count` members by a signal; their names once they are gone."""
        ending, self.members = self.members[:count], self.members[count:]
        for _, process in ending:
            process.send_signal(how)
        await asyncio.to_thread(lambda: [process.wait(20) for _, process in ending])
        if not (self.way.slots or self.way.clean):
            self.alone += [member for member, _ in ending]
        return [member.name for member, _ in ending]

    async def restart(self, count: int, how: signal.Signals) -> None:
        """End members and start as many: under their names where the way fixes them, else under new ones."""
        names = await self.end(count, how)
        if self.way.fixed_names:
            self.alone = [member for member in self.alone if member.name not in names]
        await self.start(count, names if self.way.fixed_names else None)

    def journal(self, what: str) -> list[int]:
        """All numbers in the members' files `received` or `stored`, the dead ones' included."""
        files = sorted(self.folder.glob(f"{what}.*"))
        return [number for file in files for (number,) in NUMBER.iter_unpack(_whole(file.read_bytes()))]

    async def settled(self, wanted: set[int]) -> None:
        """Returns when all wanted numbers are stored, or nothing more has been for a while."""
        patience_s = QUIET_S + (2 * self.setting.lease_timeout_s if self.way.slots else 0)
        stored, changed_s = -1, time.monotonic()
        while True:
            found = await asyncio.to_thread(self.journal, "stored")
            if len(found) != stored:
                stored, changed_s = len(found), time.monotonic()
            if wanted <= set(found) or time.monotonic() - changed_s > patience_s:
                return
            await asyncio.sleep(0.05)


def _attends(log: Path, process: subprocess.Popen[bytes]) -> bool:
    text = log.read_text()
    if ATTENDED not in text and process.poll() is not None:
        raise RuntimeError(f"a consumer ended:\n{text}")
    return ATTENDED in text


def _whole(data: bytes) -> bytes:
    return data[: len(data) - len(data) % NUMBER.size]


async def drained(mqtt_url: str, member: Member) -> set[int]:
    """The numbers in the queue of a session that nobody attends, had by its client id; the session ends."""
    found: set[int] = set()

    def on_delivery(delivery: Delivery) -> None:
        found.update(number for (number,) in NUMBER.iter_unpack(delivery.payload))
        delivery.connection.ack([delivery.packet_id])

    connection = await Connection.open(
        mqtt_url, member.name, on_delivery, clean_start=False, session_expiry_s=LONG_S, receive_maximum=1000
    )
    if connection.session_present:
        await connection.unsubscribe([member.topic_filter])
        count = -1
        while len(found) != count:  # the broker sends what it has without a pause
            count = len(found)
            await asyncio.sleep(0.3)
    await connection.close(end_session=True)
    return found


async def one_killed(group: Group, publisher: Publisher) -> None:
    """kill -9 of one of four in the middle; a new process takes its place."""
    await publisher.has_sent(0.5)
    await group.restart(1, signal.SIGKILL)


async def scaled_to_one(group: Group, publisher: Publisher) -> None:
    """Three of four are stopped in the middle, as by `docker compose up --scale`."""
    await publisher.has_sent(0.5)
    await group.end(CONSUMERS - 1, signal.SIGTERM)


async def all_restarted(group: Group, publisher: Publisher) -> None:
    """All four are stopped and started, as by a new version."""
    await publisher.has_sent(0.5)
    await group.restart(CONSUMERS, signal.SIGTERM)


async def all_of_it(group: Group, publisher: Publisher) -> None:
    """One is killed and does not come back, two are stopped, the last one is killed and comes back."""
    await publisher.has_sent(0.25)
    await group.end(1, signal.SIGKILL)
    await publisher.has_sent(0.5)
    await group.end(2, signal.SIGTERM)
    await publisher.has_sent(0.75)
    await group.restart(1, signal.SIGKILL)


KILLED = "one of 4 killed -9, a new one started"
RESTARTED = "one of 4 killed -9 and restarted"
ALL_RESTARTED = "all 4 restarted by SIGTERM"
ALL_OF_IT = "one killed -9 for good, 4 → 1 by SIGTERM, that one killed -9 and restarted"
WAYS = {
    way.name: way
    for way in (
        Way("clean", "clean sessions, random client ids", one_killed, KILLED, clean=True, expiry_s=0),
        Way("scaled", "clean sessions, random client ids", scaled_to_one, "4 → 1 by SIGTERM", clean=True, expiry_s=0),
        Way("orphan", "persistent sessions, random client ids", one_killed, KILLED),
        Way("expired", f"the same, after their expiry of {SHORT_S} s", one_killed, KILLED, expiry_s=SHORT_S),
        Way("autoack", "fixed ids, ack before the store", one_killed, RESTARTED, fixed_names=True, ack_first=True),
        Way(
            *("unsubscribe", "fixed ids, UNSUBSCRIBE at stop", all_restarted, ALL_RESTARTED),
            fixed_names=True,
            unsubscribe=True,
        ),
        Way("slots", "Outrider's slots", all_of_it, ALL_OF_IT, fixed_names=True, slots=True),
    )
}


async def run(way: Way, setting: Setting) -> Result:
    """Play one way and count."""
    began_s = time.monotonic()
    group = Group(way, setting)
    group.folder.mkdir()
    publisher = Publisher(setting, f"experiment/{way.name}")
    try:
        await group.start(CONSUMERS)
        fault = asyncio.create_task(way.fault(group, publisher))
        await publisher.run()
        await fault
        ended_s = time.monotonic()
        await group.settled(publisher.accepted | publisher.unheard)
        if way.expiry_s == SHORT_S:
            await asyncio.sleep(max(0.0, ended_s + SHORT_S + EXPIRY_MARGIN_S - time.monotonic()))
        sent, stored = publisher.accepted | publisher.unheard, group.journal("stored")
        queued = [await drained(setting.mqtt_url, member) for member in group.alone]
    finally:
        await group.end(len(group.members), signal.SIGKILL)
    return Result(
        way,
        accepted=len(publisher.accepted),
        unheard=len(publisher.unheard),
        received=len(set(group.journal("received"))),
        stored=len(sent & set(stored)),
        again=len(stored) - len(set(stored)),
        stuck=len(set().union(*queued) & sent - set(stored)),
        took_s=time.monotonic() - began_s,
    )


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| consumer group | fault | PUBACK | of these 0x10 | received | stored | stored again | stuck | lost |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        counts = (r.accepted + r.unheard, r.unheard, r.received, r.stored, r.again, r.stuck, r.lost)
        lines.append(f"| {r.way.title} | {r.way.fault_title} | " + " | ".join(f"{n:,}" for n in counts) + " |")
    return "\n".join(lines)


def main(
    messages: Annotated[int, typer.Option(min=400, help="Messages for each way.")] = 8000,
    rate: Annotated[int, typer.Option(min=100, help="Messages a second.")] = 6000,
    store_s: Annotated[
        float, typer.Option("--store", help=f"Seconds that storing {STORE_BATCH} messages takes.")
    ] = 0.025,
    lease_timeout_s: Annotated[float, typer.Option("--lease-timeout", help="Of the slots, in seconds.")] = 2.0,
    only: Annotated[str, typer.Option(help=f"One of {', '.join(WAYS)}.")] = "",
) -> None:
    """Count what each way to run a consumer group loses. Exit code 0 only if Outrider's slots lost nothing."""
    folder = Path(tempfile.mkdtemp(prefix="outrider-share-"))
    folder.chmod(0o711)  # the account of root's PostgreSQL passes through
    began_s = time.monotonic()
    try:
        with Mosquitto(folder / "mosquitto", test_account=True) as broker, Postgres(folder / "postgres") as postgres:
            database_url = prepare_database(postgres.url).admin_url
            setting = Setting(broker.url, database_url, folder, messages, rate, store_s, lease_timeout_s)
            results = []
            for way in WAYS.values():
                if only in ("", way.name):
                    results.append(asyncio.run(run(way, setting)))
                    print(f"{way.name}: {results[-1].lost:,} lost, {results[-1].took_s:.1f} s", file=sys.stderr)
            versions = f"Mosquitto {broker.version}, PostgreSQL {postgres.version}, Python {sys.version.split()[0]}"
        postgres.wipe()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{messages:,} messages at {rate:,}/s; a session is stored at up to {STORE_BATCH / store_s:,.0f}/s; "
        f"slots' lease {lease_timeout_s:g} s; {versions}, {os.cpu_count()} cores, {time.monotonic() - began_s:.0f} s\n"
    )
    print(table(results))
    sys.exit(any(result.lost or result.stuck for result in results if result.way.slots))


if __name__ == "__main__":
    typer.run(main)
