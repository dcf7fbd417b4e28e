"""One MQTT 5 connection on gmqtt's framing: the port that knows packets, so that the rest need not.

One `Connection` is one epoch (delivery rule 13): its packet ids mean nothing on the next connection, so an ack can
only be given to the connection that delivered the message, and a closed connection drops it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from gmqtt.client import Message as GmqttMessage
from gmqtt.mqtt.connection import MQTTConnection
from gmqtt.mqtt.constants import MQTTCommands
from gmqtt.mqtt.package import Package
from gmqtt.mqtt.property import Property
from gmqtt.mqtt.utils import ConnectionState, IdGenerator, unpack_variable_byte_integer
from gmqtt.subscription import Subscription

from outrider.runtime.errors import ConnectionLost, NotStored, OutriderError, SessionTakenOver, Transient

log = logging.getLogger(__name__)
logging.getLogger("gmqtt").setLevel(logging.ERROR)

SESSION_TAKEN_OVER = 0x8E
NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80
SESSION_NEVER_EXPIRES = 0xFFFFFFFF
SILENCE_KEEPALIVES = 1.2
"""A broker that says nothing for so many keepalives is gone; checked every quarter, so noticed within 1.5."""

_REASONS = {
    0x84: "the broker does not speak MQTT 5; Outrider needs Mosquitto 2.0.21 or newer",
    0x85: "the broker refuses this client id",
    0x86: "wrong user name or password",
    0x87: "not authorized; check the broker's access rules for this account",
    0x88: "the broker is unavailable",
    0x89: "the broker is busy",
    0x8B: "the broker shuts down",
    0x8D: "keep alive timeout",
    0x8E: "session taken over by another process with the same client id",
    0x95: "packet too large for the broker; set max_packet_size 4194304",
    0x97: "quota exceeded",
}


class Delivery:
    """A message as the broker delivered it; acknowledge it on its own connection only.

    `done`: set by a handler that settles a batch piece by piece: it is stored or rejected, a retry leaves it out.
    `note`: whatever a handler wants to find again when the batch is retried.
    """

    __slots__ = ("connection", "done", "note", "packet_id", "payload", "properties", "received_ms", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        packet_id: int,
        connection: Connection,
        received_ms: int,
        properties: dict[str, list[Any]] | None,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.packet_id = packet_id
        self.connection = connection
        self.received_ms = received_ms
        self.properties = properties
        self.done = False
        self.note: Any = None


class Connection:
    """A live MQTT 5 connection. `closed` is set when it ends, `reason` then says why; it never reconnects.

    `on_delivery` is called on the event loop for every PUBLISH. QoS 1 messages stay un-acked until `ack`.
    """

    def __init__(self, client_id: str, on_delivery: Callable[[Delivery], None]) -> None:
        self.client_id = client_id
        self.session_present = False
        self.closed = asyncio.Event()
        self.reason: Transient = ConnectionLost("the broker closed the connection")
        self.properties: dict[str, list[Any]] = {}
        self.id_generator = IdGenerator(max=65535)  # read by gmqtt's protocol
        self._on_delivery = on_delivery
        self._link: MQTTConnection | None = None
        self._connack: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._inflight = asyncio.Semaphore(20)
        self._heard_s = 0.0
        self._reading = True

    @classmethod
    async def open(
        cls,
        url: str,
        client_id: str,
        on_delivery: Callable[[Delivery], None],
        *,
        clean_start: bool,
        session_expiry_s: int,
        receive_maximum: int,
        keepalive_s: int = 20,
        timeout_s: float = 10.0,
        will: tuple[str, bytes, int, bool] | None = None,
    ) -> Connection:
        """Connect and wait for CONNACK. Raises Transient with what to do when the broker cannot be reached or refuses."""
        parts = urlsplit(url)
        tls: bool | ssl_module.SSLContext = (
            ssl_module.create_default_context() if parts.scheme in ("mqtts", "ssl") else False
        )
        connection = cls(client_id, on_delivery)
        try:
            async with asyncio.timeout(timeout_s):
                link = await MQTTConnection.create_connection(
                    parts.hostname or "127.0.0.1",
                    parts.port or (8883 if tls else 1883),
                    tls,
                    clean_start,
                    keepalive_s,
                    connection_state=ConnectionState(),
                    package_handler=connection,
                )
                await link.auth(
                    client_id,
                    unquote(parts.username).encode() if parts.username else None,
                    unquote(parts.password).encode() if parts.password else None,
                    will_message=GmqttMessage(will[0], will[1], qos=will[2], retain=will[3]) if will else None,
                    session_expiry_interval=session_expiry_s,
                    receive_maximum=receive_maximum,
                )
                code = await connection._connack
        except (OSError, TimeoutError) as error:
            await connection._abort()
            why = str(error) or f"no answer within {timeout_s:g} s"
            raise Transient(
                f"no broker at {parts.hostname}:{parts.port}: {why}; start it, or mend OUTRIDER_MQTT_URL"
            ) from error
        except asyncio.CancelledError:
            await connection._abort()
            raise
        if code >= FAILURE:
            await connection._abort()
            raise Transient(f"broker refused {client_id}: {_REASONS.get(code, hex(code))}")
        maximum = connection.properties.get("receive_maximum", [65535])[0]
        connection._inflight = asyncio.Semaphore(max(1, maximum))
        # gmqtt's own watch gives up after 2 to 2.5 keepalives, and also where nothing is heard because reading is paused.
        link.keepalive = 0
        connection._heard_s = time.monotonic()
        connection._watch(float(connection.properties.get("server_keep_alive", [keepalive_s])[0]))
        return connection

    def _watch(self, keepalive_s: float, due_s: float | None = None) -> None:
        now_s = time.monotonic()
        if self.closed.is_set() or self._link is None or not keepalive_s:
            return
        interval_s = keepalive_s / 4
        if due_s is not None and now_s - due_s > interval_s:
            # This process was stopped or busy, so the silence is its own: what the broker said meanwhile (perhaps
            # "session taken over", after which nobody may reconnect) has not been read yet.
            self._heard_s = now_s
        silent_s = now_s - self._heard_s
        if self._reading and silent_s >= SILENCE_KEEPALIVES * keepalive_s:
            self._lost(ConnectionLost(f"the broker has been silent for {silent_s:.0f} s"))
            self._link._transport.abort()  # what could not be sent so far never will
            return
        if silent_s >= keepalive_s / 2 or now_s - self._link._last_data_out >= keepalive_s / 2:
            self._link._send_ping_request()
        asyncio.get_running_loop().call_later(interval_s, self._watch, keepalive_s, now_s + interval_s)

    # What gmqtt's MQTTConnection expects of its package handler.
    def set_connection(self, link: MQTTConnection) -> None:
        """Called by gmqtt with the framing connection."""
        self._link = link

    @property
    def current_connection(self) -> MQTTConnection | None:
        """Read by gmqtt: packets of another framing connection are dropped."""
        return self._link

    def __call__(self, package: Package) -> None:
        """Called by gmqtt with every packet; an exception here would end its read loop, so none leaves."""
        if self.closed.is_set():
            return  # the rest of a buffer: the next connection gets these messages again
        self._heard_s = time.monotonic()
        try:
            self._dispatch(package.cmd, package.data)
        except Exception:
            log.exception("mqtt_packet_failed", extra={"client_id": self.client_id, "command": hex(package.cmd)})
            self._lost(ConnectionLost("a packet from the broker could not be read"))

    def _dispatch(self, command: int, data: bytes) -> None:
        kind = command & 0xF0
        if kind == MQTTCommands.PUBLISH:
            self._on_publish(command, data)
        elif kind in (MQTTCommands.PUBACK, MQTTCommands.UNSUBACK, MQTTCommands.SUBACK):
            self._on_acknowledged(kind, data)
        elif kind == MQTTCommands.CONNACK:
            self.session_present = bool(data[0] & 1)
            self.properties = _properties(data[2:])[0] if len(data) > 2 else {}
            if not self._connack.done():
                self._connack.set_result(data[1])
        elif kind == MQTTCommands.DISCONNECT:
            code = data[0] if data else 0
            text = _REASONS.get(code, "the broker closed the connection")
            self._lost(SessionTakenOver(text) if code == SESSION_TAKEN_OVER else ConnectionLost(text))

    def _on_publish(self, command: int, data: bytes) -> None:
        end = 2 + (data[0] << 8 | data[1])
        topic = data[2:end].decode()
        qos = command >> 1 & 3
        packet_id = 0
        if qos:
            packet_id = data[end] << 8 | data[end + 1]
            end += 2
        properties = None
        if data[end]:
            properties, payload = _properties(data[end:])
        else:
            payload = data[end + 1 :]
        self._on_delivery(Delivery(topic, bytes(payload), packet_id, self, time.time_ns() // 1_000_000, properties))

    def _on_acknowledged(self, kind: int, data: bytes) -> None:
        packet_id = data[0] << 8 | data[1]
        waiting = self._waiting.pop(packet_id, None)
        self.id_generator.free_id(packet_id)
        if waiting is None or waiting.done():
            return
        if kind == MQTTCommands.PUBACK:
            codes: tuple[int, ...] = (data[2] if len(data) > 2 else 0,)
        else:
            codes = tuple(_properties(data[2:])[1])
        waiting.set_result(codes)

    def _lost(self, reason: Transient) -> None:
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        if not self._connack.done():
            self._connack.set_exception(reason)
            self._connack.exception()  # retrieved here: open() may have been cancelled
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(reason)
                waiting.exception()
        self._waiting.clear()
        if self._link is not None:
            self._link._transport.close()

    def ack(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge messages that *this* connection delivered; after it closed this does nothing (rule 13)."""
        if self.closed.is_set() or self._link is None:
            return
        out = bytearray()
        for packet_id in packet_ids:
            if packet_id:
                out += b"\x40\x02" + packet_id.to_bytes(2, "big")
        if out:
            self._link.send_package(out)  # joined: one write for a whole batch

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        user_properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Publish; with QoS 1 wait for PUBACK.

        Raises ConnectionLost, NotStored (reason 0x10) or Transient with the broker's refusal.
        """
        if self.closed.is_set() or self._link is None:
            raise self.reason
        properties = {"user_property": list(user_properties)} if user_properties else {}
        message = GmqttMessage(topic, payload, qos=qos, retain=retain, **properties)
        if qos == 0:
            self._link.publish(message)
            return
        async with self._inflight:
            if self.closed.is_set():
                raise self.reason
            packet_id, _ = self._link.publish(message)
            (code,) = await self._wait(packet_id)
        if code == NO_MATCHING_SUBSCRIBERS:
            raise NotStored(f"nobody subscribes to {topic}")
        if code >= FAILURE:
            raise Transient(f"broker refused a message on {topic}: {_REASONS.get(code, hex(code))}")

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> None:
        """Subscribe and wait for SUBACK. Raises OutriderError naming a filter the broker refuses."""
        if not filters:
            return
        if self.closed.is_set() or self._link is None:
            raise self.reason
        packet_id = self._link.subscribe([Subscription(topic_filter, qos=qos) for topic_filter in filters])
        for topic_filter, code in zip(filters, await self._wait(packet_id), strict=False):
            if code >= FAILURE:
                raise Transient(f"broker refused to subscribe {topic_filter}: {_REASONS.get(code, hex(code))}")

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for UNSUBACK (only a slot that is retired does this: it stops the session's queue)."""
        if self.closed.is_set() or self._link is None:
            raise self.reason
        await self._wait(self._link.unsubscribe(list(filters)))

    def _wait(self, packet_id: int) -> asyncio.Future[tuple[int, ...]]:
        future: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._waiting[packet_id] = future
        return future

    def pause(self) -> None:
        """Stop reading from the socket: TCP holds the broker back.

        Call it again for every message that arrives after it: asyncio's StreamReader resumes reading by itself when
        its buffer runs low.
        """
        if self._link is not None and not self.closed.is_set():
            self._reading = False
            self._link._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._link is not None and not self.closed.is_set():
            self._reading = True
            self._heard_s = time.monotonic()
            self._link._transport.resume_reading()

    async def close(self, *, end_session: bool = False) -> None:
        """DISCONNECT, keeping the session for the next connection (or ending it, for clients that have none to keep)."""
        if self._link is not None and not self.closed.is_set():
            properties = {"session_expiry_interval": 0} if end_session else {}
            self._link.send_disconnect(**properties)
        await self._abort()

    async def _abort(self) -> None:
        self._lost(ConnectionLost("closed by this service"))
        if self._link is not None:
            try:
                async with asyncio.timeout(5):
                    await self._link.close()
            except (OSError, TimeoutError, OutriderError):
                log.debug("mqtt_close_failed", exc_info=True)
                self._link._transport.abort()


def _properties(data: bytes) -> tuple[dict[str, list[Any]], bytes]:
    """MQTT 5 properties at the start of `data`, and what follows them."""
    length, rest = unpack_variable_byte_integer(data)
    block, rest = rest[:length], rest[length:]
    values: dict[str, list[Any]] = {}
    while block:
        kind = Property.factory(id_=block[0])
        if kind is None:
            raise ValueError(f"unknown MQTT property {block[0]}")
        found, block = kind.loads(block[1:])
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    return values, rest
