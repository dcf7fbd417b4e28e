"""The newest sample of each series: of one device, or of many."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from outrider_gateway import queries
from outrider_gateway.access import Principal, needs
from outrider_gateway.api import sending
from outrider_gateway.api.fields import Label, Name
from outrider_gateway.cache import Key
from outrider_gateway.context import GatewayDep
from outrider_gateway.errors import NotFound
from outrider_gateway.query import fleet, formats, store
from outrider_gateway.query.asked import Asking, iso, listed, unknown_metric
from outrider_gateway.query.fleet import Selection

router = APIRouter(tags=["telemetry"])

Reader = Annotated[Principal, needs("telemetry:read")]
Metrics = Annotated[list[str], Query(description="Only these; repeat it, or use commas.")]
ONE, MANY = "latest", "fleet_latest"
FEW = 100
"""So many devices are looked at for news before a kept answer is given; of more it is given for a minute."""


class Value(BaseModel):
    """The newest sample of a series, by its own time."""

    metric: str
    kind: str = Field(description="number, boolean, string or json.")
    unit: str
    ts: str
    value: Any


class Latest(BaseModel):
    """What a device measured last."""

    device: str
    values: list[Value]


class LatestOfMany(BaseModel):
    """What devices measured last; those of which nothing is stored are left out."""

    devices: list[Latest]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


@router.get(
    "/devices/{id}/latest", summary="Latest values of a device", response_model=None, responses={200: {"model": Latest}}
)
async def get_latest(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    id: Name,  # noqa: A002 - the path's own name
    metric: Metrics = [],  # noqa: B006
) -> Response:
    """The newest sample of each of its series, by the samples' own times."""
    started = time.perf_counter()
    names, service = listed(metric), gateway.queries
    async with service.store.snapshot(who.tenant) as snapshot:
        key = Key("status", who.tenant, id, None, (ONE, names, await store.stamp(snapshot, [id])))
        kept = await service.cache.get(key) if sending.may_be_cached(request) else None
        if kept is None:
            rows = await store.latest(snapshot, [id], names or None)
            await _known(snapshot, id, names, {row[1] for row in rows})
    if kept is not None:
        body, tier = kept.body, "cache"
    else:
        body, tier = formats.rendered({"device": id, "values": [_value(row) for row in rows]}), "raw"
        await service.cache.put(key, body, snapshot.at_ms)
    if b'"metric":"lat"' in body or b'"metric":"lon"' in body:
        await service.note_read(who, f"device:{id}")
    queries.count(ONE, tier, 0 if kept else len(rows), started)
    return sending.whole(request, body, formats.MEDIA["json"], age_s=kept.age_s if kept else None)


@router.get(
    "/latest", summary="Latest values of many devices", response_model=None, responses={200: {"model": LatestOfMany}}
)
async def list_latest(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    device: Annotated[list[str], Query(description="Only these; repeat it, or use commas.")] = [],  # noqa: B006
    metric: Metrics = [],  # noqa: B006
    tag: Annotated[Label | None, Query(description="Only devices with this tag.")] = None,
    type: Annotated[Label | None, Query(description="Only devices of this type.")] = None,  # noqa: A002
    limit: Annotated[int, Query(ge=1, le=10_000, description="Devices a page.")] = 1000,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """By the samples' own times, in order of the devices' names. Of more than a hundred devices it may be a minute old, as
    `Age` says; `Cache-Control: no-cache` asks for one made now."""
    started = time.perf_counter()
    names, service = listed(metric), gateway.queries
    mark = (MANY, listed(device), names, tag, type)
    after = sending.decode_cursor(cursor, mark, (str,))[0] if cursor else ""
    heavy = limit > FEW and not 0 < len(listed(device)) <= FEW
    async with service.store.snapshot(who.tenant, heavy=heavy) as snapshot:
        chosen = await fleet.names(snapshot, Selection(listed(device) or None, tag, type))
        if chosen is None:
            chosen = tuple(sorted(set(await store.ledger_devices(snapshot))))
        chosen = tuple(one for one in chosen if one > after)
        page, more = chosen[:limit], len(chosen) > limit
        stamp = await store.stamp(snapshot, page) if len(page) <= FEW else None
        key = Key("status" if stamp else "recent", who.tenant, None, None, (*mark, page, more, stamp))
        kept = await service.cache.get(key) if sending.may_be_cached(request) else None
        rows = [] if kept or not page else await store.latest(snapshot, page, names or None)
    if kept is not None:
        body, tier = kept.body, "cache"
    else:
        devices: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            devices.setdefault(row[0], []).append(_value(row))
        next_ = sending.encode_cursor(mark, [page[-1]]) if more else None
        listed_ = [{"device": name, "values": values} for name, values in devices.items()]
        body, tier = formats.rendered({"devices": listed_, "next": next_}), "raw"
        await service.cache.put(key, body, snapshot.at_ms)
    if b'"metric":"lat"' in body or b'"metric":"lon"' in body:
        await service.note_read(who, f"tenant:{who.tenant}")
    queries.count(MANY, tier, len(rows), started)
    return sending.whole(request, body, formats.MEDIA["json"], age_s=kept.age_s if kept else None)


async def _known(snapshot: store.Snapshot, device: str, names: tuple[str, ...], found: set[str]) -> None:
    """Raises NotFound for a device that nobody knows, Asking for a metric it does not have."""
    if found and found >= set(names):
        return
    every = {one.metric for one in await store.series(snapshot, [device])}
    if not every and not await store.devices(snapshot, [device]):
        raise NotFound(f"There is no device {device[:63]!r}.")
    for name in names:
        if name not in every:
            raise Asking(unknown_metric(name, device, sorted(every)))


def _value(row: tuple[str, str, str, str, int, Any]) -> dict[str, Any]:
    _, metric, kind, unit, ts, value = row
    return {"metric": metric, "kind": kind, "unit": unit, "ts": iso(ts), "value": value}
