"""The rules by which trips are recognised, for all devices of a tenant or those of one type."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from outrider.trips import Rules
from outrider_registry.api.deps import RegistryDep, audited, needs, tenant_transaction
from outrider_registry.api.fields import Body
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import trips

router = APIRouter(tags=["trips"])

Type = Annotated[str, Path(pattern=r"^(\*|[a-z0-9][a-z0-9_.:-]{0,62})$", description="A type of device; `*`: all.")]
"""What a profile is for."""


class Profile(BaseModel):
    """Rules that differ from what is more general."""

    type: str = Field(description="A type of device; `*`: all of them.")
    platform: bool = Field(description="Of the whole platform: the tenant's own go before it.")
    rules: dict[str, Any]
    problem: str | None = Field(None, description="Why it cannot be used as it is; then what is more general holds.")


class Profiles(BaseModel):
    """The tenant's own profiles, then the platform's; and what holds without any."""

    items: list[Profile]
    defaults: dict[str, Any]


class ProfileBody(Body):
    """Rules of a profile; what is not named stays as the more general profile has it."""

    rules: dict[str, Any] = Field(max_length=100)


@router.get("/trip-rules", summary="Show the rules of trips")
async def list_rules(registry: RegistryDep, who: Annotated[Principal, needs("trips:read")]) -> Profiles:
    """Of several that fit a device the most specific holds, rule by rule: the tenant's for its type, the tenant's, the
    platform's for its type, the platform's."""
    async with tenant_transaction(registry, who) as connection:
        rows = await trips.profiles(connection)
    items = [
        Profile(type=row["type"], platform=row["everybody"], rules=row["rules"], problem=row["problem"]) for row in rows
    ]
    return Profiles(items=items, defaults=asdict(Rules()))


@router.put("/trip-rules/{type}", summary="Set the rules of trips")
async def put_rules(
    registry: RegistryDep,
    who: Annotated[Principal, needs("trips:write")],
    type: Type,  # noqa: A002 - the path's own name
    body: ProfileBody,
) -> Profile:
    """Set the tenant's profile of a type. Trips that begin or change from now on follow it; `POST /trips/again` has those
    that are there made again."""
    try:
        Rules.of(body.rules)
    except ValueError as error:
        raise Invalid(f"{error}") from None
    async with tenant_transaction(registry, who) as connection:
        if not await trips.installed(connection):
            raise Conflict("No service of trips ran on this database yet: `outrider service start trips`.")
        await trips.put_profile(connection, type, body.rules)
        await audited(connection, who, "trip-rules.change", f"trip-rules:{type}", rules=body.rules)
    return Profile(type=type, platform=False, rules=body.rules, problem=None)


@router.delete("/trip-rules/{type}", status_code=204, summary="Forget rules of trips")
async def delete_rules(registry: RegistryDep, who: Annotated[Principal, needs("trips:write")], type: Type) -> None:  # noqa: A002
    """Take the tenant's profile of a type away: what is more general holds again."""
    async with tenant_transaction(registry, who) as connection:
        if not any(row["type"] == type and not row["everybody"] for row in await trips.profiles(connection)):
            raise NotFound(f"There are no rules for {type} here.")
        await trips.drop_profile(connection, type)
        await audited(connection, who, "trip-rules.delete", f"trip-rules:{type}")
