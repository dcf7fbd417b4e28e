"""Devices: the fleet list, one device, its changes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import psycopg
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from outrider_registry.api import tombstones
from outrider_registry.api.deps import (
    ExpectedVersion,
    PageDep,
    RegistryDep,
    audited,
    check_version,
    encode_cursor,
    needs,
    tenant_transaction,
)
from outrider_registry.api.fields import (
    Body,
    Items,
    Label,
    Metric,
    Name,
    OptionalLabel,
    Text,
    Time,
    Word,
    changed,
    is_bigint,
    is_text,
    like,
)
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import devices, positions, shadows, telemetry
from outrider_registry.store.rows import Row

router = APIRouter(tags=["devices"])

Reader = Annotated[Principal, needs("devices:read")]
Writer = Annotated[Principal, needs("devices:write")]
Presence = Literal["online", "offline", "unknown"]
Status = Literal["pending", "active", "disabled"]
Sort = Literal["id", "-id", "name", "-name", "seen_at", "-seen_at", "presence", "-presence"]
MAX_TAGS = 32


class Details(Body):
    """What can be said of a device."""

    name: Text = Field("", description="For people.")
    type: OptionalLabel = Field("", description="van, truck, gateway, sensor …")
    tier: OptionalLabel = Field("", description="esp32, pi, phone, obd …")
    tags: list[Label] = Field([], max_length=MAX_TAGS)
    latitude: float | None = Field(None, ge=-90, le=90, description="Of a device that stands still.")
    longitude: float | None = Field(None, ge=-180, le=180)
    location: Text = Field("", description="Where it is, in words.")
    firmware: Text = ""
    hardware: Text = ""
    serial: Word | None = None
    owner: Text = ""
    gateway: Name | None = Field(None, description="The device that publishes for this one.")

    @model_validator(mode="after")
    def _sorted(self) -> Details:
        if "tags" in self.model_fields_set:
            self.tags = sorted(set(self.tags))
        return self


class NewDevice(Details):
    """A device to register."""

    id: Name = Field(description="Its name in topics, unique in this installation.")
    status: Literal["active", "disabled"] = "active"


class DevicePresence(BaseModel):
    """Whether it is connected."""

    state: Presence
    since: Time | None
    reason: str
    seen_at: Time | None = Field(description="When anything was heard of it.")
    boots: int
    firmware: str = Field(description="As the device says itself.")
    tier: str


class Device(BaseModel):
    """A device with its presence."""

    id: str
    name: str
    type: str
    tier: str
    tags: list[str]
    latitude: float | None
    longitude: float | None
    location: str
    firmware: str
    hardware: str
    serial: str | None
    owner: str
    gateway: str | None
    status: Status
    created_at: Time
    updated_at: Time
    version: int
    presence: DevicePresence
    sparkline: list[float | None] | None = Field(
        None, description="The asked metric's last hour in 30 values, oldest first; null where it was silent."
    )

    @classmethod
    def of(cls, row: Row, sparkline: list[float | None] | None = None) -> Device:
        """As the store gives it."""
        presence = DevicePresence(
            state=row["state"],
            since=row["since"],
            reason=row["reason"],
            seen_at=row["seen_at"],
            boots=row["boots"],
            firmware=row["reported_firmware"],
            tier=row["reported_tier"],
        )
        return cls(presence=presence, sparkline=sparkline, **{name: row[name] for name in _OWN})


_OWN = tuple(name for name in Device.model_fields if name not in ("presence", "sparkline"))


class Devices(Items):
    """A part of the fleet."""

    items: list[Device]


class Counted(BaseModel):
    """A tag or type, and how many devices have it."""

    name: str
    count: int


@router.get("/devices", summary="List devices")
async def list_devices(
    registry: RegistryDep,
    who: Reader,
    page: PageDep,
    q: Annotated[Word | None, Query(description="Words, each found in id, name, serial number or tags.")] = None,
    tag: Annotated[list[Label] | None, Query(max_length=MAX_TAGS, description="Has all of these tags.")] = None,
    type: Annotated[Label | None, Query()] = None,  # noqa: A002 - the query's own name
    tier: Annotated[Label | None, Query()] = None,
    status: Status | None = None,
    presence: Presence | None = None,
    gateway: Annotated[Name | None, Query(description="Is a child of this gateway.")] = None,
    sort: Sort = "id",
    sparkline: Annotated[Metric | None, Query(description="Also the last hour of this metric.")] = None,
) -> Devices:
    """Devices in order, with their presence; `next` goes on where this part ends. A sparkline takes telemetry:read, and
    one of positions is in the audit as reading them is."""
    if sparkline is not None:
        who.require("telemetry:read")
    equal = {"type": type, "tier": tier, "status": status, "gateway": gateway, "presence": presence}
    filter_ = devices.Filter(
        words=[like(word) for word in (q or "").split()],
        tags=tag or (),
        equal={name: value for name, value in equal.items() if value is not None},
    )
    key = sort.removeprefix("-")
    if page.after is not None and not _is_key(page.after, key):
        raise Invalid("This cursor belongs to another order: use it with the `sort` it came from.")
    async with tenant_transaction(registry, who) as connection:
        rows, last = await devices.page(connection, filter_, key, sort.startswith("-"), page.after, page.limit)
        total = await devices.count(connection, filter_) if page.after is None else None
        lines = await telemetry.sparklines(connection, [row["id"] for row in rows], sparkline) if sparkline else None
        if sparkline in positions.METRICS:
            await positions.note_read(connection, who, None)
    return Devices(
        items=[Device.of(row, lines.get(row["id"]) if lines else None) for row in rows],
        next=encode_cursor(last) if last else None,
        total=total,
    )


@router.post("/devices", status_code=201, summary="Register a device")
async def create_device(
    registry: RegistryDep,
    who: Writer,
    body: NewDevice,
    response: Response,
    lift_tombstone: Annotated[
        bool, Query(description="Take the id of an erased device; for administrators of the platform.")
    ] = False,
) -> Device:
    """Register a device. It has no credentials yet: issue them, or let it enrol with a claim."""
    if lift_tombstone:
        await tombstones.lift(registry, who, body.id)
    async with tenant_transaction(registry, who) as connection:
        await _check(connection, body.id, body.model_dump())
        if not await devices.insert(connection, who.in_tenant(), body.model_dump()):
            await tombstones.check_free(connection, body.id)
            raise Conflict(f"The id {body.id} is taken. Ids are unique in this installation: choose another one.")
        await shadows.recompute(connection, [body.id])
        row = await _get(connection, body.id)
        await audited(
            connection, who, "device.create", f"device:{body.id}", **body.model_dump(exclude={"id"}, exclude_unset=True)
        )
    response.headers["Location"] = f"/api/v1/devices/{body.id}"
    return Device.of(row)


@router.get("/devices/{id}", summary="Show a device")
async def get_device(registry: RegistryDep, who: Reader, id: Name) -> Device:  # noqa: A002
    """One device with its presence."""
    async with tenant_transaction(registry, who) as connection:
        row = await _get(connection, id)
    return Device.of(row)


@router.patch("/devices/{id}", summary="Change a device")
async def change_device(
    registry: RegistryDep,
    who: Writer,
    id: Name,  # noqa: A002
    body: Details,
    expected: ExpectedVersion,
) -> Device:
    """Change what is given and leave the rest."""
    async with tenant_transaction(registry, who) as connection:
        before = await _lock(connection, id)
        check_version(expected, before["version"], f"Device {id}")
        after = before | body.model_dump(exclude_unset=True)
        await _check(connection, id, after)
        row = await _store(connection, who, "device.change", before, after)
    return Device.of(row)


@router.delete("/devices/{id}", status_code=204, summary="Remove a device from the registry")
async def delete_device(
    registry: RegistryDep,
    who: Writer,
    id: Name,  # noqa: A002
    expected: ExpectedVersion,
) -> None:
    """Remove a device with its credentials, shadow and commands. What it has measured stays."""
    async with tenant_transaction(registry, who) as connection:
        before = await _lock(connection, id)
        check_version(expected, before["version"], f"Device {id}")
        if count := await devices.children(connection, id):
            raise Conflict(f"{id} is the gateway of {count} devices. Give them another gateway, or none, first.")
        await devices.delete(connection, id)
        await audited(connection, who, "device.delete", f"device:{id}", **_plain(before))


@router.post("/devices/{id}/disable", summary="Disable a device")
async def disable_device(registry: RegistryDep, who: Writer, id: Name) -> Device:  # noqa: A002
    """Throw it out of the broker and refuse its messages. Nothing is erased."""
    return await _set_status(registry, who, id, "disabled")


@router.post("/devices/{id}/enable", summary="Enable a device")
async def enable_device(registry: RegistryDep, who: Writer, id: Name) -> Device:  # noqa: A002
    """Let it in again, with the credentials it had."""
    return await _set_status(registry, who, id, "active")


@router.get("/tags", summary="Tags in use")
async def list_tags(registry: RegistryDep, who: Reader) -> list[Counted]:
    """All tags of devices, with how many have each."""
    async with tenant_transaction(registry, who) as connection:
        return [Counted(**row) for row in await devices.tags(connection)]


@router.get("/types", summary="Types in use")
async def list_types(registry: RegistryDep, who: Reader) -> list[Counted]:
    """All types of devices, with how many have each."""
    async with tenant_transaction(registry, who) as connection:
        return [Counted(**row) for row in await devices.types(connection)]


async def _set_status(registry: RegistryDep, who: Principal, device: str, status: str) -> Device:
    async with tenant_transaction(registry, who) as connection:
        before = await _lock(connection, device)
        if before["status"] == "pending":
            raise Conflict(f"{device} waits for approval of its claim: approve or refuse that.")
        action = "device.disable" if status == "disabled" else "device.enable"
        row = await _store(connection, who, action, before, before | {"status": status})
    return Device.of(row)


async def _store(connection: psycopg.AsyncConnection, who: Principal, action: str, before: Row, after: Row) -> Row:
    changes = changed(before, after)
    if changes:
        await devices.update(connection, after)
        if changes.keys() & set(devices.MERGED_FROM):
            await shadows.recompute(connection, [before["id"]])
    row = await _get(connection, before["id"])
    if changes:
        await audited(connection, who, action, f"device:{before['id']}", changes=changes)
    return row


async def _check(connection: psycopg.AsyncConnection, device: str, values: dict[str, Any]) -> None:
    """Raises Invalid for half a place, and for a gateway that cannot be this device's."""
    if problem := half_a_place(values):
        raise Invalid(problem)
    gateway = values["gateway"]
    if gateway is None:
        return
    if gateway == device:
        raise Invalid("A device cannot be its own gateway.")
    known = await devices.gateways(connection, [gateway])
    if gateway not in known:
        raise Invalid(f"There is no device {gateway} to be the gateway. Register it first.")
    if known[gateway] is not None:
        raise Invalid(f"{gateway} is behind the gateway {known[gateway]} itself. Gateways do not chain: name that one.")
    if await devices.children(connection, device):
        raise Invalid(f"{device} is a gateway of other devices, so it cannot be behind one. Gateways do not chain.")


def half_a_place(values: dict[str, Any]) -> str | None:
    """What is wrong with latitude and longitude of which only one is known."""
    if (values["latitude"] is None) != (values["longitude"] is None):
        return "Give latitude and longitude together, or neither."
    return None


async def _get(connection: psycopg.AsyncConnection, device: str) -> Row:
    row = await devices.get(connection, device)
    if row is None:
        raise missing(device)
    return row


async def _lock(connection: psycopg.AsyncConnection, device: str) -> Row:
    row = await devices.lock(connection, device)
    if row is None:
        raise missing(device)
    return row


def missing(device: str) -> NotFound:
    """The same for a device that does not exist and for one of another tenant."""
    return NotFound(f"There is no device {device}. `outrider device list` shows those there are.")


def _plain(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value not in ("", None, [])}


def _is_key(after: list[Any], sort: str) -> bool:
    if len(after) != 2 or not is_text(after[1]):
        return False
    return is_bigint(after[0]) if sort == "seen_at" else is_text(after[0])
