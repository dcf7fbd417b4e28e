"""The control plane in a test's event loop: the slot and the leader's duties as `app.py` wires them, and devices to talk to it.

The broker's identities are left out: devices connect with the test's account that may do everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from outrider.contract import topics
from outrider.runtime.consumer import Consumer, ConsumerSettings
from outrider.runtime.errors import NotStored
from outrider.runtime.mqtt import Delivery
from outrider.runtime.slots import Lease
from outrider.testing.fixtures import Database
from outrider.testing.services import Client
from outrider.testing.waiting import eventually
from outrider_registry import control
from outrider_registry.context import Registry
from outrider_registry.leader import Leader
from outrider_registry.testing import running_registry


@asynccontextmanager
async def control_plane(database: Database, mqtt_url: str, **settings: Any) -> AsyncIterator[Registry]:
    """A registry whose slot is attended and whose leader leads; stopped in the order the service stops it."""
    async with running_registry(database.service_urls["registry"], mqtt_url, **settings) as registry:

        async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
            await control.handle(registry, deliveries)

        consumer = Consumer(
            ConsumerSettings("registry", 1, 500, 4 * 1024 * 1024, 0.05, 1000),
            lambda slot: list(control.FILTERS),
            handle,
            mqtt_url=mqtt_url,
            database=registry.database,
            replica=registry.database.application_name,
            lease_timeout_s=3.0,
            in_hand_max_bytes=64 * 1024 * 1024,
        )
        leader = Leader(registry.settings.database_url, registry.database.application_name, control.duties(registry))
        publisher = asyncio.create_task(registry.publisher.run())
        work = [asyncio.create_task(consumer.run()), asyncio.create_task(leader.run())]
        try:
            await eventually(
                lambda: registry.publisher.connected and leader.leads and consumer.slots.held and not consumer.problem()
            )
            yield registry
        finally:
            for tasks in (work, [publisher]):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            await registry.publisher.close()
            for task in work:
                if not task.cancelled():
                    task.result()


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Wait until a condition that is awaited holds. Raises AssertionError when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.05)


def register(database: Database, *devices: str, tenant: str = "acme", **columns: Any) -> None:
    """Devices of a tenant, which is made if it is not there."""
    database.rows("INSERT INTO registry.tenant (name) VALUES (%s) ON CONFLICT DO NOTHING", tenant)
    names = ["id", "tenant", *columns]
    for device in devices:
        database.rows(
            f"INSERT INTO registry.device ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})",
            device,
            tenant,
            *columns.values(),
        )


class Device:
    """A device's messages, sent by a client that may say anything."""

    def __init__(self, client: Client, device: str, tenant: str = "acme") -> None:
        self.client = client
        self.names = {"tenant": tenant, "device": device}

    def topic(self, topic: Any, **names: str) -> str:
        """One of its topics."""
        return str(topic.name(**self.names, **names))

    async def status(self, state: str, **more: Any) -> None:
        """Publish its status, retained, whether somebody listens or not."""
        with suppress(NotStored):
            await self.client.publish(self.topic(topics.STATUS), {"state": state, **more}, retain=True)

    async def report(self, version: int, state: dict[str, Any]) -> None:
        """Report a part of its state."""
        await self.client.publish(self.topic(topics.SHADOW_REPORTED), {"version": version, "state": state})

    async def answer(self, name: str, id_: str, status: str, result: Any = None) -> None:
        """Answer a command."""
        document = {"id": id_, "status": status, **({} if result is None else {"result": result})}
        await self.client.publish(self.topic(topics.COMMAND_RESPONSE, name=name), document)

    def desired(self) -> list[dict[str, Any]]:
        """Desired states that its client received."""
        return self.client.documents(self.topic(topics.SHADOW_DESIRED))

    def commands(self, name: str) -> list[dict[str, Any]]:
        """Commands that its client received."""
        return self.client.documents(self.topic(topics.COMMAND, name=name))
