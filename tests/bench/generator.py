"""The load generator, a process of its own: each device on a connection of its own as itself, at little CPU.

With fewer connections than devices they share them, signed in as an account that may do everything.

    python -m tests.bench.generator '{"port": 1883, "samples": …}'

Takes one JSON command a line (`Command`), writes one JSON line a half second and one for every command. It ends with
its standard input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import secrets
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop
import zstandard

from tests.bench import payloads
from tests.bench.loads import DEVICE_WINDOW, Encoding
from tests.bench.wire import Link, Links

TICK_S = 0.005
TELL_S = 0.5
RESEND_S = 30.0
LATENCY_MAX_MS = 120_000
TENANT = "bench"


@dataclass(frozen=True)
class Config:
    """What a generator is started with."""

    port: int
    logins: str
    """File with a JSON list of (user name, password), one a connection; readable by its owner only."""
    metrics: int
    frames: int
    encoding: Encoding
    devices: int
    connections: int
    in_flight: int
    """Messages of all devices without ack, or beyond the credit."""
    acks: bool = True
    """Application acks; without them the harness gives credit for what it finds committed."""


class Device:
    """One device: its numbering and its messages without application ack, by seq with the time of the first sending."""

    __slots__ = ("boot", "head", "in_flight", "link", "resend_after_s", "seq", "topic")

    def __init__(self, name: str, encoding: Encoding, link: Link) -> None:
        self.boot = secrets.randbelow(2**53 - 1) + 1
        self.head = payloads.head(encoding, self.boot)
        topic = f"fleet/v1/{TENANT}/{name}/telemetry".encode()
        self.topic = len(topic).to_bytes(2, "big") + topic
        self.link = link
        self.seq = 0
        self.in_flight: dict[int, float] = {}
        self.resend_after_s = 0.0


def name_of(number: int) -> str:
    """Of a device, by its number from 0."""
    return f"d{number:06}"


class Generator:
    """All devices of a load."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sent = self.acked = self.rejected = self.resent = self.credit = 0
        self._tails = payloads.tails(config.encoding, config.metrics, config.frames)
        self._step_ms = payloads.time_step_ms(config.encoding, config.frames)
        self._start_ms = payloads.start_ms(config.encoding, time.time_ns() // 1_000_000)
        self._compress = zstandard.ZstdCompressor(level=3).compress if config.encoding == "compact" else None
        share = -(-config.devices // config.connections)
        used = -(-config.devices // share)
        logins: list[tuple[str, str]] = [
            (name, password) for name, password in json.loads(Path(config.logins).read_text())
        ]
        own = len(logins) == config.devices  # then the client id is the user name
        links = [
            Link(login[0] if own else f"bench-{n}", config.port, self._on_ack, login)
            for n, login in enumerate(logins[:used])
        ]
        self._links = Links(links)
        self._devices = [Device(name_of(n), config.encoding, links[n // share]) for n in range(config.devices)]
        self._by_ack_topic = {device.topic[2 : -len("telemetry")] + b"ack": device for device in self._devices}
        self._latencies = [0] * (LATENCY_MAX_MS + 1)
        self._cursor = 0
        self._rate: float | None = 0.0
        self._due = 0.0
        self._produced_s = 0.0
        self._looked_s = 0.0

    def connect(self) -> None:
        """All connections stand and the devices' ack topics are subscribed. Raises OSError."""
        filters: dict[Link, list[bytes]] = {device.link: [] for device in self._devices}
        if self.config.acks:
            for topic, device in self._by_ack_topic.items():
                filters[device.link].append(topic)
        self._links.connect(filters)

    @property
    def in_flight(self) -> int:
        """Messages sent and not yet acknowledged (or credited)."""
        return self.sent - (self.acked if self.config.acks else self.credit)

    def set_rate(self, rate: float | None) -> None:
        """Messages a second from now on; None: as fast as the acks allow; 0: none."""
        self._rate, self._due, self._produced_s = rate, 0.0, time.monotonic()

    def send(self, count: int) -> None:
        """That many messages once, as fast as the acks allow, beside the rate."""
        self._due += count

    def tick(self) -> None:
        """Take what has come, produce what is due."""
        self._links.receive()
        now_s = time.monotonic()
        room = self.config.in_flight - self.in_flight
        if self._rate is None:
            self._produce(room, now_s)
        else:
            self._due += self._rate * (now_s - self._produced_s)
            self._due -= self._produce(min(int(self._due), room), now_s)
        self._produced_s = now_s
        if self.config.acks and now_s - self._looked_s > 2:
            self._looked_s = now_s
            self._resend(now_s)
        self._links.flush()

    def _produce(self, count: int, now_s: float) -> int:
        """Up to `count` messages, one device after the other; how many were made."""
        devices, tails, step_ms, start_ms = self._devices, self._tails, self._step_ms, self._start_ms
        compress, acks = self._compress, self.config.acks
        mask = payloads.VARIANTS - 1
        cursor, last = self._cursor, len(devices)
        made = skipped = 0
        while made < count and skipped < last:
            device = devices[cursor]
            cursor += 1
            if cursor == last:
                cursor = 0
            link = device.link
            in_flight = device.in_flight
            if len(in_flight) >= DEVICE_WINDOW or link.is_full:
                skipped += 1
                continue
            device.seq = seq = device.seq + 1
            payload = device.head % (seq, start_ms + seq * step_ms) + tails[seq & mask]
            if compress is not None:
                payload = compress(payload)
            if acks:
                in_flight[seq] = now_s
            link.publish(device.topic, payload)
            skipped = 0
            made += 1
        self._cursor = cursor
        self.sent += made
        return made

    def _resend(self, now_s: float) -> None:
        for device in self._devices:
            in_flight = device.in_flight
            if not in_flight or now_s < device.resend_after_s or now_s - next(iter(in_flight.values())) < RESEND_S:
                continue
            device.resend_after_s = now_s + RESEND_S
            for seq, sent_s in in_flight.items():
                if now_s - sent_s < RESEND_S or device.link.is_full:
                    break
                payload = (
                    device.head % (seq, self._start_ms + seq * self._step_ms) + self._tails[seq % payloads.VARIANTS]
                )
                device.link.publish(device.topic, self._compress(payload) if self._compress else payload)
                self.resent += 1

    def _on_ack(self, topic: bytes, payload: bytes, now_s: float) -> None:
        device = self._by_ack_topic.get(topic)
        ack = orjson.loads(payload)
        if device is None or ack.get("boot") != device.boot:
            return
        in_flight, latencies = device.in_flight, self._latencies
        for first, final in ack["seq"]:
            for seq in range(first, final + 1):
                sent_s = in_flight.pop(seq, None)
                if sent_s is not None:
                    self.acked += 1
                    latencies[min(int((now_s - sent_s) * 1000), LATENCY_MAX_MS)] += 1
        self.rejected += len(ack["rejected"])

    def figures(self) -> dict[str, Any]:
        """Counts since the start."""
        return {
            "sent": self.sent,
            "acked": self.acked if self.config.acks else self.credit,
            "in_flight": self.in_flight,
            "due": int(self._due),
            "rejected": self.rejected,
            "resent": self.resent,
            "pubacked": self._links.pubacked,
            "failure": self._links.failure,
        }

    def latency(self) -> dict[str, Any]:
        """Publish→ack since the last call."""
        counts, self._latencies = self._latencies, [0] * (LATENCY_MAX_MS + 1)
        return {"count": sum(counts), "p50_ms": quantile(counts, 0.5), "p99_ms": quantile(counts, 0.99)}

    def close(self) -> None:
        """Ends the connections."""
        self._links.close()


def quantile(counts: list[int], share: float) -> int | None:
    """The value (index) below or at which `share` of the counted ones lie; None where nothing was counted."""
    wanted = share * sum(counts)
    seen = 0
    for value, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return value
    return None


async def run(config: Config) -> None:
    """Obey the commands until the input ends."""
    generator = Generator(config)
    generator.connect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tell({"ready": True})
    beside = [asyncio.create_task(produce(generator)), asyncio.create_task(report(generator))]
    async for line in reader:
        command = json.loads(line)
        match command["do"]:
            case "rate":
                generator.set_rate(command["rate"])
            case "send":
                generator.send(command["count"])
            case "credit":
                generator.credit = command["messages"]
                continue
            case "mark":
                pass
        tell({"mark": generator.figures() | {"latency": generator.latency() if command["do"] == "mark" else None}})
    for task in beside:
        task.cancel()
    generator.close()


async def produce(generator: Generator) -> None:
    """Produce every 5 ms."""
    while True:
        generator.tick()
        await asyncio.sleep(TICK_S)


async def report(generator: Generator) -> None:
    """Say the counts twice a second."""
    while True:
        tell({"tick": generator.figures()})
        await asyncio.sleep(TELL_S)


def tell(document: dict[str, Any]) -> None:
    """One line to the harness."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def arguments(config: Config) -> list[str]:
    """The command that runs it."""
    return [sys.executable, "-m", "tests.bench.generator", json.dumps(asdict(config))]


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(run(Config(**json.loads(sys.argv[1]))))
