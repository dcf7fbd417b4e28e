"""One process of the consumer group of `share_alone.py`: receives numbered messages and stores the numbers in a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from outrider.runtime.consumer import Consumer, ConsumerSettings
from outrider.runtime.database import Database
from outrider.runtime.mqtt import Connection, Delivery
from outrider.runtime.slots import Lease

ATTENDED = "attended"
"""Printed once the process is subscribed."""
SLOTS = 4
STORE_BATCH = 20
RECEIVE_MAXIMUM = 1000
NUMBER = struct.Struct("!I")


@dataclass(frozen=True)
class Member:
    """How one process consumes. With a `database_url` it attends leased slots, else a session called `name` of its own."""

    name: str
    folder: str
    mqtt_url: str
    store_s: float
    topic_filter: str
    clean: bool = True
    expiry_s: int = 0
    ack_first: bool = False
    unsubscribe: bool = False
    database_url: str = ""
    lease_timeout_s: float = 0.0

    @property
    def command(self) -> list[str]:
        """The command line that runs it."""
        return [sys.executable, __file__, json.dumps(asdict(self))]


class Journal:
    """Numbers received and numbers stored, in a file each; what is written outlives a kill -9 of this process."""

    def __init__(self, member: Member) -> None:
        self._store_s = member.store_s
        self._files = {
            what: os.open(Path(member.folder) / f"{what}.{member.name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for what in ("received", "stored")
        }

    def note(self, what: str, deliveries: Sequence[Delivery]) -> None:
        """Append the messages' numbers to the file `received` or `stored`."""
        os.write(self._files[what], b"".join(delivery.payload for delivery in deliveries))

    async def store(self, deliveries: Sequence[Delivery]) -> None:
        """What a service's transaction is: it takes a while, then all of it is there."""
        await asyncio.sleep(self._store_s)
        self.note("stored", deliveries)


async def attend_own_session(member: Member, journal: Journal, stop: asyncio.Event) -> None:
    """Consume on a session of its own until `stop`; then finish the batch in hand and disconnect."""
    queue: deque[Delivery] = deque()
    woken = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        journal.note("received", [delivery])
        queue.append(delivery)
        woken.set()
        if member.ack_first:
            delivery.connection.ack([delivery.packet_id])

    connection = await Connection.open(
        member.mqtt_url,
        member.name,
        on_delivery,
        clean_start=member.clean,
        session_expiry_s=member.expiry_s,
        receive_maximum=RECEIVE_MAXIMUM,
    )
    await connection.subscribe([member.topic_filter])
    print(ATTENDED, flush=True)
    stopped = asyncio.create_task(stop.wait())
    while not stop.is_set():
        if not queue:
            woken.clear()
            await asyncio.wait({stopped, asyncio.create_task(woken.wait())}, return_when=asyncio.FIRST_COMPLETED)
            continue
        batch = [queue.popleft() for _ in range(min(STORE_BATCH, len(queue)))]
        await journal.store(batch)
        if not member.ack_first:
            connection.ack([delivery.packet_id for delivery in batch])
    if member.unsubscribe:
        await connection.unsubscribe([member.topic_filter])
    await connection.close()


async def attend_slots(member: Member, journal: Journal, stop: asyncio.Event) -> None:
    """Consume as every service of Outrider does: on the slots this process holds the leases of."""
    database = Database(member.database_url, f"experiment/{member.name}/{os.getpid()}")
    await database.open()

    async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
        journal.note("received", deliveries)
        await journal.store(deliveries)

    consumer = Consumer(
        ConsumerSettings(Path(member.folder).name, SLOTS, STORE_BATCH, 1 << 20, 0.0, RECEIVE_MAXIMUM),
        lambda slot: [member.topic_filter],
        handle,
        mqtt_url=member.mqtt_url,
        database=database,
        replica=member.name,
        lease_timeout_s=member.lease_timeout_s,
        in_hand_max_bytes=1 << 24,
    )
    running = asyncio.create_task(consumer.run())
    while not stop.is_set() and (not consumer.slots.held or consumer.problem()):
        await asyncio.sleep(0.02)
    print(ATTENDED, flush=True)
    await stop.wait()
    running.cancel()
    await asyncio.wait([running])
    await database.close()


async def main(member: Member) -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    attend = attend_slots if member.database_url else attend_own_session
    await attend(member, Journal(member), stop)


if __name__ == "__main__":
    asyncio.run(main(Member(**json.loads(sys.argv[1]))))
