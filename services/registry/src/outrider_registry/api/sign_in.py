"""What signing in consists of: whose name or link it is, password, code, the new session."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import psycopg
from fastapi import Request, Response

from outrider_registry import passwords, second_factor
from outrider_registry.api.authentication import COOKIE, csrf_of, digest
from outrider_registry.context import Registry
from outrider_registry.errors import Forbidden, NotSignedIn
from outrider_registry.principals import Principal, scopes_of
from outrider_registry.store import accounts, attempts, audit, sessions
from outrider_registry.store.accounts import Account
from outrider_registry.store.attempts import Attempt
from outrider_registry.store.transactions import of_platform, of_tenant

log = logging.getLogger(__name__)

BAD_LINK = "This link was used, has expired or is incomplete. Ask for a new one."


async def who_has_name(registry: Registry, name: str) -> Account | None:
    """Crosses tenants: whose a name is, is not known before it is looked up."""
    async with of_platform(registry.database) as connection:
        return await accounts.by_name(connection, name)


async def whose_link(registry: Registry, link: str) -> Account:
    """Crosses tenants: whose a link is, is not known before it is looked up. Raises NotSignedIn."""
    async with of_platform(registry.database) as connection:
        found = await sessions.find_link(connection, digest(link))
        if found is None or found["used"] or found["expired"]:
            raise NotSignedIn(BAD_LINK)
        account = await accounts.by_id(connection, found["account"])
    if account is None:
        raise NotSignedIn(BAD_LINK)
    return account


async def consume_link(registry: Registry, account: Account, link: str) -> None:
    """Of several at once one gets it. Raises NotSignedIn."""
    async with home_of(registry, account) as connection:
        found = await sessions.find_link(connection, digest(link))
        if found is None or found["used"]:
            raise NotSignedIn(BAD_LINK)
        await sessions.use_link(connection, digest(link))


@asynccontextmanager
async def home_of(registry: Registry, account: Account) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that sees this account."""
    tenant = account.tenant
    async with of_platform(registry.database) if tenant is None else of_tenant(registry.database, tenant) as connection:
        yield connection


def refuse_disabled(account: Account) -> None:
    """Raises NotSignedIn for an account that is disabled, or whose tenant is. Asked after the password only."""
    if account.disabled_at is not None:
        raise NotSignedIn("This account is disabled. Ask an administrator.")
    if account.tenant_disabled:
        raise NotSignedIn("The tenant is disabled. Ask an administrator of the platform.")


async def check_code(registry: Registry, account: Account, code: str | None, attempt: Attempt, address: str) -> None:
    """The second factor, where there is one. Raises NotSignedIn, with `needs_code` where a code is missing or wrong, and
    TooMany."""
    if not account.has_totp:
        return
    if code is None:
        async with home_of(registry, account) as connection:
            await attempt.forgive(connection)
        raise NotSignedIn("Send the code of your authenticator app too.", needs_code=True)
    # Counted for the account too: whoever has its link may guess from many addresses.
    guess = await attempts.admit(registry.database, f"code:{account.id}", limit=registry.settings.sign_in_attempts)
    step = second_factor.step_of(registry.keys, account, code)
    if step is not None:
        async with home_of(registry, account) as connection:
            if await accounts.use_totp_step(connection, account.id, step):
                await guess.forgive(connection)
                return
    await note_failure(registry, account, address, "code")
    raise NotSignedIn("This code is wrong, too old, or was used. Wait for the next one.", needs_code=True)


async def check_password(registry: Registry, account: Account, password: str | None, address: str) -> None:
    """The own password once more, before something that a borrowed session must not do. Raises Forbidden and TooMany."""
    attempt = await attempts.admit(registry.database, f"name:{account.name}", limit=registry.settings.sign_in_attempts)
    if not await passwords.verified(password or "", account.password_hash):
        await note_failure(registry, account, address, "password")
        raise Forbidden("The current password is wrong. Without one, ask an administrator for a one-time link.")
    async with home_of(registry, account) as connection:
        await attempt.forgive(connection)


async def note_failure(registry: Registry, account: Account | None, address: str, what: str) -> None:
    """A failed sign-in: in the audit of whoever's account it is, in the log otherwise."""
    if account is None:
        log.info("sign_in_refused", extra={"reason": "unknown name", "address": address})
        return
    async with home_of(registry, account) as connection:
        user = f"user:{account.name}"
        await audit.append(connection, account.tenant, user, "session.refuse", user, {"wrong": what}, address)


async def begin_session(
    registry: Registry, account: Account, address: str, response: Response, attempt: Attempt, *, by_link: bool
) -> dict[str, Any]:
    """A new session with its cookie; returns what GET /session says."""
    cookie = secrets.token_urlsafe(32)
    hours = registry.settings.session_hours
    async with home_of(registry, account) as connection:
        await attempt.forgive(connection)
        tenant = await sessions.begin(connection, digest(cookie), account.id, hours, address, by_link=by_link)
        user = f"user:{account.name}"
        await audit.append(connection, account.tenant, user, "session.begin", user, {"by_link": by_link}, address)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(hours * 3600),
        path="/",
        secure=is_https(registry),
        httponly=True,
        samesite="strict",
    )
    return describe(registry, account, tenant, sorted(scopes_of(account.role, account.tenant)), cookie)


def describe(
    registry: Registry, account: Account, tenant: str | None, scopes: list[str], cookie: str | None
) -> dict[str, Any]:
    """Who is signed in, for the answer."""
    return {
        "name": account.name,
        "role": account.role,
        "tenant": tenant,
        "home": account.tenant,
        "platform": account.tenant is None,
        "scopes": scopes,
        "csrf": csrf_of(cookie) if cookie else None,
        "totp": account.has_totp,
        "must_set_password": account.password_hash is None,
        "url": registry.url,
        "version": version("outrider"),
    }


async def own_account(connection: psycopg.AsyncConnection, who: Principal, *, lock: bool = False) -> Account:
    """The account of whoever asks. Raises NotSignedIn if it has just been deleted."""
    account = await accounts.by_id(connection, who.account, lock=lock)
    if account is None:
        raise NotSignedIn("This account has been deleted.")
    return account


def own_session(request: Request) -> bytes:
    """The hash of the session that asks. Raises Forbidden for a token: it cannot change how its owner signs in."""
    hash_: bytes | None = getattr(request.state, "session", None)
    if hash_ is None:
        raise Forbidden("This needs a sign-in to the console; a token cannot do it.")
    return hash_


def is_https(registry: Registry) -> bool:
    """True where people reach the registry over HTTPS, itself or through a proxy."""
    return registry.url.startswith("https://")
