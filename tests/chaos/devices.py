"""The load: devices that keep the delivery contract and write every message down in the book before they send it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any

import orjson

from outrider.contract import topics
from outrider.contract.limits import CLOCK_AHEAD_MAX_MS, TIME_MIN_MS
from outrider.device.messages import Document, digest_of, encode_json
from outrider.device.outbox import Outbox
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from tests.chaos import malformed
from tests.chaos.book import UNNUMBERED, Book, Entry

TENANT = "chaos"
KEEPALIVE_S = 4
TOPICS = {"telemetry": topics.TELEMETRY, "log": topics.LOG, "event": topics.EVENT}
RECORD_SHARE = 0.1
"""So many log lines and events for each message of samples."""

MEASURED_AGO_MS = 200


@dataclass(frozen=True)
class Load:
    """How much one device sends: messages a second, samples a message."""

    rate: float = 5.0
    samples: int = 10


class Device:
    """A device on its own connection; subclasses say what it measures. It sends while `producing`."""

    kind = "clocked"

    def __init__(self, name: str, book: Book, load: Load, random: Random, url: Callable[[], str]) -> None:
        self.name = name
        self.producing = False
        self.last_online_s = 0.0
        self.clock_offset_ms = 0
        # Acked messages are not kept: what the platform lost after its ack must stay lost, for the checker to see.
        self.outbox = Outbox(boot=_new_boot(), now_s=time.monotonic() - 5, capacity=50_000, keep_acked_s=0)
        self.newest_acked: Entry | None = None
        self.acked_made_s = 0.0
        """When the newest acked message was made (monotonic)."""
        self._book, self._load, self._random, self._url = book, load, random, url
        self._waiting: dict[tuple[str, int, int], tuple[Entry, float]] = {}
        self._connection: Connection | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._last_ms: dict[int, int] = {}
        self._boots = 0
        self._topic = {stream: topic.name(tenant=TENANT, device=name) for stream, topic in TOPICS.items()}

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
        self.outbox.rebooted(_new_boot(), time.monotonic())
        self.reconnect()

    def jump_clock(self, to_offset_ms: int) -> None:
        """The wall clock of the device now runs this far from the real one."""
        self.clock_offset_ms = to_offset_ms

    async def close(self) -> None:
        """Disconnect for good."""
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
        refusals = _refusals(ts)
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
                self._publish(self._topic[out.stream], out.payload)

    def _publish(self, topic: str, payload: bytes) -> None:
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
            if entry.stream == "telemetry" and not entry.named:
                self.newest_acked = entry
        self._send_due()


class Clockless(Device):
    """No clock: uptimes, and `now_ms` at each sending. Each boot has metrics of its own, as two boots may overlap."""

    kind = "clockless"

    def produce(self) -> None:
        """Samples at an uptime."""
        self._add_up("telemetry", self._load.samples, f"b{self._boots}_")

    def produce_record(self) -> None:
        """A log line or event at an uptime."""
        self._add_up(self._random.choice(("log", "event")), 1, "info")

    def _add_up(self, stream: str, rows: int, metric: str) -> None:
        # A little ago: made unique it must not come to lie after the `now_ms` it is sent with.
        up_ms = self._unique(0, max(0, self.outbox.uptime_ms(time.monotonic()) - MEASURED_AGO_MS))
        self.add(stream, rows, {"up_ms": up_ms}, clockless=True, metric=metric, up_ms=up_ms)


class Pairs(Device):
    """Sends every second sample in the millisecond of the one before, with another value: a conflict to be named."""

    kind = "pairs"

    def produce(self) -> None:
        """Two messages, one millisecond."""
        ts = self.wall_ms()
        first = self.add("telemetry", 1, {"ts": ts}, ts=ts)
        second = self.add("telemetry", 1, {"ts": ts}, ts=ts)
        first.twin, second.twin = second.number, first.number


class Unnumbered(Device):
    """Does not number: at least once from the broker's PUBACK on, as durable as the broker. No alien value may appear."""

    kind = "unnumbered"

    def produce(self) -> None:
        """Samples without boot and seq, once, if a connection stands."""
        if self.connected:
            ts = self.wall_ms()
            entry = self._book.add(self.name, "telemetry", UNNUMBERED, 0, self._load.samples, ts=ts)
            self._publish(
                self._topic["telemetry"],
                orjson.dumps({"ts": ts, **{f"m{i}": entry.number for i in range(entry.rows)}}),
            )

    def produce_record(self) -> None:
        """None: there are samples enough."""


class Malformed(Device):
    """Sends what must be refused, each with its reason: cut JSON, NaN, NUL, bombs, no time, bad names and values."""

    kind = "malformed"

    def produce(self) -> None:
        """The next kind of bad message."""
        bad = malformed.KINDS[self._random.randrange(len(malformed.KINDS))]
        number, ts = self._book.next_number, self.wall_ms()
        self._hold(
            "telemetry",
            bad.rows_if_refused,
            {},
            encode=lambda numbered: bad.payload(*_number_of(numbered), ts, number),
            ts=ts,
            refusals=frozenset({bad.reason}),
            rows_if_refused=bad.rows_if_refused,
        )


KINDS: tuple[type[Device], ...] = (Device, Clockless, Pairs, Unnumbered, Malformed)


def plan(count: int) -> Iterator[type[Device]]:
    """The kinds of a fleet: of eight devices three have a clock, two none, and one each of the other kinds."""
    pattern = (Device, Clockless, Pairs, Device, Unnumbered, Clockless, Malformed, Device)
    for number in range(count):
        yield pattern[number % len(pattern)]


def _refusals(ts: int) -> frozenset[str]:
    if ts > time.time() * 1000 + CLOCK_AHEAD_MAX_MS:
        return frozenset({"clock_ahead"})
    # Epoch times are told apart by magnitude: so few milliseconds are read as seconds, of 1970 or of the far future.
    return frozenset({"clock_invalid", "clock_ahead"}) if ts < TIME_MIN_MS else frozenset()


def _number_of(document: Document) -> tuple[int, int]:
    assert isinstance(document, Mapping)
    return int(document["boot"]), int(document["seq"])


def _new_boot() -> int:
    # Never from the seed: a repeated boot id would make every message look like a resend.
    return SystemRandom().randint(1, 2**53 - 1)
