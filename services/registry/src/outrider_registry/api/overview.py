"""The fleet in figures, for the first page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from outrider_registry.api.deps import RegistryDep, needs, tenant_transaction
from outrider_registry.api.fields import Time
from outrider_registry.principals import Principal
from outrider_registry.store import overview

router = APIRouter(tags=["devices"])


class CurrentStop(BaseModel):
    """An emergency stop."""

    everything: bool = Field(description="For the whole platform, not this tenant only.")
    reason: str
    stopped_by: str
    stopped_at: Time


class Overview(BaseModel):
    """Figures of the tenant."""

    devices: int
    online: int
    offline: int
    unknown: int
    disabled: int
    pending: int
    rejected_24h: int = Field(description="Messages rejected in the last 24 hours.")
    gaps: int = Field(description="Streams of which messages are missing.")
    open_commands: int
    open_trips: int = Field(description="Trips that are under way or paused.")
    stop: CurrentStop | None


@router.get("/overview", summary="The fleet in figures")
async def get_overview(registry: RegistryDep, who: Annotated[Principal, needs("devices:read")]) -> Overview:
    """How many devices there are and how they are, what waits, and whether an emergency stop is in force."""
    async with tenant_transaction(registry, who) as connection:
        return Overview(**await overview.overview(connection))
