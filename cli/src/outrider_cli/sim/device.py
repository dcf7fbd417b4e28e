"""One simulated device: its connection, its outbox and its measuring, as the delivery contract demands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import orjson

from outrider.contract import topics
from outrider.device.control import Secrets
from outrider.device.messages import Document, Message, encode_json
from outrider.device.outbox import Outbox
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider_cli.sim.behaviour import LEVELS, Behaviour
from outrider_cli.sim.encodings import Frame, document_of, encoder_of
from outrider_cli.sim.plan import Plan, new_boot
from outrider_cli.sim.sources import Values

if TYPE_CHECKING:
    from outrider_cli.sim.record import Recorder

KEEPALIVE_S = 30
LOOK_S = 0.5
"""At least this often a device looks whether something is to be sent again."""
UP_MIN_S = 5.0
"""So long a device has been running when the simulation begins, at least."""
APART_S = 0.02
"""Two measurements of one device are at least so far apart, or as far as its interval."""
LOG_EVERY_S = 20.0
EVENT_EVERY_S = 45.0
STREAM_TOPICS = {"telemetry": topics.TELEMETRY, "log": topics.LOG, "event": topics.EVENT}


@dataclass
class Settings:
    """What all devices of a run share."""

    url: str
    """The broker's door for devices; with a login in it, all use that one."""
    tenant: str
    interval_s: float
    secrets: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """By device: its secrets by generation."""
    counter: bool = False
    spread_s: float = 0.0
    """The first connections of all devices are spread over so long."""
    on_acked: Callable[[float], None] = lambda latency_s: None
    """Called with the seconds from the first publish of a message to its application ack."""
    recorder: Recorder | None = None
    started_s: float = field(default_factory=time.monotonic)
    started_wall_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def begin(self) -> None:
        """The simulation begins now."""
        self.started_s, self.started_wall_ms = time.monotonic(), time.time_ns() // 1_000_000

    def wall_ms(self, now_s: float) -> int:
        """Epoch ms, free of steps of the wall clock during the run."""
        return self.started_wall_ms + int((now_s - self.started_s) * 1000)


