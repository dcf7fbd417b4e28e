"""Tenants: for administrators of the platform, and a tenant's own title."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from psycopg.errors import UniqueViolation
from pydantic import BaseModel, Field

from outrider_registry.api.deps import (
    ExpectedVersion,
    PageDep,
    PrincipalDep,
    RegistryDep,
    check_version,
    encode_cursor,
    home_transaction,
    needs,
)
from outrider_registry.api.fields import Body, Items, Text, Time, is_text
from outrider_registry.api.fields import Name as TenantName
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import audit, tenants

router = APIRouter(tags=["tenants"])

Reader = Annotated[Principal, needs("platform:read")]
Writer = Annotated[Principal, needs("platform:write")]
Name = Annotated[str, Path(max_length=63, examples=["acme"])]


class NewTenant(Body):
    """A tenant to make."""

    name: Annotated[TenantName, Field(description="As in topics: small letters, digits, `-`.", examples=["acme"])]
    title: Annotated[Text, Field(description="For people.", examples=["Acme Logistics"])] = ""


class TenantChange(Body):
    """What to change; what is left out stays."""

    title: Text | None = None
    disabled: bool | None = Field(
        None, description="Throws its devices and people out, and erases nothing. By administrators of the platform."
    )


class Tenant(BaseModel):
    """A tenant."""

    name: str
    title: str
    devices: int
    users: int
    created_at: Time
    disabled_at: Time | None
    version: int


class Tenants(Items):
    """Tenants by name."""

    items: list[Tenant]


@router.get("/tenants", summary="List tenants", response_model=Tenants)
async def list_tenants(who: Reader, registry: RegistryDep, page: PageDep) -> dict[str, Any]:
    """With how many devices and people each has."""
    if page.after is not None and not (len(page.after) == 1 and is_text(page.after[0])):
        raise Invalid("This cursor is of another list: use `next` of the page before as it is.")
    async with home_transaction(registry, who) as connection:
        found = await tenants.listed(connection, page.after[0] if page.after else None, page.limit + 1)
    items = found[: page.limit]
    return {"items": items, "next": encode_cursor([items[-1]["name"]]) if len(found) > page.limit else None}


@router.post("/tenants", status_code=201, summary="Make a tenant", response_model=Tenant)
async def make(body: NewTenant, who: Writer, registry: RegistryDep, response: Response) -> dict[str, Any]:
    """Then invite its first administrator: POST /users with the header `Outrider-Tenant`."""
    async with home_transaction(registry, who) as connection:
        try:
            await tenants.add(connection, body.name, body.title)
        except UniqueViolation:
            raise Conflict(f"There is a tenant {body.name} already.") from None
        made = await existing(connection, body.name)
        for chain in (body.name, None):
            await noted(connection, chain, who, "tenant.create", body.name, title=body.title)
    response.headers["location"] = f"/api/v1/tenants/{body.name}"
    return made


@router.get("/tenants/{name}", summary="One tenant", response_model=Tenant)
async def read(name: Name, who: PrincipalDep, registry: RegistryDep) -> dict[str, Any]:
    """Everybody may see their own."""
    if who.is_platform:
        who.require("platform:read")
    async with home_transaction(registry, who) as connection:
        return await existing(connection, name)


@router.patch("/tenants/{name}", summary="Change the title, disable, enable", response_model=Tenant)
async def change(
    name: Name,
    body: TenantChange,
    expected: ExpectedVersion,
    who: Annotated[Principal, needs("tenant:write")],
    registry: RegistryDep,
) -> dict[str, Any]:
    """A tenant's administrator may change its title."""
    if body.disabled is not None or who.is_platform:
        who.require("platform:write")
    async with home_transaction(registry, who) as connection:
        await locked(connection, name, expected)
        changed = {name: value for name, value in body.model_dump().items() if value is not None}
        if changed:
            await tenants.change(connection, name, title=body.title, disabled=body.disabled)
            await noted(connection, name, who, "tenant.change", name, **changed)
        return await existing(connection, name)


@router.delete("/tenants/{name}", status_code=204, summary="Delete an empty tenant")
async def remove(name: Name, expected: ExpectedVersion, who: Writer, registry: RegistryDep) -> None:
    """One without devices and people; its configurations, charts and open claims go with it. Its audit stays."""
    async with home_transaction(registry, who) as connection:
        await locked(connection, name, expected)
        found = await existing(connection, name)
        if found["devices"] or found["users"]:
            raise Conflict(
                f"Tenant {name} still has {found['devices']} devices and {found['users']} people. "
                "Delete them first, or disable the tenant.",
                devices=found["devices"],
                users=found["users"],
            )
        await tenants.remove(connection, name)
        await noted(connection, None, who, "tenant.delete", name)


async def existing(connection: Any, name: str) -> dict[str, Any]:
    """The tenant, if it is in reach of this transaction. Raises NotFound."""
    found = await tenants.get(connection, name)
    if found is None:
        raise NotFound(f"There is no tenant {name!r}.")
    return found


async def locked(connection: Any, name: str, expected: int | None) -> None:
    """Nobody else changes it until the transaction ends. Raises NotFound and StaleVersion."""
    version = await tenants.lock(connection, name)
    if version is None:
        raise NotFound(f"There is no tenant {name!r}.")
    check_version(expected, version, f"Tenant {name}")


async def noted(connection: Any, chain: str | None, who: Principal, action: str, name: str, **detail: Any) -> None:
    """In the audit of the tenant, or of the platform (None)."""
    await audit.append(connection, chain, who.actor, action, f"tenant:{name}", detail, who.address)
