"""What users, tokens and tenants share: an account in reach, one-time links."""

from __future__ import annotations

import secrets

import psycopg
from pydantic import BaseModel, Field

from outrider_registry.api.authentication import digest
from outrider_registry.api.fields import Time
from outrider_registry.context import Registry
from outrider_registry.errors import Conflict, NotFound
from outrider_registry.store import accounts, sessions
from outrider_registry.store.accounts import Account

LINK_HOURS = 72.0


class Link(BaseModel):
    """A sign-in that is good once. Whoever has it is that person: hand it over as a password."""

    link: str = Field(description="The secret part, for POST /session/link.")
    url: str = Field(description="To open in a browser.")
    expires_at: Time


def link_path(link: str) -> str:
    """Where the console takes a one-time link: behind `#`, so that it gets into no server's log."""
    return f"/sign-in#link={link}"


async def new_link(connection: psycopg.AsyncConnection, registry: Registry, account: Account) -> Link:
    """A new link; those that were not used end."""
    link = secrets.token_urlsafe(32)
    await sessions.end_links(connection, account.id)
    expires_at = await sessions.add_link(connection, digest(link), account.id, LINK_HOURS)
    return Link(link=link, url=registry.url + link_path(link), expires_at=expires_at)


async def account_of(connection: psycopg.AsyncConnection, name: str, *, lock: bool = False) -> Account:
    """The account of this name, in reach of this transaction. Raises NotFound."""
    account = await accounts.by_name(connection, name, lock=lock)
    if account is None:
        raise NotFound(f"There is no user {name[:127]!r}.")
    return account


async def keep_an_administrator(connection: psycopg.AsyncConnection, account: Account) -> None:
    """Raises Conflict if this is the last administrator of its tenant, or of the platform."""
    if account.role != "admin" or account.disabled_at is not None:
        return
    if await accounts.other_administrators(connection, account) == 0:
        whose = f"tenant {account.tenant}" if account.tenant else "the platform"
        raise Conflict(f"{account.name} is the last administrator of {whose}. Make another one first.")
