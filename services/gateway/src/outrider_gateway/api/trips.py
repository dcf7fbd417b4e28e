"""Trips: lists, one with its track and the extrema of any metric, as JSON, GeoJSON or GPX."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from outrider_gateway import queries
from outrider_gateway.access import Principal, needs
from outrider_gateway.api import sending
from outrider_gateway.api.fields import TIME, Label, Name, OptionalFormat
from outrider_gateway.context import Gateway, GatewayDep
from outrider_gateway.errors import NotFound
from outrider_gateway.query import device as questions
from outrider_gateway.query import fleet, formats, geo, store
from outrider_gateway.query import trips as trips_
from outrider_gateway.query.asked import LAST_MS, Asking, Range, iso, listed, moment_ms
from outrider_gateway.query.columns import NUMERIC
from outrider_gateway.query.fleet import Selection
from outrider_gateway.query.trips import Row, Wanted

router = APIRouter(tags=["trips"])

Reader = Annotated[Principal, needs("trips:read")]
State = Literal["driving", "paused", "final"]
ROUTE = "trips"
EXTREMA = ("min", "max", "mean", "first", "last", "count")
Since = Annotated[str | None, Query(alias="from", max_length=64, description=f"Only those that ended later. {TIME}")]
Until = Annotated[str | None, Query(alias="to", max_length=64, description=f"Only those that began before. {TIME}")]
States = Annotated[list[State] | None, Query(max_length=3, description="Only in one of these states.")]
Micro = Annotated[bool | None, Query(description="false: without those too short to count; true: only those.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Trips a page.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before.")]
GEO = {
    "application/geo+json": {"schema": {"type": "object"}},
    "application/gpx+xml": {"schema": {"type": "string"}},
}


class Place(BaseModel):
    """Where; null where it is not known."""

    lat: float | None
    lon: float | None


class Trip(BaseModel):
    """A trip. `rev` grows whenever late data or an operator changed it after it was final."""

    id: UUID
    device: str
    rev: int
    state: str
    micro: bool = Field(description="Too short to count.")
    edited: bool = Field(description="Merged or split by an operator.")
    start_at: str
    end_at: str
    start: Place
    end: Place
    distance_km: float | None
    distance_uncertainty_km: float | None
    duration_s: float
    moving_s: float | None
    idle_s: float | None
    stop_s: float | None
    avg_speed_kmh: float | None
    max_speed_kmh: float | None
    start_reason: str
    end_reason: str | None
    confidence: float
    evidence: str


class Trips(BaseModel):
    """A part of them, the newest first."""

    trips: list[Trip]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class Extrema(BaseModel):
    """A metric over the trip, from the ledger and its rollups: late samples are in."""

    min: float | bool | None
    max: float | bool | None
    mean: float | None
    first: float | bool | None
    last: float | bool | None
    count: int


class TripDetail(Trip):
    """A trip with its track and what was measured on it."""

    track: str = Field(description="Encoded polyline (precision 5), simplified.")
    gaps: list[dict[str, Any]]
    stops: list[dict[str, Any]]
    metrics: dict[str, Extrema]
    more: dict[str, Any] = Field(description="Distances by source, energy, fuel, what was filtered.")


@router.get(
    "/trips",
    summary="List trips",
    response_model=None,
    responses={200: {"model": Trips, "content": GEO}},
)
async def list_trips(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    device: Annotated[list[str], Query(description="Only of these; repeat it, or use commas.")] = [],  # noqa: B006
    tag: Annotated[Label | None, Query(description="Only of devices with this tag.")] = None,
    type: Annotated[Label | None, Query(description="Only of devices of this type.")] = None,  # noqa: A002
    since: Since = None,
    until: Until = None,
    state: States = None,
    micro: Micro = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    format: OptionalFormat = None,  # noqa: A002
) -> Response:
    """Of all devices or some, the newest first; with their simplified tracks as GeoJSON or GPX. Reading it is in the audit."""
    selection = Selection(listed(device) or None, tag, type)
    return await _list(request, gateway, who, selection, since, until, state, micro, limit, cursor, format)


@router.get(
    "/devices/{id}/trips",
    summary="List a device's trips",
    response_model=None,
    responses={200: {"model": Trips, "content": GEO}},
)
async def list_device_trips(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    id: Name,  # noqa: A002 - the path's own name
    since: Since = None,
    until: Until = None,
    state: States = None,
    micro: Micro = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    format: OptionalFormat = None,  # noqa: A002
) -> Response:
    """The newest first. Reading it is in the audit."""
    selection = Selection((id,))
    return await _list(request, gateway, who, selection, since, until, state, micro, limit, cursor, format, id)


@router.get(
    "/trips/{id}",
    summary="Show a trip",
    response_model=None,
    responses={200: {"model": TripDetail, "content": GEO}},
)
async def get_trip(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    id: UUID,  # noqa: A002 - the path's own name
    metric: Annotated[
        list[str], Query(description="Extrema of these only; without it of every number of the device.")
    ] = [],  # noqa: B006
    track: Annotated[
        Literal["simplified", "full"] | None,
        Query(description="full: every position with its time while positions are kept (GPX: without asking)."),
    ] = None,
    format: OptionalFormat = None,  # noqa: A002
) -> Response:
    """Everything that is known of it, and what each metric did over it. Reading it is in the audit."""
    started = time.perf_counter()
    answered = formats.choose(format, request.headers.get("accept", ""), ("json", "geojson", "gpx"))
    metrics: dict[str, Any] = {}
    async with gateway.queries.store.snapshot(who.tenant) as snapshot:
        row = await trips_.get(snapshot, id)
        if row is None:
            raise NotFound(f"There is no trip {id}. Late data may have changed it: list the trips again.")
        if answered == "json":
            metrics = await _extrema(snapshot, who.tenant, row, listed(metric))
            points = []
        else:
            points = await trips_.points(snapshot, row, track == "full" or (answered == "gpx" and track is None))
    await gateway.queries.note_read(who, f"device:{row['device']}")
    queries.count("trip", "trips", 1, started)
    if answered == "geojson":
        # tracks may have hundreds of thousands of points: they are written beside the event loop
        body = await asyncio.to_thread(lambda: geo.collection([geo.feature(str(row["id"]), points, _summary(row))]))
    elif answered == "gpx":
        body = await asyncio.to_thread(geo.gpx, [(_name(row), _description(row), points)])
    else:
        body = formats.rendered(_summary(row) | _detail(row) | {"metrics": metrics})
    return sending.whole(request, body, formats.MEDIA[answered])


async def _list(
    request: Request,
    gateway: Gateway,
    who: Principal,
    selection: Selection,
    since: str | None,
    until: str | None,
    state: list[State] | None,
    micro: bool | None,
    limit: int,
    cursor: str | None,
    format_: str | None,
    device: str | None = None,
) -> Response:
    started = time.perf_counter()
    answered = formats.choose(format_, request.headers.get("accept", ""), ("json", "geojson", "gpx"))
    now_ms = time.time_ns() // 1_000_000
    over = None
    if since is not None or until is not None:
        start = 0 if since is None else moment_ms(since, now_ms, "from")
        over = Range(start, LAST_MS if until is None else moment_ms(until, now_ms, "to"))
        if over.width_ms <= 0:
            raise Asking(f"`from` ({iso(over.start_ms)}) must be before `to` ({iso(over.end_ms)}).")
    mark = (ROUTE, selection.devices, selection.tag, selection.type, state, micro)
    after = None
    if cursor:
        at, id_, start, end = sending.decode_cursor(cursor, mark, (int, str, int, int))
        try:
            after, over = (at, UUID(id_)), (Range(start, end) if end else None)
        except ValueError:
            raise sending.not_made_here() from None
    async with gateway.queries.store.snapshot(who.tenant) as snapshot:
        devices = selection.devices
        if device is not None:
            if not await store.devices(snapshot, [device]) and not await store.series(snapshot, [device]):
                raise NotFound(f"There is no device {device!r}.")
        elif selection.tag or selection.type:
            devices = await fleet.names(snapshot, selection)
        wanted = Wanted(devices, None if state is None else tuple(state), micro, over)
        rows, last = await trips_.page(snapshot, wanted, after, limit, answered != "json")
    if rows:
        await gateway.queries.note_read(who, f"device:{device}" if device else f"tenant:{who.tenant}")
    queries.count(ROUTE, "trips", len(rows), started)
    next_ = None
    if last is not None:
        ends = [0, 0] if over is None else [over.start_ms, over.end_ms]
        next_ = sending.encode_cursor(mark, [last[0], str(last[1]), *ends])
    headers = {sending.NEXT_HEADER: next_} if next_ else {}
    if answered == "geojson":
        found = (geo.feature(str(row["id"]), _simplified(row), _summary(row)) for row in rows)
        body = await asyncio.to_thread(geo.collection, found, next=next_)
    elif answered == "gpx":
        body = await asyncio.to_thread(geo.gpx, ((_name(row), _description(row), _simplified(row)) for row in rows))
    else:
        body = formats.rendered({"trips": [_summary(row) for row in rows], "next": next_})
    return sending.whole(request, body, formats.MEDIA[answered], headers)


async def _extrema(snapshot: store.Snapshot, tenant: str, row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    """{metric: {min, max, mean, first, last, count}} over the trip's time, both ends included."""
    found = await store.series(snapshot, [row["device"]])
    if not names:
        names = tuple(dict.fromkeys(one.metric for one in found if one.kind in NUMERIC))[: questions.MAX_METRICS]
    if not names:
        return {}
    asked = Range(store.ms(row["start_at"]), store.ms(row["end_at"]) + 1)
    series = questions.choose(found, row["device"], names)
    question = questions.checked(questions.Question(tenant, row["device"], series, asked, None, EXTREMA))
    read = await questions.read(snapshot, question, asked.start_ms, 1)
    if not read.page.ts:
        return {}
    values = iter(column[0] for column in read.page.values)
    extrema = {one.metric: {name: next(values) for name in EXTREMA} for one in series}
    return {metric: figures for metric, figures in extrema.items() if figures["count"]}


