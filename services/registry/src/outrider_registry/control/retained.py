"""What the broker retains: read whole, so that what it lost or should not have is noticed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress

from outrider.contract import topics
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider_registry.context import Registry

END = str(topics.SHADOW_DESIRED.name(tenant="-", device="-"))
"""Where the end of the retained messages is marked; no device may subscribe to it (`-` is no tenant)."""
READ_TIMEOUT_S = 60.0


async def read(url: str, client_id: str, filters: Sequence[str]) -> tuple[dict[str, bytes], Connection]:
    """The retained payloads of these filters by topic, and the connection, to be closed by the caller.

    It is kept so that the caller notices when the broker goes. Raises Transient.
    """
    found: dict[str, bytes] = {}
    mark = secrets.token_bytes(16)
    ended = asyncio.Event()

    def take(delivery: Delivery) -> None:
        if delivery.retained:
            found[delivery.topic] = delivery.payload
        elif delivery.topic == END and delivery.payload == mark:
            ended.set()
        delivery.connection.ack([delivery.packet_id])

    connection = await Connection.open(url, client_id, take, clean_start=True, session_expiry_s=0, receive_maximum=1000)
    try:
        wanted = [*filters, END]
        await connection.subscribe(wanted)
        # QoS 1 messages of one client keep their order, so what comes after the subscription comes after all retained.
        await connection.publish(END, mark)
        closed = asyncio.create_task(connection.closed.wait())
        end = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({closed, end}, timeout=READ_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
            end.cancel()
        if not ended.is_set():
            raise (
                connection.reason
                if connection.closed.is_set()
                else Transient("the broker's retained messages did not end")
            )
        await connection.unsubscribe(wanted)
    except BaseException:
        await connection.close(end_session=True)
        raise
    return found, connection


async def put(registry: Registry, topic: str, payload: bytes) -> None:
    """Have the broker retain this; empty: nothing. Raises Transient."""
    with suppress(NotStored):  # nobody listens now; it is retained all the same
        await registry.publisher.publish(topic, payload, retain=True)
