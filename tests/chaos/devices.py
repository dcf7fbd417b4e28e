"""The load: devices that keep the delivery contract and write every message down in the book before they send it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any

from outrider.contract import topics
from outrider.contract.limits import CLOCK_AHEAD_MAX_MS, TIME_MIN_MS
from outrider.device.messages import Document, Outgoing, digest_of, encode_json
from outrider.device.outbox import Outbox
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from tests.chaos.book import Book, Entry

TENANT = "chaos"
KEEPALIVE_S = 4
TOPICS = {"telemetry": topics.TELEMETRY, "log": topics.LOG, "event": topics.EVENT}
RECORD_SHARE = 0.1
"""So many log lines and events for each message of samples."""
READ_AS_SECONDS_BELOW = 10**11


@dataclass(frozen=True)
class Load:
    """How much one device sends: messages a second, samples a message."""

    rate: float = 5.0
    samples: int = 10


class Device:
    """A device on its own connection; subclasses say what it measures. It sends while `producing`."""

    kind = "clocked"
    has_clock = True
    """Its wall clock can be set wrong."""

    def __init__(self, name: str, book: Book, load: Load, random: Random, url: Callable[[], str]) -> None:
        self.name = name
        self.producing = False
        self.last_online_s = self.last_lost_s = 0.0
        """When a connection was last subscribed, and when one was last found dead (monotonic)."""
        self.sent_bytes = self.acked_rows = 0
        """Topics and payloads of all sendings, and the rows that were acked as stored."""
        self.clock_offset_ms = 0
        # Acked messages are not kept: what the platform lost after its ack must stay lost, for the checker to see.
        self.outbox = Outbox(boot=new_boot(), now_s=time.monotonic() - 5, capacity=50_000, keep_acked_s=0)
        self.newest_acked: Entry | None = None
        self.acked_made_s = 0.0
        """When the newest acked message was made (monotonic)."""
        self._book, self._load, self._random, self._url = book, load, random, url
        self._waiting: dict[tuple[str, int, int], tuple[Entry, float]] = {}
        self._connection: Connection | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._last_ms: dict[int, int] = {}
        self._boots = 0
        self._topic: dict[str, str] = {
            stream: topic.name(tenant=TENANT, device=name) for stream, topic in TOPICS.items()
        }

    @property
    def connected(self) -> bool:
        """True while a connection stands."""
        return self._connection is not None and not self._connection.closed.is_set()

    @property
    def settled(self) -> bool:
        """True when nothing waits for an application ack."""
        return self.outbox.settled and not self._publishing

    async def run(self) -> None:
        """Stay connected and produce until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stay_connected(), name=f"{self.name} connection")
            tasks.create_task(self._measure(), name=f"{self.name} measuring")

    def reconnect(self) -> None:
        """Drop the connection; the device comes back by itself and sends at once what waits for an ack."""
        if self._connection is not None:
            self._start(self._connection.close())

    def reboot(self) -> None:
        """Start again with a new boot id; what is held keeps the old one."""
        for entry, _ in self._waiting.values():
            entry.boot_ended = True
        self._boots += 1
        self._last_ms.clear()
        self.outbox.rebooted(new_boot(), time.monotonic())
        self.reconnect()

    def jump_clock(self, to_offset_ms: int) -> None:
        """The wall clock of the device now runs this far from the real one."""
        self.clock_offset_ms = to_offset_ms

    async def close(self) -> None:
        """Disconnect for good."""
        for task in self._publishing:
            task.cancel()
        if self._connection is not None:
            await self._connection.close(end_session=True)

    # ------------------------------------------------------------------ what it measures

    def produce(self) -> None:
        """Make one message of samples."""
        self._add_timed("telemetry", self._load.samples, "m")

    def produce_record(self) -> None:
        """Make one log line or event whose text is its number."""
        self._add_timed(self._random.choice(("log", "event")), 1, "info")

    def _add_timed(self, stream: str, rows: int, metric: str) -> None:
        ts = self.wall_ms()
        refusals = clock_refusals(ts)
        entry = self.add(stream, rows, {"ts": ts}, ts=ts, metric=metric, refusals=refusals)
        if refusals:
            entry.rows = 0

    def wall_ms(self) -> int:
        """The device's clock, never the same millisecond twice."""
        return self._unique(self.clock_offset_ms, time.time_ns() // 1_000_000 + self.clock_offset_ms)

    def _unique(self, line: int, ms: int) -> int:
        self._last_ms[line] = max(self._last_ms.get(line, 0) + 1, ms)
        return self._last_ms[line]

    def add(
        self,
        stream: str,
        rows: int,
        times: dict[str, int],
        *,
        clockless: bool = False,
        metric: str = "m",
        **more: Any,
    ) -> Entry:
        """Write a message down and hand it to the outbox."""
        number = self._book.next_number
        document: Document
        if stream == "telemetry":
            document = {**times, **{f"{metric}{i}": number for i in range(rows)}}
        else:
            label = {"level": metric} if stream == "log" else {"type": metric}
            document = {**times, **label, "msg": str(number)}
        return self._hold(stream, rows, document, clockless=clockless, metric=metric, **more)

    def _hold(
        self,
        stream: str,
        rows: int,
        document: Document,
        *,
        clockless: bool = False,
        encode: Callable[[Document], bytes] = encode_json,
        **more: Any,
    ) -> Entry:
        message = self.outbox.add(stream, document, clockless=clockless, encode=encode)
        entry = self._book.add(self.name, stream, message.boot, message.seq, rows, **more)
        entry.digest = digest_of(message.payload)
        self._waiting[message.key] = (entry, time.monotonic())
        return entry

    # ------------------------------------------------------------------ how it talks

    async def _stay_connected(self) -> None:
        backoff = Backoff(first_s=0.3, max_s=3.0)
        while True:
            connection = None
            try:
                connection = await Connection.open(
                    self._url(),
                    self.name,
                    self._on_ack,
                    clean_start=True,
                    session_expiry_s=0,
                    receive_maximum=64,
                    keepalive_s=KEEPALIVE_S,
                )
                async with asyncio.timeout(KEEPALIVE_S * 2):
                    await connection.subscribe([topics.ACK.name(tenant=TENANT, device=self.name)], qos=0)
            except (Transient, TimeoutError):
                if connection is not None:
                    await connection.close()
                await asyncio.sleep(backoff.next_s())
                continue
            self._connection = connection
            self.last_online_s = time.monotonic()
            backoff.reset()
            self.outbox.reconnected()
            self._send_due()
            await connection.closed.wait()
            self.last_lost_s = time.monotonic()
            await connection.close()
            await asyncio.sleep(backoff.next_s())

    async def _measure(self) -> None:
        next_s = time.monotonic() + self._random.uniform(0, 1 / self._load.rate)
        while True:
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = max(next_s + 1 / self._load.rate, now_s)
                if self.producing:
                    self.produce()
                    if self._random.random() < RECORD_SHARE:
                        self.produce_record()
            self._send_due()
            await asyncio.sleep(min(max(next_s - time.monotonic(), 0.005), 0.5))

    def _send_due(self) -> None:
        if self.connected:
            for out in self.outbox.due(time.monotonic()):
                self._publish(self.topic_of(out), out.payload)

    def topic_of(self, out: Outgoing) -> str:
        """Where a message is published."""
        return self._topic[out.stream]

    def _publish(self, topic: str, payload: bytes) -> None:
        self.sent_bytes += len(topic) + len(payload)
        self._start(self._publish_quietly(topic, payload))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish_quietly(self, topic: str, payload: bytes) -> None:
        # What becomes of the PUBACK changes nothing: only the application ack counts.
        with suppress(Transient):
            assert self._connection is not None
            await self._connection.publish(topic, payload)

    def _on_ack(self, delivery: Delivery) -> None:
        for message in self.outbox.on_ack(delivery.payload, time.monotonic()):
            entry, made_s = self._waiting.pop(message.key)
            entry.acked, entry.named = True, tuple(dict.fromkeys(message.reasons))
            self.acked_made_s = max(self.acked_made_s, made_s)
            self.acked_rows += 0 if entry.named else entry.rows
            if entry.stream == "telemetry" and not entry.named:
                self.newest_acked = entry
        self._send_due()


def clock_refusals(ts: int) -> frozenset[str]:
    """Why a time (ms, as sent) is refused where no boot anchor corrects it; nothing for an acceptable one."""
    # Epoch times are told apart by magnitude: so few milliseconds are read as seconds.
    ts = ts * 1_000 if ts < READ_AS_SECONDS_BELOW else ts
    if ts > time.time() * 1000 + CLOCK_AHEAD_MAX_MS:
        return frozenset({"clock_ahead"})
    return frozenset({"clock_invalid"}) if ts < TIME_MIN_MS else frozenset()


def new_boot() -> int:
    # Never from the seed: a repeated boot id would make every message look like a resend.
    return SystemRandom().randint(1, 2**53 - 1)
