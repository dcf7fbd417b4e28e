"""What tests of the registry stand on: a registry on the test's own database, and clients of every kind of principal.

`services/registry/tests/conftest.py` makes the fixtures: `registry`, `api`.

    async def test_a_viewer_cannot_register_devices(api: Api) -> None:
        answer = await api.viewer.post("/devices", json={"id": "van-7"})
        assert answer.status_code == 403
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from outrider.access.keys import KeyRing
from outrider.runtime.database import Database
from outrider.runtime.session import Publisher
from outrider_registry.api import build_api
from outrider_registry.api.authentication import COOKIE, CSRF_HEADER, csrf_of, digest
from outrider_registry.context import Registry
from outrider_registry.principals import Role, scopes_of
from outrider_registry.settings import Settings
from outrider_registry.store import accounts, sessions, tenants, tokens
from outrider_registry.store.transactions import of_platform

URL = "http://registry.test"
KEYS = KeyRing({"k1": b"a test's own master key, 32 bytes and more"})
NO_BROKER = "mqtt://127.0.0.1:1"
"""Nobody is there: an API call never talks to the broker."""


@asynccontextmanager
async def running_registry(
    database_url: str, mqtt_url: str = NO_BROKER, url: str = URL, **settings: Any
) -> AsyncIterator[Registry]:
    """A registry on this database (the URL with its own role); its publisher is connected only if the test runs it."""
    configured = Settings(database_url=database_url, mqtt_url=mqtt_url, **settings)
    database = Database(database_url, f"registry/test/{secrets.token_hex(3)}", 12)
    await database.open()
    try:
        publisher = Publisher(mqtt_url, f"svc:registry:pub:{secrets.token_hex(4)}")
        yield Registry(configured, database, KEYS, publisher, url)
    finally:
        await database.close()


class Client(httpx.AsyncClient):
    """An HTTP client of `/api/v1`, signed in as somebody. `If-Match: *` is sent unless the test sends another one."""

    name: str
    account: UUID


@dataclass
class Api:
    """The application with two tenants, acme and other, and somebody of every kind signed in."""

    registry: Registry
    app: FastAPI
    stack: AsyncExitStack
    platform: Client
    """Administrator of the platform, working in acme."""
    admin: Client
    """Of acme, as the next ones; these three have sessions of the console."""
    operator: Client
    viewer: Client
    token: Client
    """A token of acme's admin, with all of their scopes."""
    other: Client
    """An admin of tenant `other`."""
    nobody: Client
    """Not signed in."""

    async def sign_in(self, tenant: str | None, name: str, role: Role) -> Client:
        """A session of this account, which is made if there is none (tenant None: the platform)."""
        account = await _account(self.registry, tenant, name, role)
        cookie = secrets.token_urlsafe(32)
        async with of_platform(self.registry.database) as connection:
            await sessions.begin(connection, digest(cookie), account, 1, "192.0.2.1", by_link=False)
        client = await self.client(name, account)
        client.cookies.set(COOKIE, cookie)
        client.headers[CSRF_HEADER] = csrf_of(cookie)
        return client

    async def with_token(self, tenant: str | None, name: str, role: Role, *scopes: str) -> Client:
        """A token of this account with these scopes, or all of its role."""
        account = await _account(self.registry, tenant, name, role)
        token = "otr_" + secrets.token_urlsafe(32)
        async with of_platform(self.registry.database) as connection:
            await tokens.add(connection, account, "test", digest(token), scopes or scopes_of(role, tenant), 1)
        client = await self.client(name, account)
        client.headers["authorization"] = f"Bearer {token}"
        return client

    async def client(self, name: str = "", account: UUID | None = None) -> Client:
        """A client that is not signed in."""
        transport = httpx.ASGITransport(self.app, client=("192.0.2.1", 50000))
        client = Client(transport=transport, base_url=f"{URL}/api/v1/", headers={"if-match": "*"}, timeout=30)
        client.name, client.account = name, account or UUID(int=0)
        return await self.stack.enter_async_context(client)


@asynccontextmanager
async def running_api(registry: Registry) -> AsyncIterator[Api]:
    """The application over this registry, with its people."""
    async with AsyncExitStack() as stack:
        async with of_platform(registry.database) as connection:
            for tenant in ("acme", "other"):
                await tenants.ensure(connection, tenant, tenant.capitalize())
        nobody: Any = None
        api = Api(registry, build_api(registry), stack, nobody, nobody, nobody, nobody, nobody, nobody, nobody)
        api.platform = await api.sign_in(None, "root", "admin")
        api.platform.headers["outrider-tenant"] = "acme"
        api.admin = await api.sign_in("acme", "ada", "admin")
        api.operator = await api.sign_in("acme", "otto", "operator")
        api.viewer = await api.sign_in("acme", "vera", "viewer")
        api.token = await api.with_token("acme", "ada", "admin")
        api.other = await api.sign_in("other", "olga", "admin")
        api.nobody = await api.client()
        yield api


async def _account(registry: Registry, tenant: str | None, name: str, role: Role) -> UUID:
    async with of_platform(registry.database) as connection:
        found = await accounts.by_name(connection, name)
        return found.id if found else await accounts.add(connection, tenant, name, role)
