"""Who did what: the audit's lines, and whether its chain is whole."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from outrider_registry.api.deps import PageDep, RegistryDep, encode_cursor, needs, reach_transaction
from outrider_registry.api.fields import Items, Time, is_bigint
from outrider_registry.errors import Invalid
from outrider_registry.principals import Principal
from outrider_registry.store import audit

router = APIRouter(tags=["audit"])

Reader = Annotated[Principal, needs("audit:read")]
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""One chain at a time in a replica: a long one takes a while, and a database session."""


class Line(BaseModel):
    """One line of the audit."""

    number: int
    at: Time
    actor: str = Field(
        description="user:NAME, token:NAME/ID, device:ID, registry …", examples=["user:ann@acme.example"]
    )
    action: str = Field(examples=["device.create"])
    object: str = Field(examples=["device:van-7"])
    detail: dict[str, Any]
    address: str
    hash: str = Field(description="SHA-256 over this line and the hash before it.")


class Lines(Items):
    """Lines, the newest first."""

    items: list[Line]


class Head(BaseModel):
    """The newest line. Keep it elsewhere: it proves later that nothing before it was rewritten."""

    number: int
    hash: str


class Verification(BaseModel):
    """Whether the chain is whole."""

    valid: bool
    checked: int = Field(description="Lines recomputed.")
    head: Head
    first_bad: int | None = Field(
        description="Number of the first line that was changed, is missing, or is not the noted one."
    )


@router.get("/audit", summary="Read the audit", response_model=Lines)
async def list_lines(
    who: Reader,
    registry: RegistryDep,
    page: PageDep,
    object_: Annotated[str | None, Query(alias="object", max_length=200, examples=["device:van-7"])] = None,
    actor: Annotated[str | None, Query(max_length=200, examples=["user:ann@acme.example"])] = None,
    action: Annotated[
        str | None,
        Query(max_length=100, description="Or its beginning with a dot: `device.`", examples=["device.create"]),
    ] = None,
) -> dict[str, Any]:
    """Of the tenant; an administrator of the platform who has chosen none reads the platform's own."""
    if page.after is not None and not (len(page.after) == 1 and is_bigint(page.after[0])):
        raise Invalid("This cursor is of another list: use `next` of the page before as it is.")
    chain = chain_of(who)
    async with reach_transaction(registry, who) as connection:
        found = await audit.listed(
            connection,
            chain,
            before=page.after[0] if page.after else None,
            limit=page.limit + 1,
            object_=object_,
            actor=actor,
            action=action,
        )
    items = found[: page.limit]
    return {"items": items, "next": encode_cursor([items[-1]["number"]]) if len(found) > page.limit else None}


@router.get("/audit/verify", summary="Recompute the hash chain", response_model=Verification)
async def verify(
    who: Reader,
    registry: RegistryDep,
    number: Annotated[int | None, Query(ge=1, le=2**62, description="A head noted earlier …")] = None,
    hash_: Annotated[
        str | None, Query(alias="hash", pattern=r"^[0-9a-f]{64}$", description="… and its hash, to be found again.")
    ] = None,
) -> dict[str, Any]:
    """All of it. Whoever owns the database can rewrite the whole chain: only a head kept elsewhere shows that."""
    if (number is None) != (hash_ is None):
        raise Invalid("Send both number and hash of the noted head, or none.")
    turns = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(1))
    async with turns, reach_transaction(registry, who) as connection:
        noted = (number, bytes.fromhex(hash_)) if number is not None and hash_ is not None else None
        found = await audit.verify(connection, chain_of(who), noted)
    return {
        "valid": found.first_bad is None,
        "checked": found.checked,
        "head": {"number": found.number, "hash": found.hash.hex()},
        "first_bad": found.first_bad,
    }


def chain_of(who: Principal) -> str:
    """Whose chain this principal reads. Raises Forbidden."""
    if who.tenant is not None:
        return who.tenant
    who.require("platform:read")
    return audit.PLATFORM
