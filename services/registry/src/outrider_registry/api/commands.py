"""Commands: send one to a device, see what became of it, take it back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from outrider_registry import kinds, merge
from outrider_registry.api.deps import (
    Page,
    PageDep,
    RegistryDep,
    audited,
    encode_cursor,
    needs,
    tenant_transaction,
)
from outrider_registry.api.fields import Body, Items, Name, Time
from outrider_registry.context import Registry
from outrider_registry.errors import Conflict, Invalid, NotFound, Stopped
from outrider_registry.principals import Principal
from outrider_registry.store import commands as store
from outrider_registry.store import devices, stops

router = APIRouter(tags=["commands"])

Reader = Annotated[Principal, needs("commands:read")]
Writer = Annotated[Principal, needs("commands:write")]
State = Literal[
    "queued", "sent", "accepted", "running", "succeeded", "failed", "rejected", "expired", "timed_out", "canceled"
]
States = Annotated[list[State] | None, Query(max_length=10, description="Only in one of these states.")]
OPEN_MAX = 100
"""Commands of one device that have not ended: a device remembers the ids of 256."""
DAY_S = 86_400


class NewCommand(Body):
    """A command to send."""

    name: Name = Field(description=f"{', '.join(kinds.KINDS)}, or one of your own.")
    params: dict[str, Any] = Field(default_factory=dict)
    expires_s: int = Field(3600, ge=1, le=90 * DAY_S, description="It is not begun later than this.")
    timeout_s: int = Field(300, ge=1, le=7 * DAY_S, description="How long it may take once the device has accepted it.")


class Command(BaseModel):
    """A command and what became of it."""

    id: UUID
    device: str
    name: str
    params: dict[str, Any]
    state: State
    result: Any
    created_by: str
    created_at: Time
    expires_at: Time
    timeout_s: int
    sent_at: Time | None
    accepted_at: Time | None
    finished_at: Time | None


class Commands(Items):
    """The newest first."""

    items: list[Command]


@router.get("/devices/{id}/commands", summary="List a device's commands")
async def list_device_commands(
    registry: RegistryDep,
    who: Reader,
    page: PageDep,
    id: Name,  # noqa: A002 - the path's own name
    state: States = None,
) -> Commands:
    """The newest first."""
    async with tenant_transaction(registry, who) as connection:
        if not await devices.exists(connection, id):
            raise NotFound(f"There is no device {id}.")
    return await _page(registry, who, page, id, state)


@router.get("/commands", summary="List commands")
async def list_commands(registry: RegistryDep, who: Reader, page: PageDep, state: States = None) -> Commands:
    """Of all devices, the newest first."""
    return await _page(registry, who, page, None, state)


@router.post("/devices/{id}/commands", status_code=201, summary="Send a command")
async def send_command(
    registry: RegistryDep,
    who: Writer,
    id: Name,  # noqa: A002
    body: NewCommand,
    response: Response,
) -> Command:
    """Queue a command: it is sent at once if the device is online, else when it comes, until it expires. A device carries
    it out at most once. 423 while an emergency stop stands."""
    async with tenant_transaction(registry, who) as connection:
        for stop in await stops.standing(connection, who.in_tenant()):
            whose = "for the whole platform" if stop["tenant"] == stops.PLATFORM else "here"
            raise Stopped(
                f"An emergency stop stands {whose}: {stop['reason']} ({stop['stopped_by']}). No command starts until it "
                "is lifted (`outrider stop --end`)."
            )
        status = await store.status_of(connection, id)
        if status is None:
            raise NotFound(f"There is no device {id}.")
        if status != "active":
            raise Conflict(f"{id} is {status}, so it cannot be reached. Enable or approve it first.")
        try:
            params = kinds.check(body.name, body.params)
        except merge.NotAllowed as error:
            raise Invalid(str(error)) from None
        if await store.open_of(connection, id) >= OPEN_MAX:
            raise Conflict(f"{OPEN_MAX} commands of {id} have not ended. Wait, or cancel some.")
        row = await store.insert(
            connection,
            {
                "device": id,
                "name": body.name,
                "params": params,
                "actor": who.actor,
                "expires_s": body.expires_s,
                "timeout_s": body.timeout_s,
            },
        )
        # Values stay out of the audit: they stand in the command.
        await audited(
            connection, who, "command.create", f"command:{row['id']}", device=id, name=body.name, params=sorted(params)
        )
    response.headers["Location"] = f"/api/v1/commands/{row['id']}"
    return Command(**row)


@router.get("/commands/{id}", summary="Show a command")
async def get_command(registry: RegistryDep, who: Reader, id: UUID) -> Command:  # noqa: A002
    """How far it got, and its result."""
    async with tenant_transaction(registry, who) as connection:
        row = await store.one(connection, id)
    if row is None:
        raise NotFound(f"There is no command {id}.")
    return Command(**row)


@router.post("/commands/{id}/cancel", summary="Take a command back")
async def cancel_command(registry: RegistryDep, who: Writer, id: UUID) -> Command:  # noqa: A002
    """End a command that the device has not accepted. One that was sent may still be carried out; the device's answer
    is then kept beside the result."""
    async with tenant_transaction(registry, who) as connection:
        canceled = await store.cancel(connection, id)
        row = await store.one(connection, id)
        if row is None:
            raise NotFound(f"There is no command {id}.")
        if not canceled and row["state"] != "canceled":
            raise Conflict(f"It is {row['state']} already: too late to take it back.", state=row["state"])
        if canceled:
            detail = {"name": row["name"], "state": "canceled"}
            await audited(connection, who, "command.finish", f"command:{id}", **detail)
    return Command(**row)


async def _page(
    registry: Registry, who: Principal, page: Page, device: str | None, states: list[State] | None
) -> Commands:
    after = None
    if page.after is not None:
        try:
            at, last_id = page.after
            after = datetime.fromisoformat(at), UUID(last_id)
        except (ValueError, TypeError, AttributeError):
            raise Invalid("This cursor was not made here: use `next` of the page before as it is.") from None
    async with tenant_transaction(registry, who) as connection:
        rows = await store.page(connection, device, states, after, page.limit + 1)
    last = rows[page.limit - 1] if len(rows) > page.limit else None
    return Commands(
        items=[Command(**row) for row in rows[: page.limit]],
        next=encode_cursor([last["created_at"].isoformat(), str(last["id"])]) if last else None,
    )
