"""Figures over many devices: a metric per step or per device, trips per day, week, month or device."""

from __future__ import annotations

import time
import zoneinfo
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from outrider_gateway import queries
from outrider_gateway.access import Principal, needs
from outrider_gateway.api import sending
from outrider_gateway.api.fields import Label, OptionalFormat, Since, Until
from outrider_gateway.api.telemetry import POINTS, RECENT_MS, ColumnAbout, SegmentAbout
from outrider_gateway.cache import Key
from outrider_gateway.context import GatewayDep
from outrider_gateway.query import fleet, formats
from outrider_gateway.query import trips as trips_
from outrider_gateway.query.asked import (
    DAY_MS,
    Asking,
    aggregates_of,
    duration_ms,
    fixed,
    iso,
    listed,
    percentile_of,
    range_of,
    round_step_ms,
)
from outrider_gateway.query.columns import Answer, Page
from outrider_gateway.query.fleet import Selection
from outrider_gateway.query.plan import tier_of
from outrider_gateway.query.trips import Wanted

router = APIRouter(prefix="/fleet", tags=["fleet"])

Reader = Annotated[Principal, needs("telemetry:read")]
TripReader = Annotated[Principal, needs("trips:read")]
Devices = Annotated[list[str], Query(description="Only these; repeat it, or use commas.")]
Tag = Annotated[Label | None, Query(description="Only devices with this tag.")]
Type = Annotated[Label | None, Query(description="Only devices of this type.")]
Top = Annotated[int, Query(ge=1, le=10_000, description="At most so many rows.")]
ROUTE, TRIPS = "fleet_telemetry", "fleet_trips"
LONG_MS = 6 * 3_600_000
"""A question back from now over a longer range may be answered from the cache for a minute."""
FIGURES = ("trips", "devices", "distance_km", "duration_s", "moving_s", "idle_s", "stop_s", "max_speed_kmh")
MOST_STEPS = 20_000


class Fleet(BaseModel):
    """A metric over devices. By step: `columns` and `data`; by device: `rows`."""

    metric: str
    start: str = Field(alias="from")
    to: str
    by: str
    step_ms: int | None
    source: str
    segments: list[SegmentAbout]
    devices: int = Field(description="Devices that have the metric and were asked for.")
    columns: list[ColumnAbout] | None = None
    data: dict[str, list[Any]] | None = None
    rows: list[dict[str, Any]] | None = None


class TripFigures(BaseModel):
    """Figures of the trips that began in the range."""

    start: str = Field(alias="from")
    to: str
    by: str
    timezone: str
    rows: list[dict[str, Any]] = Field(
        description="`key` (day, week's Monday, month, device, or empty) and the figures."
    )


