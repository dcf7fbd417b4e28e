"""API tokens for programs."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from outrider_registry.api.authentication import digest
from outrider_registry.api.deps import (
    PageDep,
    RegistryDep,
    encode_cursor,
    home_transaction,
    needs,
    reach_transaction,
)
from outrider_registry.api.fields import Body, Items, Text, Time
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import SCOPES, Principal, narrowed
from outrider_registry.store import audit, tokens

router = APIRouter(tags=["tokens"])

Reader = Annotated[Principal, needs("tokens:read")]
Writer = Annotated[Principal, needs("tokens:write")]
MAX_TOKENS = 100
"""Of one account, that have not ended."""


class NewToken(Body):
    """A token to make."""

    name: Annotated[Text, Field(min_length=1, description="What it is for.", examples=["backup"])]
    scopes: list[str] = Field(
        min_length=1,
        max_length=len(SCOPES),
        description="What it may do, no more than its maker: "
        + "; ".join(f"`{s}` {w}" for s, w in SCOPES.items())
        + ".",
        examples=[["devices:read", "telemetry:read"]],
    )
    days: int = Field(90, ge=1, le=365, description="Until it ends.")


class Token(BaseModel):
    """A token, without its secret."""

    id: UUID
    name: str
    owner: str
    scopes: list[str]
    created_at: Time
    expires_at: Time
    last_used_at: Time | None = Field(description="Noted at most once a minute.")
    revoked_at: Time | None


class MadeToken(Token):
    """A new token. The secret is shown this once."""

    token: str = Field(examples=["otr_…"])


class Tokens(Items):
    """Tokens, the newest first."""

    items: list[Token]


@router.get("/tokens", summary="List tokens", response_model=Tokens)
async def list_tokens(
    who: Reader,
    registry: RegistryDep,
    page: PageDep,
    everybody: Annotated[bool, Query(alias="all", description="Of everybody in the tenant; needs users:read.")] = False,
) -> dict[str, Any]:
    """Own tokens, also those that ended."""
    if everybody:
        who.require("users:read")
    transaction = reach_transaction(registry, who) if everybody else home_transaction(registry, who)
    async with transaction as connection:
        found = await tokens.listed(
            connection, None if everybody else who.account, position(page.after), page.limit + 1
        )
    items = found[: page.limit]
    more = len(found) > page.limit
    return {
        "items": items,
        "next": encode_cursor([items[-1]["created_at"].isoformat(), str(items[-1]["id"])]) if more else None,
    }


@router.post("/tokens", status_code=201, summary="Make a token", response_model=MadeToken)
async def make(body: NewToken, who: Writer, registry: RegistryDep, response: Response) -> dict[str, Any]:
    """Its secret is in the answer, once. It has some of its maker's scopes, and ends with the account."""
    if unknown := sorted(set(body.scopes) - set(SCOPES)):
        raise Invalid(f"scopes: there is no {', '.join(unknown)[:200]}. There are: {', '.join(SCOPES)}.")
    scopes = narrowed(body.scopes, who.scopes)
    secret = "otr_" + secrets.token_urlsafe(32)
    async with home_transaction(registry, who) as connection:
        if await tokens.count(connection, who.account) >= MAX_TOKENS:
            raise Conflict(f"There are {MAX_TOKENS} tokens already. End those that are not used any more.")
        id_ = await tokens.add(connection, who.account, body.name, digest(secret), scopes, body.days)
        made = await tokens.get(connection, id_)
        assert made is not None
        detail = {"name": body.name, "scopes": sorted(scopes), "days": body.days}
        await audit.append(connection, who.home, who.actor, "token.create", f"token:{id_}", detail, who.address)
    response.headers["location"] = f"/api/v1/tokens/{id_}"
    return {**made, "token": secret}


@router.delete("/tokens/{token}", status_code=204, summary="End a token")
async def end(token: UUID, who: Writer, registry: RegistryDep) -> None:
    """At once. Administrators of people end others' too. Ending an ended token changes nothing."""
    async with home_transaction(registry, who) as connection:
        found = await tokens.get(connection, token)
        if found is not None and found["account"] == who.account:
            await tokens.end(connection, token)
            await audit.append(connection, who.home, who.actor, "token.end", f"token:{token}", {}, who.address)
            return
    missing = NotFound("There is no such token.")
    if "users:write" not in who.scopes:
        raise missing
    async with reach_transaction(registry, who) as connection:
        found = await tokens.get(connection, token)
        if found is None:
            raise missing
        who.require_above(found["owner_role"], found["owner_tenant"])
        await tokens.end(connection, token)
        detail = {"owner": found["owner"]}
        await audit.append(
            connection, found["owner_tenant"], who.actor, "token.end", f"token:{token}", detail, who.address
        )


def position(after: list[Any] | None) -> tuple[datetime, UUID] | None:
    """Where a page begins. Raises Invalid for the cursor of another list."""
    if after is None:
        return None
    try:
        at, id_ = after
        return datetime.fromisoformat(at), UUID(id_)
    except (ValueError, TypeError, AttributeError):
        raise Invalid("This cursor is of another list: use `next` of the page before as it is.") from None
