"""What tests of the broker's accounts stand on: rows in the registry's tables, and a leader that does the broker's duties."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg

from outrider.access.accounts import State
from outrider.access.dynsec import Dynsec
from outrider.access.keys import verifier
from outrider.access.secrets import claim_token, device_secret, person_password
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider_registry import broker as duties_of
from outrider_registry.context import Registry
from outrider_registry.leader import Leader
from outrider_registry.testing import KEYS, running_registry


class Fleet:
    """Rows, as the API leaves them; every change is told to the leader by the tables' triggers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tenant(self, *names: str) -> None:
        """Tenants, where they are not there yet."""
        for name in names:
            self._database.rows("INSERT INTO registry.tenant (name) VALUES (%s) ON CONFLICT DO NOTHING", name)

    def devices(self, tenant: str, *names: str, gateway: str | None = None, secret: bool = True) -> None:
        """Active devices with a first secret, in one transaction."""
        with psycopg.connect(self._database.admin_url) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO registry.device (id, tenant, gateway) VALUES (%s, %s, %s)",
                [(name, tenant, gateway) for name in names],
            )
            if secret:
                cursor.executemany(
                    """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at)
                       VALUES (%s, 1, %s, 'secret', 'active', 'k1', %s, now() + interval '90 days')""",
                    [(name, tenant, verifier(device_secret(KEYS, name, 1))) for name in names],
                )

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """All rows of a query, as the administrator."""
        return self._database.rows(query, *arguments)


class At:
    """A broker with the test's keys: who gets in there."""

    def __init__(self, server: Mosquitto) -> None:
        self.server = server

    def url(self, username: str, password: str) -> str:
        """The devices' door with this login."""
        return f"mqtt://{username.replace(':', '%3A')}:{password}@127.0.0.1:{self.server.device_port}"

    def device_url(self, device: str, generation: int = 1) -> str:
        """That with a device's derived secret."""
        return self.url(device, device_secret(KEYS, device, generation))

    def claim_url(self, claim: str) -> str:
        """That with a claim's token."""
        return self.url(f"claim:{claim}", claim_token(KEYS, claim))

    def person_url(self, name: str, account: str, generation: int) -> str:
        """That with a person's login."""
        return self.url(f"user:{name}", person_password(KEYS, account, generation))

    async def lets_in(self, url: str) -> bool:
        """True if the broker takes this login."""
        with suppress(Transient):
            await (await self.connect(url)).close(end_session=True)
            return True
        return False

    async def connect(self, url: str, **options: Any) -> Connection:
        """A connection that ignores what it is sent."""
        return await Connection.open(
            url, "any", lambda delivery: None, clean_start=True, session_expiry_s=0, receive_maximum=10, **options
        )

    async def state(self) -> State:
        """All accounts and roles."""
        dynsec = await Dynsec.open(self.server.url_of("registry"))
        try:
            return await dynsec.read()
        finally:
            await dynsec.close()

    async def commands(self, *commands: dict[str, Any]) -> None:
        """Somebody meddles."""
        dynsec = await Dynsec.open(self.server.url_of("registry"))
        assert await dynsec.apply(commands) == []
        await dynsec.close()


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> float:
    """Waits for an awaitable condition; returns how long it took. Raises AssertionError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await condition():
        assert loop.time() - began < timeout_s, f"not within {timeout_s} s"
        await asyncio.sleep(0.02)
    return loop.time() - began


@asynccontextmanager
async def leading(database: Database, server: Mosquitto, **settings: Any) -> AsyncIterator[tuple[Registry, Leader]]:
    """A registry that leads and does the broker's duties."""
    async with leading_at(database.service_urls["registry"], server.url_of("registry"), **settings) as both:
        yield both


@asynccontextmanager
async def leading_at(database_url: str, mqtt_url: str, **settings: Any) -> AsyncIterator[tuple[Registry, Leader]]:
    """The same for servers of another process."""
    async with running_registry(database_url, mqtt_url, **settings) as registry:
        leader = Leader(database_url, "registry/test/leader", duties_of.duties(registry))
        tasks = [asyncio.create_task(registry.publisher.run()), asyncio.create_task(leader.run())]
        try:
            yield registry, leader
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await registry.publisher.close()
