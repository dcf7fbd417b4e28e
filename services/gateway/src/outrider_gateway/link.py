"""The gateway's connection to the broker: it publishes in the devices' names and listens for their acks.

Acks are subscribed to device by device, where an upload waits for one; never all of them. Everything that waits is sent
again after a reconnect (delivery rule 3).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import orjson
from prometheus_client import Gauge

from outrider.contract import topics
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import ConnectionLost, Transient
from outrider.runtime.mqtt import Connection, Delivery

log = logging.getLogger(__name__)

IDLE_MAX = 10_000
"""Devices that stay subscribed though nothing of them waits: their next upload saves a round trip."""
IDLE_S = 120.0
CHUNK = 200
SWEEP_S = 5.0
SUBSCRIBED = Gauge("outrider_gateway_subscribed_devices", "Devices whose acks this process listens for")

Heard = Callable[[dict[str, Any]], None]


class Line:
    """A device's ack topic while somebody listens for its acks."""

    __slots__ = ("heard", "idle_since_s", "ready", "topic", "waiting")

    def __init__(self, topic: str, heard: Heard) -> None:
        self.topic = topic
        self.heard = heard
        self.ready: asyncio.Future[None] | None = None
        """Done when the broker has the subscription on the present connection."""
        self.waiting = 0
        self.idle_since_s = 0.0


class Link:
    """Keeps the connection and the subscriptions up."""

    def __init__(self, url: str, on_reconnect: Callable[[], None]) -> None:
        """`on_reconnect` is called when all subscriptions stand again: send what waits."""
        self._url = url
        self._on_reconnect = on_reconnect
        self._client_id = f"svc:gateway:{secrets.token_hex(6)}"
        self._connection: Connection | None = None
        self._lines: OrderedDict[str, Line] = OrderedDict()

    @property
    def connected(self) -> bool:
        """True while the connection is up."""
        return self._connection is not None and not self._connection.closed.is_set()

    def problem(self) -> str | None:
        """What keeps uploads from the broker."""
        return None if self.connected else "not connected to the broker"

    def attend(self, tenant: str, device: str, heard: Heard) -> Line:
        """Listen for this device's acks until `leave`; `heard` gets each one, of whichever boot."""
        topic = _ack_topic(tenant, device)
        line = self._lines.get(topic)
        if line is None:
            line = self._lines[topic] = Line(topic, heard)
            SUBSCRIBED.set(len(self._lines))
        line.waiting += 1
        return line

    def leave(self, line: Line) -> None:
        """One that waited waits no more; the subscription stays for a while."""
        line.waiting -= 1
        if not line.waiting:
            line.idle_since_s = time.monotonic()
            if line.topic in self._lines:
                self._lines.move_to_end(line.topic)

    async def publish(
        self, line: Line | None, topic: str, payload: bytes, user_properties: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Publish with QoS 1 once the acks of the line's device are listened for; returns after PUBACK. Raises Transient."""
        connection = self._connection
        if connection is None or connection.closed.is_set():
            raise ConnectionLost("the gateway is not connected to the broker")
        if line is not None:
            await self._subscribed(connection, line)
        await connection.publish(topic, payload, user_properties=user_properties)

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        backoff = Backoff()
        while True:
            try:
                connection = await Connection.open(
                    self._url,
                    self._client_id,
                    self._on_delivery,
                    clean_start=True,
                    session_expiry_s=0,
                    receive_maximum=1000,
                )
                await self._subscribe(connection)
                self._connection = connection
                log.info("broker_connected", extra={"subscribed": len(self._lines)})
                backoff.reset()
                self._on_reconnect()
                await self._sweep(connection)
                raise connection.reason
            except Transient as error:
                delay_s = backoff.next_s()
                log.warning("broker_lost", extra={"reason": str(error), "retry_s": round(delay_s, 2)})
                self._connection = None
                await asyncio.sleep(delay_s)

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            await self._connection.close(end_session=True)
            self._connection = None

    async def _subscribed(self, connection: Connection, line: Line) -> None:
        ready = line.ready
        if ready is None:
            ready = line.ready = asyncio.ensure_future(connection.subscribe([line.topic], qos=0))
        if not ready.done():
            await asyncio.wait([ready])
        if ready.exception() is not None:
            if line.ready is ready:
                line.ready = None
            ready.result()

    async def _subscribe(self, connection: Connection) -> None:
        """Subscribe for those that wait; forget those that do not."""
        for topic in [topic for topic, line in self._lines.items() if not line.waiting]:
            del self._lines[topic]
        lines = list(self._lines.values())
        for line in lines:
            line.ready = None
        for first in range(0, len(lines), CHUNK):
            chunk = lines[first : first + CHUNK]
            await connection.subscribe([line.topic for line in chunk], qos=0)
            for line in chunk:
                line.ready = asyncio.get_running_loop().create_future()
                line.ready.set_result(None)
        SUBSCRIBED.set(len(self._lines))

    async def _sweep(self, connection: Connection) -> None:
        """Unsubscribe devices that were idle long enough, until the connection ends."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S):
                    await connection.closed.wait()
                return
            now_s = time.monotonic()
            idle = [line for line in self._lines.values() if not line.waiting]
            beyond = max(0, len(idle) - IDLE_MAX)
            old = [line for n, line in enumerate(idle) if n < beyond or now_s - line.idle_since_s > IDLE_S]
            for line in old:
                del self._lines[line.topic]  # one that comes back meanwhile subscribes anew, after the UNSUBSCRIBE
            for first in range(0, len(old), CHUNK):
                await connection.unsubscribe([line.topic for line in old[first : first + CHUNK]])
            SUBSCRIBED.set(len(self._lines))

    def _on_delivery(self, delivery: Delivery) -> None:
        line = self._lines.get(delivery.topic)
        if line is None:
            return
        try:
            document = orjson.loads(delivery.payload)
        except orjson.JSONDecodeError:
            document = None
        if isinstance(document, dict):
            line.heard(document)


def _ack_topic(tenant: str, device: str) -> str:
    return str(topics.ACK.name(tenant=tenant, device=device))
