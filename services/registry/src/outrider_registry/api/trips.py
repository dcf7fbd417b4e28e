"""Trips: what they were, and what an operator merges, splits and takes back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import psycopg
from fastapi import APIRouter, Query
from psycopg import errors as pg
from pydantic import BaseModel, Field

from outrider_registry.api.deps import PageDep, RegistryDep, audited, encode_cursor, needs, tenant_transaction
from outrider_registry.api.devices import missing
from outrider_registry.api.fields import AskedTime, Body, Items, Name, Time, iso
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import devices, positions, trips
from outrider_registry.store.rows import Row
from outrider_registry.store.trips import Filter

router = APIRouter(tags=["trips"])

Reader = Annotated[Principal, needs("trips:read")]
Writer = Annotated[Principal, needs("trips:write")]
State = Literal["driving", "paused", "final"]
MERGE_MAX = 50


class Place(BaseModel):
    """Where a trip began or ended."""

    lat: float | None = None
    lon: float | None = None


class Trip(BaseModel):
    """A trip without its track. Of one that is not final, times and sums are those until now."""

    id: UUID
    device: str
    rev: int = Field(description="1 when it was first final; one more whenever late data or an edit changed it.")
    state: State
    micro: bool = Field(description="Too short to count: kept, and left out where people look at trips.")
    edited: bool = Field(description="Merged or split by somebody.")
    start_at: Time
    end_at: Time
    start: Place
    end: Place
    distance_km: float | None = Field(None, description="The best of GPS, speed and odometer.")
    distance_uncertainty_km: float | None = None
    duration_s: float | None = None
    moving_s: float | None = None
    idle_s: float | None = Field(None, description="Standing, shorter than a stop each time.")
    stop_s: float | None = Field(None, description="In stops between.")
    avg_speed_kmh: float | None = None
    max_speed_kmh: float | None = None
    start_reason: str | None = None
    end_reason: str | None = None
    evidence: str | None = Field(None, description="By what it was recognised.")
    confidence: float | None = Field(None, description="0 to 1.")
    gaps: int = Field(description="Silences within it.")
    stops: int = Field(description="Stops within it.")

    @classmethod
    def of(cls, row: Row) -> Trip:
        """As the store gives it."""
        return cls(**_common(row), gaps=row["gaps"], stops=row["stops"])


class TripDetail(Trip):
    """A trip with its track, gaps, stops, and whatever else is known."""

    track: str = Field(description="Encoded polyline (precision 5), simplified.")
    gap_list: list[dict[str, Any]] = Field(
        description="Each silence: start_ms, end_ms, moved, distance_km, confidence."
    )
    stop_list: list[dict[str, Any]] = Field(description="Each stop: start_ms, end_ms, lat, lon, engine, silent.")
    more: dict[str, Any] = Field(description="Distances by source, energy, fuel, what was filtered.")


class Trips(Items):
    """A part of them, the newest first."""

    items: list[Trip]


class Edit(BaseModel):
    """What an operator changed. It holds also when late data changes the trips around it."""

    id: UUID
    device: str
    kind: Literal["merge", "split"]
    ids: list[UUID] = Field(description="The trips it was made on.")
    at: Time | None = Field(description="Where it was split.")
    actor: str
    made_at: Time
    undone_at: Time | None
    undone_by: str | None


class Edits(BaseModel):
    """The newest first."""

    items: list[Edit]


class Merge(Body):
    """Trips of one device that are one."""

    ids: list[UUID] = Field(min_length=2, max_length=MERGE_MAX)


class Again(Body):
    """Trips of one device that are made again."""

    device: Name
    since: AskedTime = Field(alias="from")
    until: AskedTime = Field(alias="to")


class Split(Body):
    """Where a trip is two."""

    at: AskedTime


DETAIL = frozenset(Trip.model_fields) | {"track", "start_lat", "start_lon", "end_lat", "end_lon", "start_ms", "end_ms"}


def _common(row: Row) -> dict[str, Any]:
    detail: dict[str, Any] = row["detail"]
    own = {name: row[name] for name in ("id", "device", "rev", "state", "micro", "edited", "start_at", "end_at")}
    told = {name: detail.get(name) for name in Trip.model_fields if name not in own and name not in ("gaps", "stops")}
    place = {end: Place(lat=detail.get(f"{end}_lat"), lon=detail.get(f"{end}_lon")) for end in ("start", "end")}
    return told | place | own


@router.get("/trips", summary="List trips")
async def list_trips(
    registry: RegistryDep,
    who: Reader,
    page: PageDep,
    device: Annotated[Name | None, Query()] = None,
    since: Annotated[AskedTime | None, Query(alias="from", description="Only those that ended later.")] = None,
    until: Annotated[AskedTime | None, Query(alias="to", description="Only those that began before.")] = None,
    state: Annotated[list[State] | None, Query(max_length=3, description="Only in one of these states.")] = None,
    micro: Annotated[
        bool | None, Query(description="false: without those that were too short to count; true: only those.")
    ] = None,
) -> Trips:
    """Of all devices or of one, the newest first. Reading it is in the audit, as positions are."""
    after = _key(page.after)
    async with tenant_transaction(registry, who) as connection:
        rows, last = await trips.page(connection, Filter(device, state, micro, since, until), after, page.limit)
        if rows:
            await positions.note_read(connection, who, device)
    return Trips(items=[Trip.of(row) for row in rows], next=encode_cursor(last) if last else None)


@router.get("/trips/{id}", summary="Show a trip")
async def get_trip(registry: RegistryDep, who: Reader, id: UUID) -> TripDetail:  # noqa: A002 - the path's own name
    """Everything that is known of it, with its track. Reading it is in the audit."""
    async with tenant_transaction(registry, who) as connection:
        row = await _known(connection, id)
        await positions.note_read(connection, who, row["device"])
    detail: dict[str, Any] = row["detail"]
    gaps, stops = detail.get("gaps") or [], detail.get("stops") or []
    return TripDetail(
        **_common(row),
        gaps=len(gaps),
        stops=len(stops),
        track=detail.get("track") or "",
        gap_list=gaps,
        stop_list=stops,
        more={name: value for name, value in detail.items() if name not in DETAIL and value is not None},
    )


@router.post("/trips/merge", status_code=202, summary="Merge trips")
async def merge_trips(registry: RegistryDep, who: Writer, body: Merge) -> Edit:
    """Say that trips of one device are one, with the pauses between them as stops. It is done within a moment, and holds
    when late data comes; `DELETE /trip-edits/{id}` takes it back."""
    ids = list(dict.fromkeys(body.ids))
    async with tenant_transaction(registry, who) as connection:
        found = await trips.devices_of(connection, ids)
        if len(found) < len(ids):
            raise NotFound("Not all of these trips exist. Late data may have changed them: list the trips again.")
        if len(ids) < 2 or len(set(found.values())) > 1:
            raise Invalid("Only two or more trips of one device can be merged.")
        return await _edited(connection, who, await _in_words(trips.merge(connection, ids, who.actor)))


@router.post("/trips/{id}/split", status_code=202, summary="Split a trip")
async def split_trip(registry: RegistryDep, who: Writer, id: UUID, body: Split) -> Edit:  # noqa: A002
    """Say that a trip is two, from this moment on. It is done within a moment, and holds when late data comes."""
    async with tenant_transaction(registry, who) as connection:
        row = await _known(connection, id)
        if not row["start_at"] < body.at < row["end_at"]:
            raise Invalid("`at` must lie between the trip's start and end.")
        return await _edited(connection, who, await _in_words(trips.split(connection, id, body.at, who.actor)))


@router.post("/trips/again", status_code=202, summary="Make trips again")
async def make_again(registry: RegistryDep, who: Writer, body: Again) -> None:
    """Recognise a device's trips of this time again, by today's rules: a change of rules alone touches no trip that is
    there. What people merged and split stays so."""
    if body.since >= body.until:
        raise Invalid("`from` must be before `to`.")
    async with tenant_transaction(registry, who) as connection:
        if not await devices.exists(connection, body.device):
            raise missing(body.device)
        if not await trips.again(connection, body.device, body.since, body.until):
            raise Conflict(f"{body.device} sent nothing then that trips are made of, or it is kept no longer.")
        await audited(
            connection, who, "trip.again", f"device:{body.device}", since=iso(body.since), until=iso(body.until)
        )


@router.get("/trip-edits", summary="List what operators changed")
async def list_edits(registry: RegistryDep, who: Reader, device: Annotated[Name | None, Query()] = None) -> Edits:
    """Merges and splits, also those that were taken back, the newest 200."""
    async with tenant_transaction(registry, who) as connection:
        return Edits(items=[Edit(**row) for row in await trips.edits(connection, device)])


@router.delete("/trip-edits/{id}", status_code=204, summary="Take a merge or split back")
async def undo_edit(registry: RegistryDep, who: Writer, id: UUID) -> None:  # noqa: A002
    """The trips become what the data say, within a moment."""
    async with tenant_transaction(registry, who) as connection:
        found = await trips.edits(connection, edit=id)
        if not found:
            raise NotFound(f"There is no edit {id}.")
        if found[0]["undone_at"] is not None:
            raise Conflict("It was taken back already.")
        await _in_words(trips.undo(connection, id, who.actor))
        edit = Edit(**found[0])
        await audited(connection, who, f"trip.undo_{edit.kind}", f"device:{edit.device}", edit=str(id))


async def _edited(connection: psycopg.AsyncConnection, who: Principal, id_: UUID) -> Edit:
    edit = Edit(**(await trips.edits(connection, edit=id_))[0])
    detail = {"edit": str(edit.id), "trips": [str(one) for one in edit.ids]}
    if edit.at is not None:
        detail["at"] = edit.at.isoformat()
    await audited(connection, who, f"trip.{edit.kind}", f"device:{edit.device}", **detail)
    return edit


async def _in_words(work: Any) -> Any:
    """What the trips' own functions refuse is a conflict, in their words."""
    try:
        return await work
    except pg.RaiseException as error:
        raise Conflict((error.diag.message_primary or str(error)).split("\n", 1)[0]) from None


async def _known(connection: psycopg.AsyncConnection, id_: UUID) -> Row:
    row = await trips.get(connection, id_)
    if row is None:
        raise NotFound(f"There is no trip {id_}. Late data may have changed it: list the trips again.")
    return row


def _key(after: list[Any] | None) -> tuple[datetime, UUID] | None:
    if after is None:
        return None
    try:
        at, id_ = after
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment, UUID(id_)
    except (TypeError, ValueError, AttributeError):
        raise Invalid("This cursor was not made here: use `next` of the page before as it is.") from None