@router.get(
    "/telemetry",
    summary="A metric over the fleet",
    response_model=None,
    responses={
        200: {
            "model": Fleet,
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def get_fleet_telemetry(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    metric: Annotated[str, Query(max_length=140)],
    since: Since = None,
    until: Until = None,
    step: Annotated[str | None, Query(description="5m, 1h, 1d …; `all`: one bucket. Without it about 500.")] = None,
    aggregate: Annotated[
        list[str],
        Query(
            description="mean (the default), min, max, sum, count, `devices`, or percentiles p1 to p99 of the devices' means."
        ),
    ] = [],  # noqa: B006
    by: Annotated[
        Literal["step", "device"], Query(description="A row per step, or per device over the whole range.")
    ] = "step",
    device: Devices = [],  # noqa: B006
    tag: Tag = None,
    type: Type = None,  # noqa: A002
    order: Annotated[Literal["desc", "asc"], Query(description="By device: of the first aggregate.")] = "desc",
    top: Top = 10_000,
    source: Annotated[str | None, Query(description="auto, raw, 1m, 5m or 1h.")] = None,
    format: OptionalFormat = None,  # noqa: A002
) -> Response:
    """All samples of a step count alike for mean, min, max and sum; percentiles are over the devices, each with its mean."""
    started = time.perf_counter()
    offered = ("json", "csv", "arrow") if by == "step" else ("json",)
    answered = formats.choose(format, request.headers.get("accept", ""), offered)
    aggregates = _aggregates(aggregate, by)
    service = gateway.queries
    now_ms = time.time_ns() // 1_000_000
    asked = range_of(since, until, now_ms)
    forced = tier_of(source)
    rounded = step in (None, "auto") and by == "step"
    step_ms = (
        None
        if step == "all" or by == "device"
        else round_step_ms(asked.width_ms, POINTS)
        if rounded
        else duration_ms(str(step))
    )
    if step_ms is not None and asked.width_ms > step_ms * MOST_STEPS:
        raise Asking(f"That is more than {MOST_STEPS:,} steps: ask for a wider `step` or a shorter range.")
    selection = Selection(listed(device) or None, tag, type)
    if metric.partition(":")[0] in queries.POSITION:
        await service.note_read(who, f"tenant:{who.tenant}")
    key = None
    stays = fixed(since, until)
    if answered == "json" and (stays or asked.width_ms >= LONG_MS) and sending.may_be_cached(request):
        kind = "aggregates" if stays and asked.end_ms < now_ms - RECENT_MS else "recent"
        parts = (ROUTE, metric, since, until, step, aggregates, by, selection.devices, tag, type, order, top, source)
        key = Key(kind, who.tenant, None, asked, parts)
        if (kept := await service.cache.get(key)) is not None:
            queries.count(ROUTE, "cache", 0, started)
            return sending.whole(request, kept.body, formats.MEDIA["json"], age_s=kept.age_s)
    page, rows = Page(), None
    while True:
        async with service.store.snapshot(who.tenant, heavy=True) as snapshot:
            of = await fleet.series(snapshot, selection, metric)
            if by == "step":
                page, plan = await fleet.per_step(snapshot, of, asked, step_ms, aggregates, forced, rounded)
            else:
                rows, plan = await fleet.per_device(snapshot, of, asked, aggregates, forced)
        if not await service.store.moved(who.tenant, plan):
            break
    columns = fleet.columns(metric, of[0].unit if of else "", aggregates)
    about: dict[str, Any] = {
        "metric": metric,
        "from": iso(asked.start_ms),
        "to": iso(asked.end_ms),
        "by": by,
        "step_ms": plan.step_ms,
        "source": plan.source,
        "segments": [{"tier": s.tier, "from": iso(s.start_ms), "to": iso(s.end_ms)} for s in plan.segments],
        "devices": len(of),
    }
    queries.count(ROUTE, plan.source, len(page.ts) if rows is None else len(rows), started)
    if rows is not None:
        rows.sort(key=lambda row: (row[aggregates[0]], row["device"]), reverse=order == "desc")
        body = formats.rendered(about | {"rows": rows[:top]})
    elif answered == "json":
        body = formats.json_of(about, columns, page)
    else:

        async def only() -> Any:
            yield page

        answer = Answer(about, columns, only())
        pieces = formats.csv_of(answer) if answered == "csv" else formats.arrow_of(answer)
        return sending.whole(request, b"".join([piece async for piece in pieces]), formats.MEDIA[answered])
    if key is not None:
        await service.cache.put(key, body, snapshot.at_ms)
    return sending.whole(request, body, formats.MEDIA["json"])


@router.get(
    "/trips", summary="Trips of the fleet in figures", response_model=None, responses={200: {"model": TripFigures}}
)
async def get_fleet_trips(
    request: Request,
    gateway: GatewayDep,
    who: TripReader,
    since: Since = None,
    until: Until = None,
    by: Literal["day", "week", "month", "device", "all"] = "day",
    timezone: Annotated[str, Query(max_length=64, description="Whose days: Europe/Berlin …")] = "UTC",
    device: Devices = [],  # noqa: B006
    tag: Tag = None,
    type: Type = None,  # noqa: A002
    micro: Annotated[bool | None, Query(description="Without it only trips that are long enough to count.")] = False,
    order: Annotated[
        str | None, Query(description="A figure, the greatest first: distance_km, trips … Without it by key.")
    ] = None,
    top: Top = 10_000,
) -> Response:
    """Number, distance and times of the trips that began in the range (30 days where none is given)."""
    started = time.perf_counter()
    if order is not None and order not in FIGURES:
        raise Asking(f"There is no figure {order[:40]!r}: order by {', '.join(FIGURES)}.")
    if timezone not in _zones():
        raise Asking(
            f"There is no time zone {timezone[:64]!r}: name one such as Europe/Berlin, America/New_York or UTC."
        )
    asked = range_of(since, until, time.time_ns() // 1_000_000, 30 * DAY_MS)
    selection = Selection(listed(device) or None, tag, type)
    async with gateway.queries.store.snapshot(who.tenant, heavy=True) as snapshot:
        names = selection.devices if tag is None and type is None else await fleet.names(snapshot, selection)
        rows = await trips_.figures(snapshot, Wanted(names, None, micro), asked, by, timezone)
    if rows:
        await gateway.queries.note_read(who, f"tenant:{who.tenant}")
    rows.sort(key=lambda row: row["key"])
    if order is not None:
        rows.sort(key=lambda row: row[order] or 0, reverse=True)
    queries.count(TRIPS, "trips", len(rows), started)
    document = {
        "from": iso(asked.start_ms),
        "to": iso(asked.end_ms),
        "by": by,
        "timezone": timezone,
        "rows": rows[:top],
    }
    return sending.whole(request, formats.rendered(document), formats.MEDIA["json"])


def _aggregates(asked: list[str], by: str) -> tuple[str, ...]:
    names = aggregates_of([name for name in listed(asked) if name != fleet.PER_DEVICE], percentiles=True)
    if by == "device":
        bad = [name for name in listed(asked) if percentile_of(name) is not None or name == fleet.PER_DEVICE]
        if bad:
            raise Asking(f"{bad[0]} is a figure over devices: ask for it by step.")
        return names or ("mean",)
    if bad := [name for name in names if name in ("first", "last")]:
        raise Asking(f"A fleet has no {bad[0]} value: ask for it by device.")
    return listed(asked) or ("mean",)


_known_zones: frozenset[str] = frozenset()


def _zones() -> frozenset[str]:
    global _known_zones
    _known_zones = _known_zones or frozenset(zoneinfo.available_timezones()) | {"UTC"}
    return _known_zones