def _summary(row: Row) -> dict[str, Any]:
    own = {name: row[name] for name in Trip.model_fields if name in row}
    return own | {
        "id": str(row["id"]),
        "start_at": iso(store.ms(row["start_at"])),
        "end_at": iso(store.ms(row["end_at"])),
        "start": {"lat": row["start_lat"], "lon": row["start_lon"]},
        "end": {"lat": row["end_lat"], "lon": row["end_lon"]},
    }


_TOLD = frozenset(Trip.model_fields) | {"track", "gaps", "stops", "start_ms", "end_ms", "open"}
_PLACES = frozenset({"start_lat", "start_lon", "end_lat", "end_lon"})


def _detail(row: Row) -> dict[str, Any]:
    detail: dict[str, Any] = row["detail"]
    more = {name: value for name, value in detail.items() if name not in _TOLD | _PLACES and value is not None}
    told = {"track": detail.get("track") or "", "gaps": detail.get("gaps") or [], "stops": detail.get("stops") or []}
    return told | {"more": more}


def _simplified(row: Row) -> list[trips_.Point]:
    return trips_.track_of(row["track"])


def _name(row: Row) -> str:
    return f"{row['device']} {iso(store.ms(row['start_at']))}"


def _description(row: Row) -> str:
    distance = "" if row["distance_km"] is None else f"{row['distance_km']:.1f} km in "
    return f"{distance}{row['duration_s'] / 60:.0f} min, trip {row['id']}, {row['state']}"
