"""The emergency stop: nothing further starts, in a tenant or on the whole platform."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, StringConstraints

from outrider_registry.api.deps import RegistryDep, audited, needs, tenant_transaction
from outrider_registry.api.fields import Body, Time
from outrider_registry.context import Registry
from outrider_registry.errors import NotFound
from outrider_registry.merge import check_text
from outrider_registry.principals import Principal
from outrider_registry.store import audit, stops
from outrider_registry.store.transactions import of_platform

router = APIRouter(tags=["commands"])

Stopper = Annotated[Principal, needs("stop:write")]
Everything = Annotated[bool, Query(description="The whole platform's; for its administrators.")]


class NewStop(Body):
    """Why to stop."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    everything: bool = Field(False, description="The whole platform, not this tenant only; for its administrators.")


class StopInForce(BaseModel):
    """A stop."""

    everything: bool
    reason: str
    stopped_by: str
    stopped_at: Time


class Stop(BaseModel):
    """Whether commands and updates start."""

    stopped: bool
    stops: list[StopInForce] = Field(description="The platform's, the tenant's.")
    everything: bool | None = Field(None, description="Of the first of them, as the next ones.")
    reason: str | None = None
    stopped_by: str | None = None
    stopped_at: Time | None = None

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> Stop:
        """As the store gives them."""
        standing = [StopInForce(everything=row["tenant"] == stops.PLATFORM, **_without_tenant(row)) for row in rows]
        first = standing[0].model_dump() if standing else {}
        return cls(stopped=bool(standing), stops=standing, **first)


@router.get("/stop", summary="Is an emergency stop in force?")
async def get_stop(registry: RegistryDep, who: Annotated[Principal, needs("devices:read")]) -> Stop:
    """The stops that hold for this tenant."""
    return await _standing(registry, who)


@router.put("/stop", summary="Stop")
async def put_stop(registry: RegistryDep, who: Stopper, body: NewStop) -> Stop:
    """Hold back every command and update that has not been sent. When this answers, nothing more goes out; what a device
    has begun goes on. What waits meanwhile may expire. A stop that stands already stays as it is."""
    check_text(body.reason, "The reason")
    if body.everything:
        who.require("platform:write")
    elif who.tenant is None:
        who.in_tenant()
    where = stops.PLATFORM if body.everything else who.in_tenant()
    async with of_platform(registry.database) if body.everything else tenant_transaction(registry, who) as connection:
        if await stops.put(connection, where, body.reason, who.actor):
            await _noted(connection, who, "stop.begin", where, {"reason": body.reason})
    return await _standing(registry, who)


@router.delete("/stop", summary="Lift the stop")
async def delete_stop(registry: RegistryDep, who: Stopper, response: Response, everything: Everything = False) -> Stop:
    """What waited is sent, unless it has expired: cancel first what should not run."""
    if everything:
        who.require("platform:write")
    where = stops.PLATFORM if everything else who.in_tenant()
    async with of_platform(registry.database) if everything else tenant_transaction(registry, who) as connection:
        was = await stops.delete(connection, where)
        if was is None:
            other = "" if everything else " A stop of the whole platform is lifted by its administrators."
            raise NotFound(f"No stop is in force here.{other}")
        await _noted(connection, who, "stop.end", where, {"reason": was["reason"]})
    return await _standing(registry, who)


async def _standing(registry: Registry, who: Principal) -> Stop:
    if who.tenant is None:
        async with of_platform(registry.database) as connection:
            return Stop.of(await stops.standing(connection, stops.PLATFORM))
    async with tenant_transaction(registry, who) as connection:
        return Stop.of(await stops.standing(connection, who.tenant))


async def _noted(connection: Any, who: Principal, action: str, where: str, detail: dict[str, Any]) -> None:
    if where == stops.PLATFORM:
        await audit.append(connection, None, who.actor, action, "stop:*", detail, who.address)
    else:
        await audited(connection, who, action, f"stop:{where}", **detail)


def _without_tenant(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "tenant"}
