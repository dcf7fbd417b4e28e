"""Runs a service inside a test's event loop, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

from outrider.runtime.mqtt import Connection, Delivery
from outrider.runtime.service import Service
from outrider.servers import ports
from outrider.testing.waiting import eventually


class Running:
    """A service that runs in this process."""

    def __init__(self, port: int, task: asyncio.Task[int], stop: asyncio.Event) -> None:
        self.port = port
        self._task = task
        self._stop = stop

    def problems(self) -> dict[str, str] | None:
        """What `/readyz` complains about ({} when ready); None while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as response:
                return dict(json.load(response)["problems"])
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error)["problems"])
        except OSError:
            return None

    async def ready(self, timeout_s: float = 20.0) -> None:
        """Wait until `/readyz` says so."""
        await eventually(lambda: self.problems() == {}, timeout_s)

    async def stop(self) -> int:
        """Stop gracefully; returns the exit code."""
        self._stop.set()
        async with asyncio.timeout(30):
            return await self._task


@contextlib.asynccontextmanager
async def running(service: Service[Any], mqtt_url: str, database_url: str, **settings: Any) -> AsyncIterator[Running]:
    """Start a service, wait until it is ready; stop it gracefully at the end unless the test did.

    Devices of tests are mostly not registered, so ingest takes them unless `settings` say otherwise.
    """
    port = ports.free_port()
    usual = {"replica": "test", "ingest_directory": "none"}
    configured = service.settings(mqtt_url=mqtt_url, database_url=database_url, http_port=port, **{**usual, **settings})
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(configured, stop))
    running_service = Running(port, task, stop)
    try:
        await running_service.ready()
        yield running_service
    finally:
        await running_service.stop()


@contextlib.asynccontextmanager
async def connected(mqtt_url: str, client_id: str, filters: list[str] | None = None) -> AsyncIterator[Client]:
    """A plain client for a test to publish with, collecting what it is subscribed to."""
    received: list[Delivery] = []

    def keep(delivery: Delivery) -> None:
        received.append(delivery)
        delivery.connection.ack([delivery.packet_id])

    connection = await Connection.open(
        mqtt_url, client_id, keep, clean_start=True, session_expiry_s=0, receive_maximum=1000
    )
    try:
        await connection.subscribe(filters or [])
        yield Client(connection, received)
    finally:
        await connection.close(end_session=True)


class Client:
    """A test's connection and what it received."""

    def __init__(self, connection: Connection, received: list[Delivery]) -> None:
        self.connection = connection
        self.received = received

    async def publish(self, topic: str, payload: bytes | str | dict[str, Any] | list[Any], **options: Any) -> None:
        """Publish with QoS 1 and wait for PUBACK; dicts and lists go as JSON."""
        if isinstance(payload, dict | list):
            payload = json.dumps(payload)
        await self.connection.publish(topic, payload.encode() if isinstance(payload, str) else payload, **options)

    def documents(self, topic: str) -> list[Any]:
        """JSON payloads received on a topic."""
        return [json.loads(delivery.payload) for delivery in self.received if delivery.topic == topic]
