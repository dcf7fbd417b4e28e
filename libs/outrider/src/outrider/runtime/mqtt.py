"""One MQTT 5 connection: the port that knows packets, so that the rest need not.

One `Connection` is one epoch (delivery rule 13): its packet ids mean nothing on the next connection, so an ack can
only be given to the connection that delivered the message, and a closed connection drops it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl as ssl_module
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from outrider.runtime import packets
from outrider.runtime.errors import ConnectionLost, NotStored, SessionTakenOver, Transient
from outrider.runtime.packets import Frame, Malformed, Properties, Request, Will

log = logging.getLogger(__name__)

SESSION_TAKEN_OVER = 0x8E
NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80
SESSION_NEVER_EXPIRES = 0xFFFFFFFF
CA_FILE_VARIABLE = "OUTRIDER_MQTT_CA_FILE"
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


def tls_context(query: str = "") -> ssl_module.SSLContext:
    """TLS that trusts the authorities in the file a URL's query names (`cafile=PATH`), else those in the file that
    OUTRIDER_MQTT_CA_FILE names, else the machine's. Raises Transient if the file cannot be used."""
    file = dict(parse_qsl(query)).get("cafile") or os.environ.get(CA_FILE_VARIABLE) or None
    try:
        return ssl_module.create_default_context(cafile=file)
    except OSError as error:
        raise Transient(f"{file} has no certificates to trust: {error}; mend {CA_FILE_VARIABLE}") from error


def with_ca_file(url: str, file: str | os.PathLike[str] | None) -> str:
    """The URL with `?cafile=`, where it is one for TLS and names none yet."""
    parts = urlsplit(url)
    if file is None or parts.scheme not in ("mqtts", "ssl") or "cafile" in dict(parse_qsl(parts.query)):
        return url
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), ("cafile", os.fspath(file))])))


