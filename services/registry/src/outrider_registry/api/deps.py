"""What routes share: who asks, their tenant's transaction, versions, pages, the audit."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
from fastapi import Depends, Header, Query, Request

from outrider_registry.context import Registry
from outrider_registry.errors import Invalid, NotSignedIn, StaleVersion, VersionRequired
from outrider_registry.principals import Principal
from outrider_registry.store import audit
from outrider_registry.store.transactions import of_platform, of_tenant


def registry_of(request: Request) -> Registry:
    """The running registry."""
    registry: Registry = request.app.state.registry
    return registry


RegistryDep = Annotated[Registry, Depends(registry_of)]


def principal(request: Request) -> Principal:
    """Who asks, as the middleware found out. Raises NotSignedIn."""
    who: Principal | None = getattr(request.state, "principal", None)
    if who is None:
        if refused := getattr(request.state, "refused", None):
            raise refused
        raise NotSignedIn("Sign in, or send a token: `Authorization: Bearer …` (`outrider token create`).")
    return who


PrincipalDep = Annotated[Principal, Depends(principal)]


def needs(scope: str) -> Any:
    """A dependency that gives the Principal, or refuses one without this scope: `Annotated[Principal, needs("…")]`."""

    def allowed(who: PrincipalDep) -> Principal:
        who.require(scope)
        return who

    return Depends(allowed)


@asynccontextmanager
async def tenant_transaction(registry: Registry, who: Principal) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that sees the tenant this principal acts in. Raises Forbidden where none is chosen."""
    async with of_tenant(registry.database, who.in_tenant()) as connection:
        yield connection


@asynccontextmanager
async def home_transaction(registry: Registry, who: Principal) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that sees this principal's own account: for sessions, tokens and passwords of their own."""
    async with (
        of_platform(registry.database) if who.home is None else of_tenant(registry.database, who.home) as connection
    ):
        yield connection


@asynccontextmanager
async def reach_transaction(registry: Registry, who: Principal) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that sees whomever this principal manages: the tenant acted in, or everybody for an administrator of
    the platform who has not chosen one."""
    tenant = who.tenant if who.is_platform else who.home
    async with of_platform(registry.database) if tenant is None else of_tenant(registry.database, tenant) as connection:
        yield connection


async def audited(
    connection: psycopg.AsyncConnection, who: Principal, action: str, object_: str, **detail: Any
) -> None:
    """Note in the audit what this principal does; the last statement of its transaction."""
    await audit.append(connection, who.tenant, who.actor, action, object_, detail, who.address)


def etag(version: int) -> str:
    """The ETag of a version."""
    return f'"{version}"'


def expected_version(
    request: Request,
    if_match: Annotated[
        str | None, Header(alias="If-Match", description="The ETag of what you read; `*` overwrites.", examples=["*"])
    ] = None,
) -> int | None:
    """The version that If-Match names; None for `*`. Raises VersionRequired when it is missing, Invalid when it is none."""
    value = request.headers.get("if-match")
    if value is None:
        raise VersionRequired(
            "Send If-Match with the ETag you read, so that nobody's change is overwritten; `*` overwrites."
        )
    if value.strip() == "*":
        return None
    text = value.strip().removeprefix("W/").strip('"')
    if not text.isdecimal() or len(text) > 18:
        raise Invalid(f"If-Match is {value[:40]!r}; send an ETag as you got it, or `*`.")
    return int(text)


ExpectedVersion = Annotated[int | None, Depends(expected_version)]


def check_version(expected: int | None, current: int, what: str) -> None:
    """Raises StaleVersion if somebody changed it meanwhile."""
    if expected is not None and expected != current:
        raise StaleVersion(
            f"{what} was changed meanwhile (version {current}, you had {expected}). Read it again, then change it.",
            current_version=current,
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    limit: int
    after: list[Any] | None
    """The sort key of the last item of the page before; None for the first page."""


def page(
    limit: Annotated[int, Query(ge=1, le=500, description="Items a page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=1000, description="`next` of the page before.")] = None,
) -> Page:
    """The page that is asked for. Raises Invalid for a cursor that is none."""
    return Page(limit, decode_cursor(cursor) if cursor else None)


PageDep = Annotated[Page, Depends(page)]


def encode_cursor(key: list[Any]) -> str:
    """An opaque cursor for the sort key of the last item of a page."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":"), default=str).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> list[Any]:
    """The sort key in a cursor. Raises Invalid."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, UnicodeError, RecursionError):
        key = None
    if not isinstance(key, list):
        raise Invalid("This cursor was not made here: use `next` of the page before as it is.")
    return key
