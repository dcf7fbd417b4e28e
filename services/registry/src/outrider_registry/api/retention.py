"""For how long what is kept: the tenant's own policy over everybody's."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter
from psycopg import errors as pg
from pydantic import BaseModel, Field

from outrider_registry.api.deps import RegistryDep, audited, home_transaction, needs, tenant_transaction
from outrider_registry.api.fields import Body
from outrider_registry.context import Registry
from outrider_registry.errors import Invalid, Unavailable
from outrider_registry.principals import Principal
from outrider_registry.store import lifecycle

router = APIRouter(tags=["storage"])

Reader = Annotated[Principal, needs("telemetry:read")]
Writer = Annotated[Principal, needs("retention:write")]
Days = Annotated[int, Field(ge=0, le=999_999)]


class Kept(BaseModel):
    """Days that what is kept; 0: for ever."""

    raw_days: int = Field(description="Samples as they came.")
    rollup_1m_days: int = Field(description="One value a minute, from samples.")
    rollup_5m_days: int
    rollup_1h_days: int
    text_days: int = Field(description="Texts and JSON.")
    event_days: int
    log_days: int
    position_days: int = Field(description="What trips are made of.")
    trip_days: int
    archive: bool = Field(description="Whether samples, texts, events and logs are archived before they go.")


class Own(BaseModel):
    """What a policy says itself; null: as for everybody."""

    raw_days: Days | None = None
    rollup_1m_days: Days | None = None
    rollup_5m_days: Days | None = None
    rollup_1h_days: Days | None = None
    text_days: Days | None = None
    event_days: Days | None = None
    log_days: Days | None = None
    position_days: Days | None = None
    trip_days: Days | None = None
    archive: bool | None = None


class Change(Own, Body):
    """What to change; what is left out stays, null: as for everybody."""


class Policy(BaseModel):
    """How long what is kept."""

    tenant: str | None = Field(description="null: everybody's.")
    effective: Kept
    own: Own


@router.get("/retention", summary="How long what is kept")
async def get_retention(registry: RegistryDep, who: Reader) -> Policy:
    """Of the tenant; an administrator of the platform who has chosen none sees everybody's."""
    async with _reach(registry, who) as connection:
        return await _policy(connection, who)


@router.patch("/retention", summary="Change how long what is kept")
async def change_retention(registry: RegistryDep, who: Writer, body: Change) -> Policy:
    """Shorter takes effect with the next run, within an hour, and cannot be taken back: what was removed is in the archive
    or gone. Without a tenant it is everybody's, for administrators of the platform."""
    if who.tenant is None:
        who.require("platform:write")
    async with _reach(registry, who) as connection:
        before = await _policy(connection, who)
        changes = body.model_dump(exclude_unset=True)
        try:
            await lifecycle.set_policy(connection, changes)
        except pg.InvalidParameterValue as error:
            raise Invalid(f"{(error.diag.message_primary or str(error)).rstrip('.')}.") from None
        after = await _policy(connection, who)
        was = before.own.model_dump()
        changed = {name: [was[name], value] for name, value in after.own.model_dump().items() if was[name] != value}
        if changed:
            await audited(connection, who, "retention.change", f"tenant:{who.tenant or '*'}", changes=changed)
    return after


def _reach(registry: Registry, who: Principal) -> AbstractAsyncContextManager[psycopg.AsyncConnection]:
    """The tenant acted in, else everybody for the platform."""
    return home_transaction(registry, who) if who.tenant is None else tenant_transaction(registry, who)


async def _policy(connection: psycopg.AsyncConnection, who: Principal) -> Policy:
    if not await lifecycle.installed(connection):
        raise Unavailable("Retention takes the service lifecycle: install it and run `outrider migrate`.", 60)
    found: dict[str, Any] = await lifecycle.policy(connection)
    return Policy(tenant=who.tenant, effective=Kept(**found["effective"]), own=Own(**(found["own"] or {})))
