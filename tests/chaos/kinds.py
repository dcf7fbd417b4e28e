"""The kinds of devices: what each one measures, says of its time, and does wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from outrider.device.messages import Document
from tests.chaos import malformed
from tests.chaos.book import UNNUMBERED, Entry
from tests.chaos.devices import Device, clock_refusals

MEASURED_AGO_MS = 200
UPTIMES = -1
"""Stands for the line of uptimes where the others are named by the offset of a clock."""
BOOT_S = 2.0
"""How long a device is away that starts again under its old boot id."""


class Clockless(Device):
    """No clock: uptimes, and `now_ms` at each sending. Each boot has metrics of its own, as two boots may overlap."""

    kind = "clockless"
    has_clock = False

    def produce(self) -> None:
        """Samples at an uptime."""
        self._add_up("telemetry", self._load.samples, f"b{self._boots}_")

    def produce_record(self) -> None:
        """A log line or event at an uptime."""
        self._add_up(self._random.choice(("log", "event")), 1, "info")

    def _add_up(self, stream: str, rows: int, metric: str) -> None:
        up_ms = _uptime_ms(self)
        self.add(stream, rows, {"up_ms": up_ms}, clockless=True, metric=metric, up_ms=up_ms)


class Anchored(Device):
    """A clock and uptimes: its clock is believed while it can be true; where it cannot, the boot's anchor counts.

    Corrected samples have metrics of their own, boot by boot: an anchor is off by what the first message was on its way.
    """

    kind = "anchored"

    def _add_timed(self, stream: str, rows: int, metric: str) -> None:
        ts, up_ms = self.wall_ms(), _uptime_ms(self)
        refusals = clock_refusals(ts)
        if not refusals:
            self.add(stream, rows, {"ts": ts, "up_ms": up_ms}, clockless=True, metric=metric, ts=ts)
            return
        metric = f"c{self._boots}_" if stream == "telemetry" else metric
        times = {"ts": ts, "up_ms": up_ms}
        self.add(stream, rows, times, clockless=True, metric=metric, up_ms=up_ms, unplaced=refusals)


class Reused(Device):
    """Starts again under its old boot id when told to `reuse_boot`: what it then says under a stored seq is a conflict."""

    kind = "reused"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._newest: dict[tuple[str, int], int] = {}
        self._used: dict[tuple[str, int], int] = {}
        self._is_away = False

    def reuse_boot(self) -> None:
        """Finish what is un-acked, be away for a moment, then count from 1 again in the same boot."""
        if not self._is_away:
            self._is_away = True
            self._start(self._start_again())

    async def _start_again(self) -> None:
        while not self.outbox.settled:
            await asyncio.sleep(0.05)
        await asyncio.sleep(BOOT_S)  # an ack that is still on its way would be taken for one of the new life
        self._used = dict(self._newest)
        self._last_ms.clear()
        self.outbox.rebooted(self.outbox.boot, time.monotonic())
        self.reconnect()
        self._is_away = False

    def reboot(self) -> None:
        """With a new boot id, as every device should; not while it starts again already."""
        if not self._is_away:
            super().reboot()

    def _add_timed(self, stream: str, rows: int, metric: str) -> None:
        if not self._is_away:
            super()._add_timed(stream, rows, metric)

    def _hold(self, stream: str, rows: int, document: Document, **more: Any) -> Entry:
        entry = super()._hold(stream, rows, document, **more)
        key = stream, entry.boot
        self._newest[key] = max(self._newest.get(key, 0), entry.seq)
        if entry.seq <= self._used.get(key, 0) and not entry.refusals:
            entry.refusals, entry.rows = frozenset({"conflict"}), 0
        return entry


class Pairs(Device):
    """Sends every second sample in the millisecond of the one before, with another value: a conflict to be named."""

    kind = "pairs"
    has_clock = False

    def produce(self) -> None:
        """Two messages, one millisecond."""
        ts = self.wall_ms()
        first = self.add("telemetry", 1, {"ts": ts}, ts=ts)
        second = self.add("telemetry", 1, {"ts": ts}, ts=ts)
        first.twin, second.twin = second.number, first.number


class Unnumbered(Device):
    """Does not number: at least once from the broker's PUBACK on, as durable as the broker. No alien value may appear."""

    kind = "unnumbered"
    has_clock = False

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
    has_clock = False

    def produce(self) -> None:
        """The next kind of bad message."""
        bad = malformed.KINDS[self._random.randrange(len(malformed.KINDS))]
        number, ts = self._book.next_number, self.wall_ms()
        self._hold(
            "telemetry",
            bad.rows,
            {},
            encode=lambda numbered: bad.payload(*_number_of(numbered), ts, number),
            ts=ts,
            refusals=frozenset({bad.reason} - {""}),
            rows_if_refused=bad.rows,
        )


PATTERN = (Device, Clockless, Pairs, Device, Unnumbered, Clockless, Malformed, Device, Anchored, Reused)


def plan(count: int) -> Iterator[type[Device]]:
    """The kinds of a fleet: of ten devices three have a clock, two none, and one each of the other kinds."""
    for number in range(count):
        yield PATTERN[number % len(PATTERN)]


def _uptime_ms(device: Device) -> int:
    # A little ago: made unique it must not come to lie after the `now_ms` it is sent with.
    return device._unique(UPTIMES, max(0, device.outbox.uptime_ms(time.monotonic()) - MEASURED_AGO_MS))


def _number_of(document: Document) -> tuple[int, int]:
    assert isinstance(document, Mapping)
    return int(document["boot"]), int(document["seq"])
