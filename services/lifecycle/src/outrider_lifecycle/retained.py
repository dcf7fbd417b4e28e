"""What the broker retains of a device: found by subscribing, cleared by publishing nothing."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

from outrider.contract import topics
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider_lifecycle.context import Lifecycle

END = str(topics.JOB.name(tenant="_", device="_"))
"""Where the end of the retained messages is marked: `_` is no tenant's name, and nobody else listens."""
READ_TIMEOUT_S = 60.0


async def clear(lifecycle: Lifecycle, tenant: str, device: str) -> int:
    """Have the broker retain nothing of a device any more, under any tenant's name; how many topics. Raises Transient."""
    found = await _topics(lifecycle, device)
    # Secrets and their confirmations are not for lifecycle to see.
    unseen = str(topics.CREDENTIAL_CONFIRM.name(tenant=tenant, device=device))
    for topic in (*found, unseen):
        with suppress(NotStored):  # nobody listens; it is cleared all the same
            await lifecycle.publisher.publish(topic, b"", retain=True)
    return len(found)


async def _topics(lifecycle: Lifecycle, device: str) -> list[str]:
    found: list[str] = []
    mark = secrets.token_bytes(16)
    ended = asyncio.Event()

    def take(delivery: Delivery) -> None:
        if delivery.topic == END:
            if delivery.payload == mark:
                ended.set()
        elif delivery.retained and delivery.payload:
            found.append(delivery.topic)
        delivery.connection.ack([delivery.packet_id])

    client_id = f"svc:lifecycle:retained:{secrets.token_hex(4)}"
    url = lifecycle.settings.broker_url
    connection = await Connection.open(url, client_id, take, clean_start=True, session_expiry_s=0, receive_maximum=1000)
    try:
        # A device may have left something under another tenant's name on Mosquitto 2.0.
        await connection.subscribe([topics.DEVICE.format(tenant="+", device=device) + "#", END])
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
            raise connection.reason if connection.closed.is_set() else Transient("the retained messages did not end")
    finally:
        await connection.close(end_session=True)
    return found
