"""Presence of a device: whether it is connected, and when it came and went."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from outrider_registry.api.deps import RegistryDep, needs, tenant_transaction
from outrider_registry.api.fields import Name, Time
from outrider_registry.errors import NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import presence as store

router = APIRouter(tags=["devices"])

State = Literal["online", "offline", "unknown"]


class Event(BaseModel):
    """It came or went."""

    at: Time
    state: State
    reason: str


class Presence(BaseModel):
    """Whether a device is connected."""

    state: State
    since: Time | None
    reason: str = Field(description="In the device's own words, or: data, silent, kicked, disabled, gateway.")
    status_at: Time | None = Field(description="When its own last status message came.")
    seen_at: Time | None = Field(description="When anything was heard of it.")
    boot: int | None = Field(description="Number of its running boot.")
    boots: int = Field(description="How often it was started, as far as it said so.")
    firmware: str = Field(description="As it says itself.")
    tier: str
    events: list[Event] = Field(description="The newest first.")


@router.get("/devices/{id}/presence", summary="Show a device's presence")
async def get_presence(
    registry: RegistryDep,
    who: Annotated[Principal, needs("devices:read")],
    id: Name,  # noqa: A002 - the path's own name
    events: Annotated[int, Query(ge=0, le=500, description="How many events, the newest.")] = 50,
) -> Presence:
    """Whether it is connected, since when, and when it came and went before."""
    async with tenant_transaction(registry, who) as connection:
        row = await store.one(connection, id)
        if row is None:
            raise NotFound(f"There is no device {id}.")
        found = await store.events(connection, id, events)
    return Presence(**row, events=[Event(**event) for event in found])
