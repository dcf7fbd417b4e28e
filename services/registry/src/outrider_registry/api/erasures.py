"""Erasing a device or a person from every store, for good; and the report of what was erased and what was not."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import psycopg
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StringConstraints

from outrider_registry.api.deps import (
    PageDep,
    RegistryDep,
    encode_cursor,
    home_transaction,
    needs,
    reach_transaction,
    tenant_transaction,
)
from outrider_registry.api.devices import missing
from outrider_registry.api.fields import Body, Items, Name, Time, is_text
from outrider_registry.api.people import keep_an_administrator
from outrider_registry.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from outrider_registry.principals import Principal
from outrider_registry.store import accounts, audit, devices, erasures
from outrider_registry.store.rows import Row

router = APIRouter(tags=["erasures"])

Reader = Annotated[Principal, needs("erasures:read")]
Writer = Annotated[Principal, needs("erasures:write")]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=200)]
OF_PLATFORM = "-"
"""The tenant of administrators of the platform, as the audit calls it."""


class NewErasure(Body):
    """What to erase. It cannot be taken back."""

    kind: Literal["device", "person"]
    name: Subject = Field(description="The device's id; or the person's account, or their name as owner of devices.")
    confirm: Subject = Field(description="The same name once more.")
    devices: bool = Field(False, description="Of a person: erase the devices they own, too.")


class NotErased(BaseModel):
    """What stays, and why."""

    what: str
    why: str


class Erasure(BaseModel):
    """An erasure and its report."""

    id: UUID
    kind: Literal["device", "person"]
    subject: str = Field(description="Of a person, once it is done, a digest of the name.")
    parent: UUID | None = Field(description="Of a device that goes with its owner: the person's erasure.")
    tombstone: bool = Field(description="The device's id is nobody's from now on, and what still arrives is dropped.")
    state: Literal["erasing", "settling", "waiting", "done"] = Field(
        description="erasing: at work; settling: it looks once more for what was on its way; waiting: see problem; done: a last "
        "look found nothing."
    )
    problem: str | None = Field(description="What somebody must do before it can go on.")
    requested_at: Time
    finished_at: Time | None
    erased: dict[str, dict[str, int]] = Field(description="Of each store what was removed: rows, files, topics.")
    not_erased: list[NotErased] = Field(description="What stays; with the report of a finished erasure.")

    @classmethod
    def of(cls, row: Row) -> Erasure:
        """As the store gives it."""
        report: dict[str, Any] = dict(row["report"])
        not_erased = report.pop("not_erased", [])
        return cls(**{name: row[name] for name in _OWN}, erased=report, not_erased=not_erased)


_OWN = tuple(name for name in Erasure.model_fields if name not in ("erased", "not_erased"))


class Erasures(Items):
    """Erasures, the newest first."""

    items: list[Erasure]


@router.get("/erasures", summary="List erasures")
async def list_erasures(registry: RegistryDep, who: Reader, page: PageDep) -> Erasures:
    """Those of the tenant; an administrator of the platform who has chosen none sees all."""
    if page.after is not None and not (len(page.after) == 2 and all(map(is_text, page.after))):
        raise Invalid("This cursor is of another list: use `next` of the page before as it is.")
    async with reach_transaction(registry, who) as connection:
        if not await erasures.can(connection):
            return Erasures(items=[])
        rows, last = await erasures.page(connection, _reach(who), page.after, page.limit)
    return Erasures(items=[Erasure.of(row) for row in rows], next=encode_cursor(last) if last else None)


@router.get("/erasures/{id}", summary="One erasure and its report")
async def get_erasure(registry: RegistryDep, who: Reader, id: UUID) -> Erasure:  # noqa: A002
    """How far it is, what was removed where, and what stays and why."""
    async with reach_transaction(registry, who) as connection:
        row = await erasures.get(connection, _reach(who), id) if await erasures.can(connection) else None
    if row is None:
        raise NotFound(f"There is no erasure {id}.")
    return Erasure.of(row)


@router.post("/erasures", status_code=202, summary="Erase a device or a person, for good")
async def erase(registry: RegistryDep, who: Writer, body: NewErasure, response: Response) -> Erasure:
    """The device or account goes at once, with its sign-ins and its place at the broker; the other stores follow within
    minutes. The answer is the erasure; look at it again until it is done. Asked again meanwhile, it is the same one."""
    if body.confirm != body.name:
        raise Invalid("confirm: repeat the name exactly as in `name`. What is erased cannot be brought back.")
    if body.devices and body.kind == "device":
        raise Invalid("devices: goes with a person only.")
    made = await (_person(registry, who, body) if body.kind == "person" else _device(registry, who, body.name))
    response.headers["Location"] = f"/api/v1/erasures/{made.id}"
    return made


async def _device(registry: RegistryDep, who: Principal, device: Name) -> Erasure:
    tenant = who.in_tenant()
    async with tenant_transaction(registry, who) as connection:
        await _check_installed(connection)
        id_ = await erasures.open_one(connection, tenant, "device", device)
        if id_ is None:
            if not await erasures.is_known(connection, tenant, device):
                raise missing(device)
            id_ = await _erase_device(connection, who, tenant, device)
        return await _existing(connection, tenant, id_)


async def _erase_device(
    connection: psycopg.AsyncConnection, who: Principal, tenant: str, device: str, parent: UUID | None = None
) -> UUID:
    if count := await devices.children(connection, device):
        raise Conflict(f"{device} is the gateway of {count} devices. Give them another gateway, or none, first.")
    id_ = await erasures.erase_device(connection, tenant, device, parent)
    detail = {"erasure": str(id_)}
    await audit.append(connection, tenant, who.actor, "device.erase", f"device:{device}", detail, who.address)
    return id_


async def _person(registry: RegistryDep, who: Principal, body: NewErasure) -> Erasure:
    who.require("users:write")
    async with home_transaction(registry, who) as connection:
        await _check_installed(connection)
        account = await accounts.by_name(connection, body.name, lock=True)
        if account is not None and not who.is_platform and account.tenant != who.home:
            account = None
        tenant = (account.tenant or OF_PLATFORM) if account is not None else who.in_tenant()
        if id_ := await erasures.open_one(connection, tenant, "person", body.name):
            return await _existing(connection, tenant, id_)
        owned = await erasures.owned(connection, tenant, body.name)
        if account is None and not owned:
            raise NotFound(f"There is no user {body.name!r}, and no device with this owner.")
        if account is not None:
            who.require_above(account.role, account.tenant)
            if account.id == who.account:
                raise Forbidden("Nobody erases themselves: ask another administrator.")
            await keep_an_administrator(connection, account)
        id_ = await erasures.erase_person(connection, tenant, body.name)
        if body.devices:
            who.require("devices:write")
            for device in owned:
                await _erase_device(connection, who, tenant, device, id_)
        # Without the name: what the audit has once it keeps.
        chain = None if tenant == OF_PLATFORM else tenant
        detail = {"devices": len(owned) if body.devices else 0}
        await audit.append(connection, chain, who.actor, "person.erase", f"erasure:{id_}", detail, who.address)
        return await _existing(connection, tenant, id_)


async def _check_installed(connection: psycopg.AsyncConnection) -> None:
    if not await erasures.can(connection):
        raise Unavailable("Erasing takes the service lifecycle: install it and run `outrider migrate`.", 60)


async def _existing(connection: psycopg.AsyncConnection, tenant: str, id_: UUID) -> Erasure:
    row = await erasures.get(connection, tenant, id_)
    assert row is not None
    return Erasure.of(row)


def _reach(who: Principal) -> str | None:
    """The tenant whose erasures somebody sees; None: all, of the platform."""
    return who.tenant if who.is_platform else who.home