class SimDevice:
    """A device that measures while `producing`, sends, resends and reconnects until `close()`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan = plan
        self._settings = settings
        random = plan.random
        self.outbox = Outbox(
            boot=new_boot(), now_s=time.monotonic() - random.uniform(UP_MIN_S, 600), keep_acked_s=600.0
        )
        self.producing = True
        self.interval_s = settings.interval_s
        self.log_level = "debug"
        own = settings.secrets.get(plan.name)
        self.secrets = Secrets(own) if own else None
        self.dice = Random(f"{plan.name} dice")
        """For what is not measured: it must not change what comes out of the plan's own source."""
        self.behaviour = Behaviour(self, settings.tenant)
        self.unnumbered = 0
        """Unnumbered messages that the broker took (PUBACK)."""
        self.samples = 0
        self.connections = 0
        self.problem = ""
        """Why the last attempt to connect failed; empty once connected."""
        self._connection: Connection | None = None
        self._boots_until_s = 0.0
        self._publishing: set[asyncio.Task[object]] = set()
        self._beside: set[asyncio.Task[object]] = set()
        """What it does because it was told to; none of it waits for an application ack."""
        self._number = 0
        self._levels = {stream: topic.name(tenant=settings.tenant, device=plan.name) for stream, topic in _topics()}
        self._next_s = settings.started_s + random.uniform(0, settings.interval_s)
        self._made_s = settings.started_s - min(settings.interval_s, UP_MIN_S)
        self._next_log_s = settings.started_s + random.uniform(0.5, LOG_EVERY_S)
        self._next_event_s = settings.started_s + random.uniform(0.5, EVENT_EVERY_S)

    @property
    def connected(self) -> bool:
        """True while a connection stands."""
        return self._connection is not None and not self._connection.closed.is_set()

    @property
    def settled(self) -> bool:
        """True when nothing of this device is waiting for an ack."""
        return self.outbox.settled and not self._publishing

    async def run(self) -> None:
        """Measure and stay connected until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stay_connected(), name=f"{self.plan.name} connection")
            tasks.create_task(self._measure(), name=f"{self.plan.name} measuring")

    async def close(self) -> None:
        """Say goodbye: status offline, DISCONNECT."""
        for task in (*self._publishing, *self._beside):
            task.cancel()
        if self._connection is None:
            return
        await self._say_offline("stopped")
        await self._connection.close(end_session=True)

    async def reboot(self, boot_s: float) -> None:
        """Say goodbye, be away for `boot_s`, come back with a new boot id; returns when it is connected again."""
        before = self.connections
        self._boots_until_s = time.monotonic() + boot_s
        if self._connection is not None:
            await self._say_offline("reboot")
            await self._connection.close(end_session=True)
        self.outbox.rebooted(new_boot(), time.monotonic())
        self._made_s = self._boots_until_s
        self._next_s = self._made_s + self.interval_s
        while self.connections == before or not self.connected:
            await asyncio.sleep(0.1)

    def set_interval(self, interval_s: float) -> None:
        """Measure so often from now on."""
        self.interval_s = interval_s
        self._next_s = min(self._next_s, time.monotonic() + interval_s)

    def log(self, level: str, text: str) -> None:
        """Hand a log line to the outbox; a device that does not number sends it at once."""
        now_s = time.monotonic()
        if self.plan.numbered:
            self._add_record(now_s, "log", {"level": level, "msg": text})
            self._send_due()
        else:
            line = {"ts": self._settings.wall_ms(now_s), "level": level, "msg": text}
            self.start(self.publish(self._levels["log"], orjson.dumps(line)))

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Publish beside the outbox with QoS 1; True when the broker took it for somebody."""
        try:
            if self._connection is None:
                return False
            await self._connection.publish(topic, payload)
        except Transient:
            return False
        return True

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Let something run until it ends or the device does."""
        _run(work, self._beside)

    async def _say_offline(self, reason: str) -> None:
        assert self._connection is not None
        with suppress(Transient, TimeoutError):
            async with asyncio.timeout(2):
                await self._connection.publish(
                    self._levels["status"], self._status("offline", reason=reason), retain=True
                )

    async def _stay_connected(self) -> None:
        backoff = Backoff(first_s=0.5, max_s=10.0)
        attempt = 0
        await asyncio.sleep(self.dice.uniform(0, self._settings.spread_s))
        while True:
            await asyncio.sleep(max(0.0, self._boots_until_s - time.monotonic()))
            connection = None
            generation, url = self._login(attempt)
            attempt += 1
            try:
                connection = await Connection.open(
                    url,
                    self.plan.name,
                    self._on_delivery,
                    clean_start=True,
                    session_expiry_s=0,
                    receive_maximum=64,
                    keepalive_s=KEEPALIVE_S,
                    will=(self._levels["status"], self._status("offline", reason="connection lost"), 1, True),
                )
                await connection.subscribe([self._levels["ack"]], qos=0)
                await connection.subscribe(self.behaviour.filters)
                with suppress(NotStored):  # it is retained: who subscribes later gets it
                    await connection.publish(self._levels["status"], self._status("online"), retain=True)
            except Transient as error:
                self.problem = str(error)
                if connection is not None:
                    await connection.close()
                await asyncio.sleep(backoff.next_s())
                continue
            self._connection, self.problem, attempt = connection, "", 0
            if self.secrets is not None:
                self.secrets.took(generation)
            self.connections += 1
            since_s = time.monotonic()
            self.outbox.reconnected()
            self._send_due()
            self.start(self.behaviour.connected())
            await connection.closed.wait()
            if time.monotonic() - since_s > 5:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    def _login(self, attempt: int) -> tuple[int, str]:
        """Generation and address of the attempt-th connection in a row: the newest secret first, then older ones."""
        if self.secrets is None:
            return 0, self._settings.url
        generation, secret = self.secrets.to_try(attempt)
        parts = urlsplit(self._settings.url)
        login = f"{self.plan.name}:{quote(secret, safe='')}@{parts.netloc.rpartition('@')[2]}"
        return generation, urlunsplit(parts._replace(netloc=login))

    async def _measure(self) -> None:
        while True:
            now_s = time.monotonic()
            if self.producing and now_s >= self._boots_until_s:
                self._produce(now_s)
            self._send_due()
            next_s = min(self._next_s, self._next_log_s) if self.producing else now_s + LOOK_S
            await asyncio.sleep(min(max(next_s - time.monotonic(), 0), LOOK_S))

    def _produce(self, now_s: float) -> None:
        if now_s >= self._next_s:
            self._produce_telemetry(now_s)
            # A late tick is not made up for: devices skip a measurement too.
            self._next_s = max(self._next_s + self.interval_s, now_s + min(self.interval_s, APART_S))
        if not self.plan.numbered:
            self._next_log_s = self._next_event_s = float("inf")
        if now_s >= self._next_log_s:
            level = self.plan.random.choice(("debug", "info", "info", "warning", "error"))
            if LEVELS.index(level) >= LEVELS.index(self.log_level):
                self._add_record(now_s, "log", {"level": level, "msg": f"uptime {self.outbox.uptime_ms(now_s)} ms"})
            self._next_log_s = now_s + self.plan.random.uniform(0.5, 1.5) * LOG_EVERY_S
        if now_s >= self._next_event_s:
            name, fields = self.plan.source.event()
            self._add_record(now_s, "event", {"type": name, **fields})
            self._next_event_s = now_s + self.plan.random.uniform(0.5, 1.5) * EVENT_EVERY_S

    def _produce_telemetry(self, now_s: float) -> None:
        plan = self.plan
        # An interval that has just become longer does not reach back behind what was measured last.
        step_s = min(self.interval_s, now_s - self._made_s) / plan.frames
        self._made_s = now_s
        frames = []
        for back in range(plan.frames - 1, -1, -1):
            at_s = now_s - back * step_s
            frames.append(Frame(self._time_ms(at_s), plan.source.values(max(0.0, at_s - self._settings.started_s))))
        if self._settings.counter:
            self._number += 1
            frames[-1] = Frame(frames[-1].time_ms, {**frames[-1].values, "n": self._number})
        if not plan.numbered:
            self._publish_unnumbered(frames[-1])
            return
        self.samples += sum(len(frame.values) for frame in frames)
        document = document_of(plan.encoding, frames, clockless=plan.clockless)
        rows = [(frame.time_ms, name, value) for frame in frames for name, value in frame.values.items()]
        self._add("telemetry", document, rows)

    def _add_record(self, now_s: float, stream: str, fields: Values) -> None:
        time_ms = self._time_ms(now_s)
        label = str(fields["type" if stream == "event" else "level"])
        self._add(
            stream,
            {"up_ms" if self.plan.clockless else "ts": time_ms, **fields},
            [(time_ms, label, fields.get("msg", ""))],
        )

    def _add(self, stream: str, document: Document, rows: Iterable[tuple[int, str, object]]) -> None:
        encode = encoder_of(self.plan.encoding) if stream == "telemetry" else encode_json
        message = self.outbox.add(stream, document, clockless=self.plan.clockless, encode=encode)
        if self._settings.recorder is not None:
            self._settings.recorder.expect(self.plan, message, rows)

    def _time_ms(self, at_s: float) -> int:
        return self.outbox.uptime_ms(at_s) if self.plan.clockless else self._settings.wall_ms(at_s)

    def _publish_unnumbered(self, frame: Frame) -> None:
        if not self.connected:
            return
        self.samples += len(frame.values)
        if self.plan.encoding == "scalar":
            for name, value in frame.values.items():
                self._start_publish(f"{self._levels['telemetry']}/{name}", orjson.dumps(value), counts=True)
        else:
            self._start_publish(self._levels["telemetry"], orjson.dumps({"ts": frame.time_ms, **frame.values}), True)

    def _send_due(self) -> None:
        if self.connected:
            for out in self.outbox.due(time.monotonic()):
                self._start_publish(self._levels[out.stream], out.payload)

    def _start_publish(self, topic: str, payload: bytes, counts: bool = False) -> None:
        _run(self._publish(topic, payload, counts), self._publishing)

    async def _publish(self, topic: str, payload: bytes, counts: bool) -> None:
        # A lost PUBACK changes nothing for a numbered message: only the application ack counts.
        with suppress(Transient):
            assert self._connection is not None
            await self._connection.publish(topic, payload)
            self.unnumbered += counts

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.connection.ack([delivery.packet_id])
        if delivery.topic == self._levels["ack"]:
            self._on_ack(delivery)
        else:
            self.behaviour.on_message(delivery.topic, delivery.payload)

    def _on_ack(self, delivery: Delivery) -> None:
        now_s = time.monotonic()
        acked: list[Message] = self.outbox.on_ack(delivery.payload, now_s)
        for message in acked:
            self._settings.on_acked(now_s - message.first_sent_s)
            if message.reasons and self._settings.recorder is not None:
                self._settings.recorder.refused(self.plan, message)
        self._send_due()

    def _status(self, state: str, reason: str = "") -> bytes:
        status = {
            "state": state,
            "ts": time.time_ns() // 1_000_000,
            "boot": self.outbox.boot,
            "fw": self.plan.firmware,
            "tier": self.plan.tier,
        }
        return orjson.dumps(status | ({"reason": reason} if reason else {}))


def _run(work: Coroutine[Any, Any, object], among: set[asyncio.Task[object]]) -> None:
    task = asyncio.create_task(work)
    among.add(task)
    task.add_done_callback(among.discard)


def _topics() -> Iterable[tuple[str, topics.Topic]]:
    return (*STREAM_TOPICS.items(), ("ack", topics.ACK), ("status", topics.STATUS))