class Delivery:
    """A message as the broker delivered it; acknowledge it on its own connection only.

    `done`: set by a handler that settles a batch piece by piece: it is stored or rejected, a retry leaves it out.
    `note`: whatever a handler wants to find again when the batch is retried.
    `retained`: sent because of a subscription, so it may be old and may have come before.
    """

    __slots__ = ("connection", "done", "note", "packet_id", "payload", "properties", "received_ms", "retained", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        packet_id: int,
        connection: Connection,
        received_ms: int,
        properties: Properties | None,
        retained: bool = False,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.packet_id = packet_id
        self.connection = connection
        self.received_ms = received_ms
        self.properties = properties
        self.retained = retained
        self.done = False
        self.note: Any = None


class Connection(asyncio.Protocol):
    """A live MQTT 5 connection. `closed` is set when it ends, `reason` then says why; it never reconnects.

    `on_delivery` is called on the event loop for every PUBLISH. QoS 1 messages stay un-acked until `ack`.
    """

    def __init__(self, client_id: str, on_delivery: Callable[[Delivery], None]) -> None:
        self.client_id = client_id
        self.session_present = False
        self.closed = asyncio.Event()
        self.reason: Transient = ConnectionLost("the broker closed the connection")
        self.properties: Properties = {}
        self._on_delivery = on_delivery
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()
        """The transport is closed; nothing of this connection comes or goes any more."""
        self._rest = bytearray()
        """The beginning of a packet whose end has not come yet, which needs `_needed` bytes in all."""
        self._needed = 0
        self._connack: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._last_id = 0
        self._inflight = asyncio.Semaphore(20)
        self._writable = asyncio.Event()
        self._writable.set()
        self._heard_s = self._wrote_s = 0.0
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
        tls: ssl_module.SSLContext | None = None,
    ) -> Connection:
        """Connect and wait for CONNACK. Raises Transient with what to do when the broker cannot be reached or refuses.

        The URL's user name and password are percent-encoded (`svc%3Aingest`). `mqtts://` is TLS: with `tls`, else with
        the authorities in the file of `?cafile=` or OUTRIDER_MQTT_CA_FILE, else with the machine's own.
        `will`: topic, payload, QoS and retain flag of what the broker publishes when this connection dies.
        """
        parts = urlsplit(url)
        tls = (tls or tls_context(parts.query)) if parts.scheme in ("mqtts", "ssl") else None
        connection = cls(client_id, on_delivery)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, parts.hostname or "127.0.0.1", parts.port or (8883 if tls else 1883), ssl=tls
                )
                connection._write(
                    packets.connect(
                        client_id,
                        clean_start=clean_start,
                        keepalive_s=keepalive_s,
                        session_expiry_s=session_expiry_s,
                        receive_maximum=receive_maximum,
                        username=unquote(parts.username) if parts.username else None,
                        password=unquote(parts.password) if parts.password else None,
                        will=Will(*will) if will else None,
                    )
                )
                code = await connection._connack
        except ssl_module.SSLCertVerificationError as error:
            await connection._end()
            raise Transient(
                f"the certificate of {parts.hostname}:{parts.port} is not to be trusted: {error}; "
                f"name its authority's certificate with {CA_FILE_VARIABLE}, and the host as the certificate does"
            ) from error
        except (OSError, TimeoutError) as error:
            await connection._end()
            why = str(error) or f"no answer within {timeout_s:g} s"
            raise Transient(
                f"no broker at {parts.hostname}:{parts.port}: {why}; start it, or mend OUTRIDER_MQTT_URL"
            ) from error
        except asyncio.CancelledError:
            await connection._end()
            raise
        if code >= FAILURE:
            await connection._end()
            raise Transient(f"broker refused {client_id}: {_REASONS.get(code, hex(code))}")
        maximum = connection.properties.get("receive_maximum", [65535])[0]
        connection._inflight = asyncio.Semaphore(max(1, maximum))
        connection._watch(float(connection.properties.get("server_keep_alive", [keepalive_s])[0]))
        return connection

    def _watch(self, keepalive_s: float, due_s: float | None = None) -> None:
        now_s = time.monotonic()
        if self.closed.is_set() or not keepalive_s:
            return
        interval_s = keepalive_s / 4
        if due_s is not None and now_s - due_s > interval_s:
            # This process was stopped or busy, so the silence is its own: what the broker said meanwhile (perhaps
            # "session taken over", after which nobody may reconnect) has not been read yet.
            self._heard_s = now_s
        silent_s = now_s - self._heard_s
        if self._reading and silent_s >= SILENCE_KEEPALIVES * keepalive_s:
            self._lost(ConnectionLost(f"the broker has been silent for {silent_s:.0f} s"))
            self.abort()  # what could not be sent so far never will
            return
        if silent_s >= keepalive_s / 2 or now_s - self._wrote_s >= keepalive_s / 2:
            self._write(packets.PINGREQ)
        asyncio.get_running_loop().call_later(interval_s, self._watch, keepalive_s, now_s + interval_s)

    # What asyncio calls.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP (and TLS) is up."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it
        self._heard_s = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP has ended."""
        self._gone.set()
        self._lost(ConnectionLost(f"the connection to the broker broke: {exc}" if exc else str(self.reason)))

    def pause_writing(self) -> None:
        """The socket takes no more for now: publishers wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Read every whole packet; whatever goes wrong ends this connection and leaves the messages un-acked."""
        self._heard_s = time.monotonic()
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        received_ms = time.time_ns() // 1_000_000
        try:
            found, position, self._needed = packets.frames(data)
            for frame in found:
                if self.closed.is_set():
                    return  # the rest of a buffer: the next connection gets these messages again
                if frame[0] & 0xF0 == packets.PUBLISH:
                    topic, packet_id, properties, payload = packets.read_publish(data, frame)
                    retained = frame[0] & 1 == 1
                    self._on_delivery(Delivery(topic, payload, packet_id, self, received_ms, properties, retained))
                else:
                    self._on_other(data, frame)
        except Exception as error:
            if not isinstance(error, Malformed):
                log.exception("mqtt_packet_failed", extra={"client_id": self.client_id})
            self._lost(ConnectionLost(f"a packet from the broker could not be read: {error}"))
            return
        if position < len(data):
            self._rest += data[position:]

    def _on_other(self, data: bytes, frame: Frame) -> None:
        kind = frame[0] & 0xF0
        if kind in (packets.PUBACK, packets.SUBACK, packets.UNSUBACK):
            packet_id, codes = packets.read_codes(data, frame)
            waiting = self._waiting.pop(packet_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(codes)
        elif kind == packets.CONNACK:
            self.session_present, code, self.properties = packets.read_connack(data, frame)
            if not self._connack.done():
                self._connack.set_result(code)
        elif kind == packets.DISCONNECT:
            code = packets.read_disconnect(data, frame)
            text = _REASONS.get(code, "the broker closed the connection")
            self._lost(SessionTakenOver(text) if code == SESSION_TAKEN_OVER else ConnectionLost(text))
        elif kind != packets.PINGRESP:
            raise Malformed(f"a broker sends no packet of type {kind >> 4}")

    def _lost(self, reason: Transient) -> None:
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        answers: list[asyncio.Future[int] | asyncio.Future[tuple[int, ...]]] = [self._connack, *self._waiting.values()]
        for waiting in answers:
            if not waiting.done():
                waiting.set_exception(reason)
                waiting.exception()  # retrieved here: whoever waited may have been cancelled
        self._waiting.clear()
        self._writable.set()  # publishers that wait for room see that it is closed
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._wrote_s = time.monotonic()
        self._transport.write(data)

    def ack(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge messages that *this* connection delivered; after it closed this does nothing (rule 13)."""
        if self.closed.is_set():
            return
        out = packets.puback(packet_ids)
        if out:
            self._write(out)  # joined: one write for a whole batch

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        user_properties: Sequence[tuple[str, str]] = (),
        request: Request | None = None,
    ) -> None:
        """Publish; with QoS 1 wait for PUBACK.

        Raises ConnectionLost, NotStored (reason 0x10) or Transient with the broker's refusal.
        """
        if not self._writable.is_set():
            await self._writable.wait()
        if self.closed.is_set():
            raise self.reason
        if qos == 0:
            self._write(
                packets.publish(topic, payload, retain=retain, user_properties=user_properties, request=request)
            )
            return
        async with self._inflight:
            if self.closed.is_set():
                raise self.reason
            packet_id, answer = self._wait()
            try:
                self._write(
                    packets.publish(
                        topic,
                        payload,
                        packet_id=packet_id,
                        retain=retain,
                        user_properties=user_properties,
                        request=request,
                    )
                )
            except Malformed:
                del self._waiting[packet_id]
                raise
            (code,) = await answer
        if code == NO_MATCHING_SUBSCRIBERS:
            raise NotStored(f"nobody subscribes to {topic}")
        if code >= FAILURE:
            raise Transient(f"broker refused a message on {topic}: {_REASONS.get(code, hex(code))}")

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish many (topic, payload) with QoS 0, in one write. Raises ConnectionLost."""
        if not self._writable.is_set():
            await self._writable.wait()
        if self.closed.is_set():
            raise self.reason
        self._write(b"".join([packets.publish(topic, payload) for topic, payload in messages]))

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> None:
        """Subscribe and wait for SUBACK. Raises Transient naming a filter the broker refuses."""
        if not filters:
            return
        if self.closed.is_set():
            raise self.reason
        packet_id, answer = self._wait()
        self._write(packets.subscribe(packet_id, filters, qos))
        codes = await answer
        if len(codes) != len(filters):
            raise Transient(f"the broker answered {len(codes)} of {len(filters)} subscriptions")
        for topic_filter, code in zip(filters, codes, strict=True):
            if code >= FAILURE:
                raise Transient(f"broker refused to subscribe {topic_filter}: {_REASONS.get(code, hex(code))}")

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for UNSUBACK (only a slot that is retired does this: it stops the session's queue).

        Raises Transient naming a filter the broker refuses.
        """
        if self.closed.is_set():
            raise self.reason
        packet_id, answer = self._wait()
        self._write(packets.unsubscribe(packet_id, filters))
        for topic_filter, code in zip(filters, await answer, strict=False):
            if code >= FAILURE:
                raise Transient(f"broker refused to unsubscribe {topic_filter}: {_REASONS.get(code, hex(code))}")

    def _wait(self) -> tuple[int, asyncio.Future[tuple[int, ...]]]:
        if len(self._waiting) == 65535:
            raise Transient("every packet id waits for an answer of the broker")
        packet_id = self._last_id % 65535 + 1
        while packet_id in self._waiting:
            packet_id = packet_id % 65535 + 1
        self._last_id = packet_id
        future: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._waiting[packet_id] = future
        return packet_id, future

    def pause(self) -> None:
        """Stop reading from the socket: TCP holds the broker back. What was read already is still delivered."""
        if self._transport is not None and not self.closed.is_set() and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self.closed.is_set() and not self._reading:
            self._reading = True
            self._heard_s = time.monotonic()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Break the connection off without a word, as a dead network does."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self, *, end_session: bool = False) -> None:
        """DISCONNECT, keeping the session for the next connection (or ending it, for clients that have none to keep)."""
        if not self.closed.is_set():
            self._write(packets.disconnect(0 if end_session else None))
        await self._end()

    async def _end(self) -> None:
        self._lost(ConnectionLost("closed by this service"))
        if self._transport is None:
            return
        try:
            async with asyncio.timeout(5):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()
