"""What devices measured: last values, series for charts, tracks, the map."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import orjson
import psycopg
from fastapi import APIRouter, Query, Response
from psycopg import errors as pg
from pydantic import BaseModel, Field

from outrider_registry.api.deps import RegistryDep, needs, tenant_transaction
from outrider_registry.api.devices import missing
from outrider_registry.api.fields import AskedTime, Name, Time, iso
from outrider_registry.context import Registry
from outrider_registry.errors import Invalid, Unavailable
from outrider_registry.principals import Principal
from outrider_registry.store import devices, metrics, positions, telemetry
from outrider_registry.store.telemetry import Aggregation

router = APIRouter(tags=["telemetry"])

Reader = Annotated[Principal, needs("telemetry:read")]
SeriesName = Annotated[str, Query(pattern=r"^[a-z0-9][a-z0-9-]{0,62}:[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Since = Annotated[AskedTime | None, Query(alias="from", description="An hour before `to` where it is not given.")]
Until = Annotated[AskedTime | None, Query(alias="to", description="Now where it is not given.")]

MAX_SERIES = 20
MAX_POINTS = 2000
MAX_RANGE = timedelta(days=3700)
BUDGET_S = 10.0
"""What reading a range may take; then the asker is told to choose a shorter one."""
AT_ONCE = 3
"""Ranges read at the same time in a replica: there are database sessions left for everything else."""
STEPS_MS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(second * 1000 for second in (1, 2, 5, 10, 15, 30)),
    *(minute * 60_000 for minute in (1, 2, 5, 10, 15, 30)),
    *(hour * 3_600_000 for hour in (1, 2, 3, 6, 12)),
)
DAY_MS = 86_400_000


class Latest(BaseModel):
    """The newest sample of a series."""

    metric: str
    kind: str
    value: Any
    ts: Time
    unit: str


class SeriesData(BaseModel):
    """One series in buckets; `t` without a bucket is a time of silence."""

    device: str
    metric: str
    kind: str | None = Field(description="null: there is no such series.")
    unit: str
    t: list[int] = Field(description="Start of each bucket, epoch ms; for text the moment of each change.")
    v: list[float | str | None]
    min: list[float]
    max: list[float]
    truncated: bool = Field(description="A text changed more often than `points`.")


class Data(BaseModel):
    """Series over a range."""

    since: str = Field(alias="from")
    to: str
    step_ms: int
    series: list[SeriesData]


class Track(BaseModel):
    """Where a device was."""

    t: list[int]
    lat: list[float]
    lon: list[float]
    speed_kmh: list[float | None]


class Map(BaseModel):
    """Where all devices are: [id, lat, lon, presence, heading, ts_ms, name] of each."""

    devices: list[Annotated[list[str | float | None], Field(min_length=7, max_length=7)]]


@router.get("/devices/{id}/latest", summary="Last values of a device")
async def get_latest(registry: RegistryDep, who: Reader, id: Name) -> list[Latest]:  # noqa: A002
    """The newest sample of each of a device's series, by the samples' own times."""
    async with tenant_transaction(registry, who) as connection:
        await _known(connection, id)
        rows = await telemetry.latest(connection, id)
        units = {row["name"]: row["unit"] for row in await metrics.catalogue(connection)}
        if any(row["metric"] in positions.METRICS for row in rows):
            await positions.note_read(connection, who, id)
    return [Latest(**row, unit=units.get(row["metric"], "")) for row in rows]


@router.get("/data", summary="Read series", responses={200: {"model": Data}})
async def get_data(
    registry: RegistryDep,
    who: Reader,
    series: Annotated[list[SeriesName], Query(min_length=1, max_length=MAX_SERIES, description="device:metric")],
    since: Since = None,
    until: Until = None,
    points: Annotated[int, Query(ge=2, le=MAX_POINTS, description="At most so many buckets a series.")] = 500,
    aggregation: Aggregation = "mean",
) -> Response:
    """Series in buckets of one width, with the lowest and highest value of each; text as the moments it changed.

    A metric that came in several kinds is read as the first of number, boolean (0 or 1), string.
    """
    start, end = _range(since, until)
    step_ms = step_of(start, end, points)
    asked = [(device, metric) for device, _, metric in (name.partition(":") for name in dict.fromkeys(series))]
    answers: list[dict[str, Any]] = []
    async with _heavy(registry, who) as (connection, deadline):
        found = await telemetry.series(connection, asked)
        for device, metric in asked:
            one = found.get((device, metric))
            answer: dict[str, Any] = {"device": device, "metric": metric, "kind": None, "unit": ""}
            answer |= {"t": [], "v": [], "min": [], "max": [], "truncated": False}
            answers.append(answer)
            if one is None:
                continue
            answer["kind"], answer["unit"] = one["kind"], one["unit"]
            await telemetry.limit_time(connection, deadline - time.monotonic())
            if one["kind"] in ("number", "boolean"):
                rows = await telemetry.buckets(
                    connection, one["id"], start, end, timedelta(milliseconds=step_ms), aggregation
                )
                if rows:
                    answer["t"], answer["v"], answer["min"], answer["max"] = map(list, zip(*rows, strict=True))
            elif one["kind"] == "string":
                texts = await telemetry.changes(connection, one["id"], start, end, points + 1)
                answer["truncated"] = len(texts) > points
                answer["t"] = [t for t, _ in texts[:points]]
                answer["v"] = [value for _, value in texts[:points]]
        for device in dict.fromkeys(device for device, metric in found if metric in positions.METRICS):
            await positions.note_read(connection, who, device)
    document = {"from": iso(start), "to": iso(end), "step_ms": step_ms, "series": answers}
    return Response(orjson.dumps(document), media_type="application/json")


@router.get("/devices/{id}/track", summary="Where a device was", responses={200: {"model": Track}})
async def get_track(
    registry: RegistryDep,
    who: Reader,
    id: Name,  # noqa: A002
    since: Since = None,
    until: Until = None,
    points: Annotated[int, Query(ge=2, le=MAX_POINTS)] = 1000,
) -> Response:
    """Positions in order, thinned evenly in time to `points`. Reading it is in the audit."""
    start, end = _range(since, until)
    step = timedelta(milliseconds=step_of(start, end, points))
    rows: list[tuple[int, float, float, float | None]] = []
    async with _heavy(registry, who) as (connection, deadline):
        await _known(connection, id)
        series = await telemetry.series(connection, [(id, metric) for metric in ("lat", "lon", "speed_kmh")])
        ids = {metric: row["id"] for (_, metric), row in series.items() if row["kind"] == "number"}
        if ids.keys() >= positions.METRICS:
            await telemetry.limit_time(connection, deadline - time.monotonic())
            rows = await telemetry.track(connection, ids, start, end, step)
            await positions.note_read(connection, who, id)
    document = {name: [row[n] for row in rows] for n, name in enumerate(("t", "lat", "lon", "speed_kmh"))}
    return Response(orjson.dumps(document), media_type="application/json")


@router.get("/map", summary="Where all devices are", responses={200: {"model": Map}})
async def get_map(registry: RegistryDep, who: Reader) -> Response:
    """The last position of every device that has one, or the place it stands at. Reading it is in the audit."""
    async with _heavy(registry, who) as (connection, _):
        rows = await telemetry.positions(connection)
        await positions.note_read(connection, who, None)
    return Response(orjson.dumps({"devices": rows}), media_type="application/json")


def step_of(start: datetime, end: datetime, points: int) -> int:
    """The width of a bucket in ms, a round one, so that the range has at most so many (and a part of one at an end)."""
    least = (end - start) / timedelta(milliseconds=1) / (points - 1)
    for step in STEPS_MS:
        if step >= least:
            return step
    return -int(-least // DAY_MS) * DAY_MS


def _range(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    try:
        end = until or datetime.now(UTC)
        start = since or end - timedelta(hours=1)
    except OverflowError:
        raise Invalid("`from` and `to` must lie between the years 1 and 9999.") from None
    if start >= end:
        raise Invalid(f"`from` ({iso(start)}) must be before `to` ({iso(end)}).")
    if end - start > MAX_RANGE:
        raise Invalid(f"The range is longer than {MAX_RANGE.days} days. Choose a shorter one.")
    return start, end


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


@asynccontextmanager
async def _heavy(registry: Registry, who: Principal) -> AsyncIterator[tuple[psycopg.AsyncConnection, float]]:
    """A tenant's transaction for a long read, and when (monotonic) its time is over. Raises Unavailable, Invalid."""
    turns = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    try:
        async with asyncio.timeout(BUDGET_S):
            await turns.acquire()
    except TimeoutError:
        raise Unavailable("Many long ranges are being read just now. Try again in a moment.") from None
    try:
        async with tenant_transaction(registry, who) as connection:
            await telemetry.limit_time(connection, BUDGET_S)
            try:
                yield connection, time.monotonic() + BUDGET_S
            except pg.QueryCanceled:
                raise Invalid(
                    f"Reading this took longer than {BUDGET_S:.0f} s. Choose a shorter range or fewer series."
                ) from None
    finally:
        turns.release()


async def _known(connection: psycopg.AsyncConnection, device: str) -> None:
    if not await devices.exists(connection, device):
        raise missing(device)
