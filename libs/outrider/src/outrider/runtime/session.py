"""A persistent MQTT session and a publisher: connections that come back by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from outrider.contract import topics
from outrider.runtime import metrics
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import ConnectionLost, SessionTakenOver, Transient
from outrider.runtime.mqtt import SESSION_NEVER_EXPIRES, Connection, Delivery
from outrider.runtime.packets import Request

log = logging.getLogger(__name__)

RETIRE_QUIET_S = 1.0
"""A retiring session with nothing in hand for so long is empty: the broker sends what it has at once."""
ATTENDED_S = 10.0
"""How long it is believed that a slot is there. It can go meanwhile only with the connection, or by never having come back
for as long as sessions live: one that retires stays until nobody believes it any more."""
ATTENDED_GRACE_S = 2.0
"""How much longer it stays, for what is on its way to the broker then."""
_ATTENDED = topics.ATTENDED.template.partition("{")[0]
OVERHEAD_BYTES = 256
"""What a message in hand takes in memory beside its payload, about."""
_BRIEF = Request(expiry_s=1)
"""A slot that is away for a while finds no questions of that time in its queue."""


class Session:
    """The broker's queue of one slot: fixed client id, clean_start 0, never expires; un-acked messages wait here in order.

    At most `receive_maximum` messages and about `max_bytes` bytes are in hand: beyond that the socket is not read.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        filters: Sequence[str],
        *,
        receive_maximum: int,
        max_bytes: int,
        may_connect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`may_connect` is awaited before every connection: it returns while the caller holds the lease (rule 12)."""
        self.client_id = client_id
        self._url = url
        self._filters = list(filters)
        self._receive_maximum = receive_maximum
        self._max_bytes = max_bytes
        self._may_connect = may_connect
        self._connection: Connection | None = None
        self._queue: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        """There is as much as the waiting `take` wants."""
        self._wanted = self._wanted_bytes = 1
        self._in_hand = 0
        """Messages of the live connection delivered and not yet acknowledged; `_bytes` of them."""
        self._bytes = 0
        self._oldest_taken_ms: int | None = None
        self._paused = False

    @property
    def connected(self) -> bool:
        """True while a subscribed connection is up."""
        return self._connection is not None and not self._connection.closed.is_set()

    @property
    def in_hand(self) -> tuple[int, int]:
        """(messages, bytes) delivered and not yet acknowledged."""
        return self._in_hand, self._bytes

    @property
    def oldest_ms(self) -> int | None:
        """Receive time (epoch ms) of the oldest message in hand; None when there is none."""
        if self._oldest_taken_ms is not None:
            return self._oldest_taken_ms
        return self._queue[0].received_ms if self._queue else None

    async def run(self) -> None:
        """Keep the session attended until cancelled. Raises SessionTakenOver: the caller must hold the lease first."""
        backoff = Backoff()
        while True:
            try:
                if self._may_connect is not None:
                    await self._may_connect()
                connection = await Connection.open(
                    self._url,
                    self.client_id,
                    self._on_delivery,
                    clean_start=False,
                    session_expiry_s=SESSION_NEVER_EXPIRES,
                    receive_maximum=self._receive_maximum,
                )
                self._connection = connection
                # Always: a broker that lost its persistence has no session, and subscribing twice changes nothing.
                await connection.subscribe(self._filters)
                log.info(
                    "session_connected",
                    extra={"client_id": self.client_id, "session_present": connection.session_present},
                )
                metrics.SESSION_CONNECTED.labels(self.client_id).set(1)
                backoff.reset()
                await connection.closed.wait()
                raise connection.reason
            except SessionTakenOver:
                raise
            except Transient as error:
                delay_s = backoff.next_s()
                log.warning(
                    "session_lost",
                    extra={"client_id": self.client_id, "reason": str(error), "retry_s": round(delay_s, 2)},
                )
                if self._connection is not None:
                    await self._connection.close()
                self._forget()
                metrics.SESSION_RECONNECTS.labels(self.client_id).inc()
                await asyncio.sleep(delay_s)
            finally:
                metrics.SESSION_CONNECTED.labels(self.client_id).set(1 if self.connected else 0)

    async def take(self, max_messages: int, max_bytes: int, max_age_s: float) -> list[Delivery]:
        """Wait for a message, then up to `max_age_s` for more; returns 1 … `max_messages` of one connection, in order."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        self._wanted, self._wanted_bytes = max_messages, max_bytes
        if len(self._queue) < max_messages and self._bytes < max_bytes:
            self._full.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max_age_s):
                    await self._full.wait()
        taken: list[Delivery] = []
        size = 0
        while self._queue and len(taken) < max_messages and size < max_bytes:
            delivery = self._queue.popleft()
            size += len(delivery.payload)
            taken.append(delivery)
        if not taken:  # the connection died meanwhile
            return await self.take(max_messages, max_bytes, max_age_s)
        self._oldest_taken_ms = taken[0].received_ms
        return taken

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge on the connection that delivered them; dropped where that connection is gone."""
        if not deliveries:
            return
        size = 0
        for delivery in deliveries:
            size += len(delivery.payload) + OVERHEAD_BYTES
            # What a handler noted points back to its delivery: freed now, not when some collection finds the cycle.
            delivery.note = None
        connection = deliveries[0].connection
        connection.ack([delivery.packet_id for delivery in deliveries])
        if connection is not self._connection:
            return
        self._in_hand -= len(deliveries)
        self._bytes -= size
        if self._in_hand == len(self._queue):
            self._oldest_taken_ms = None
        if self._paused and self._bytes < self._max_bytes // 2:
            self._paused = False
            connection.resume()

    async def retire(self) -> None:
        """Unsubscribe, so that the broker queues nothing more, and wait until what it had queued is settled.

        UNSUBSCRIBE, drain, DISCONNECT with expiry 0 is the way to give a session up without losing a message. Whoever asks
        whether the slot is there hears first that it is not, and publishes on what it heard before for a while.
        """
        questions = [topic for topic in self._filters if topic.startswith(_ATTENDED)]
        if questions:
            await self._unsubscribe(questions)
            await asyncio.sleep(ATTENDED_S + ATTENDED_GRACE_S)
        await self._unsubscribe(self._filters)
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < RETIRE_QUIET_S:
            if self._in_hand or not self.connected:
                quiet_since = time.monotonic()
            await asyncio.sleep(0.1)

    async def _unsubscribe(self, filters: Sequence[str]) -> None:
        self._filters = [topic for topic in self._filters if topic not in filters]
        while True:
            with suppress(Transient):
                if self._connection is not None:
                    await self._connection.unsubscribe(filters)
                    return
            await asyncio.sleep(0.2)

    async def close(self, *, end_session: bool = False) -> None:
        """Disconnect and keep the session: what arrives meanwhile waits in the broker. `end_session` gives it up."""
        if self._connection is not None:
            await self._connection.close(end_session=end_session)
        metrics.SESSION_CONNECTED.labels(self.client_id).set(0)

    def _forget(self) -> None:
        # The broker delivers what was not acknowledged again on the next connection, under new packet ids.
        self._queue.clear()
        self._in_hand = self._bytes = 0
        self._oldest_taken_ms = None
        self._paused = False
        self._connection = None

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.topic.startswith(_ATTENDED):
            delivery.connection.ack([delivery.packet_id])
            return
        queue = self._queue
        queue.append(delivery)
        self._in_hand += 1
        self._bytes += len(delivery.payload) + OVERHEAD_BYTES
        if len(queue) == 1:
            self._arrived.set()
        if len(queue) >= self._wanted or self._bytes >= self._wanted_bytes:
            self._full.set()
        if self._bytes > self._max_bytes:
            self._paused = True
            delivery.connection.pause()


class Publisher:
    """Publishes on a connection of its own, so that a session whose socket is held back never holds its PUBACKs back."""

    def __init__(self, url: str, client_id: str) -> None:
        self._url = url
        self._client_id = client_id
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
        self._attended: dict[tuple[str, int], tuple[int, float]] = {}
        self.connections = 0
        """How often it connected: a broker that came back may have lost what was retained."""

    @property
    def connected(self) -> bool:
        """True while the connection is up."""
        return self._ready.is_set()

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        backoff = Backoff()
        while True:
            try:
                self._connection = await Connection.open(
                    self._url, self._client_id, lambda _: None, clean_start=True, session_expiry_s=0, receive_maximum=10
                )
                self._ready.set()
                self.connections += 1
                backoff.reset()
                await self._connection.closed.wait()
                raise self._connection.reason
            except Transient as error:
                self._ready.clear()
                delay_s = backoff.next_s()
                log.warning("publisher_lost", extra={"reason": str(error), "retry_s": round(delay_s, 2)})
                await asyncio.sleep(delay_s)

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
        """Publish; QoS 1 returns after PUBACK. Raises Transient (ConnectionLost, NotStored)."""
        if self._connection is None or not self._ready.is_set():
            raise ConnectionLost("the publisher is not connected")
        await self._connection.publish(
            topic, payload, qos=qos, retain=retain, user_properties=user_properties, request=request
        )

    async def publish_stored(self, topic: str, payload: bytes, *, group: str, slot: int) -> None:
        """Publish with QoS 1 to the bus; returns once the broker has it for this slot of the group that must store it.

        Of a topic that others read too the broker's PUBACK says nothing about that group, so its slot's own topic is asked
        first, on every new connection and every ATTENDED_S. Raises Transient (ConnectionLost, NotStored).
        """
        connection, key = self.connections, (group, slot)
        known, until_s = self._attended.get(key, (0, 0.0))
        if known != connection or time.monotonic() > until_s:
            until_s = await self._ask(group, slot, connection)
        await self.publish(topic, payload)
        if time.monotonic() > until_s + ATTENDED_GRACE_S:  # so late that the slot may have retired before it came
            await self._ask(group, slot, connection)
        if self.connections != connection:
            raise ConnectionLost("the broker's connection was another one when the question was asked")

    async def _ask(self, group: str, slot: int, connection: int) -> float:
        until_s = time.monotonic() + ATTENDED_S
        await self.publish(topics.ATTENDED.name(group=group, slot=slot), b"", request=_BRIEF)
        self._attended[group, slot] = connection, until_s
        return until_s

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish many (topic, payload) with QoS 0 in one write. Raises Transient (ConnectionLost)."""
        if self._connection is None or not self._ready.is_set():
            raise ConnectionLost("the publisher is not connected")
        await self._connection.publish_all(messages)

    async def close(self) -> None:
        """Disconnect."""
        self._ready.clear()
        if self._connection is not None:
            await self._connection.close(end_session=True)
