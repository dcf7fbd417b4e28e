"""`GET /devices/{id}/telemetry`: what a device measured over a range, as samples or in buckets."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from outrider_gateway import queries
from outrider_gateway.access import Principal, needs
from outrider_gateway.api import sending
from outrider_gateway.api.fields import Name, OptionalFormat, Since, Until
from outrider_gateway.cache import Key
from outrider_gateway.context import GatewayDep
from outrider_gateway.query import device as questions
from outrider_gateway.query import formats
from outrider_gateway.query.asked import MAX_RANGE_MS, Range, aggregates_of, duration_ms, fixed, iso, listed, range_of
from outrider_gateway.query.columns import NUMERIC, Answer
from outrider_gateway.query.device import Question, Read
from outrider_gateway.query.plan import Tier, tier_of

router = APIRouter(tags=["telemetry"])

Reader = Annotated[Principal, needs("telemetry:read")]
ROUTE = "telemetry"
POINTS = 500
ROWS = 5000
MAX_ROWS = 100_000
RECENT_MS = 10 * 60_000
"""A range that ends less than this ago may still grow."""


class ColumnAbout(BaseModel):
    """What a column of `data` holds."""

    name: str
    metric: str
    kind: str = Field(description="number, integer, boolean, string or json.")
    unit: str
    aggregate: str | None = Field(description="null: samples as they are.")


class SegmentAbout(BaseModel):
    """A part of the range and the tier it was read from."""

    tier: str
    start: str = Field(alias="from")
    to: str


class Telemetry(BaseModel):
    """Samples or buckets in columns."""

    device: str
    start: str = Field(alias="from")
    to: str
    step_ms: int | None = Field(
        description="Width of the buckets, which are aligned to 1970 UTC; null: samples, or one bucket."
    )
    source: str = Field(description="The tier most of it was read from: raw, 1m, 5m or 1h.")
    segments: list[SegmentAbout] = Field(description="Which part was read from which tier.")
    notes: list[str]
    columns: list[ColumnAbout]
    data: dict[str, list[Any]] = Field(
        description="`ts` (epoch ms; of a bucket its start) and a list for each column, as long; null where there is no value."
    )
    next: str | None = Field(description="Cursor of the next page; null at the end.")


@router.get(
    "/devices/{id}/telemetry",
    summary="Read a device's telemetry",
    response_model=None,
    responses={
        200: {
            "model": Telemetry,
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        304: {"description": "As it was when the asker got the ETag."},
    },
)
async def get_telemetry(
    request: Request,
    gateway: GatewayDep,
    who: Reader,
    id: Name,  # noqa: A002 - the path's own name
    metric: Annotated[list[str], Query(description="Repeat it, or use commas; `gear:string` chooses a kind.")] = [],  # noqa: B006
    since: Since = None,
    until: Until = None,
    step: Annotated[
        str | None,
        Query(
            description="Width of the buckets: 30s, 5m, 1h, 1d; `all`: one bucket. Without it about 500 of a round width."
        ),
    ] = None,
    aggregate: Annotated[
        list[str],
        Query(
            description="mean, min, max, sum, count, first, last, several of them, or raw. Without it mean, of text last."
        ),
    ] = [],  # noqa: B006
    source: Annotated[str | None, Query(description="auto, raw, 1m, 5m or 1h.")] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_ROWS, description="Rows a page; CSV and Arrow without it: all.")
    ] = None,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
    format: OptionalFormat = None,  # noqa: A002
) -> Response:
    """Samples as they are (`aggregate=raw`), or buckets of them from whichever of raw samples and rollups answers best.

    The newest samples are always in, and buckets that late samples touched since they were rolled up are made of raw ones.
    """
    started = time.perf_counter()
    answered = formats.choose(format, request.headers.get("accept", ""), ("json", "csv", "arrow"))
    names, aggregates, forced = listed(metric), aggregates_of(aggregate), tier_of(source)
    mark = (id, names, aggregates, forced)
    changes = gateway.queries.changes
    now_ms = changes.now_ms() if not changes.deaf else time.time_ns() // 1_000_000
    if cursor is None:
        asked = range_of(since, until, now_ms)
        start_ms = asked.start_ms
        step_ms = None if step in (None, "auto", "all") else duration_ms(str(step))
    else:
        start_ms, *ends, step_ms = sending.decode_cursor(cursor, mark, (int, int, int, int))
        asked, step_ms = Range(*ends), step_ms or None
        if not (asked.start_ms <= start_ms < asked.end_ms and asked.width_ms <= MAX_RANGE_MS):
            raise sending.not_made_here()
    rounded_to = POINTS if cursor is None and step in (None, "auto") and aggregates != ("raw",) else None
    rows = limit or ROWS
    key = None
    if answered == "json" and aggregates != ("raw",) and fixed(since, until) and sending.may_be_cached(request):
        kind = "aggregates" if asked.end_ms < now_ms - RECENT_MS else "recent"
        key = Key(
            kind,
            who.tenant,
            id,
            asked,
            (ROUTE, names, asked.start_ms, asked.end_ms, aggregates, forced, step, limit, start_ms),
        )
        if any(name.partition(":")[0] in queries.POSITION for name in names):
            await gateway.queries.note_read(who, f"device:{id}")
        if (kept := await gateway.queries.cache.get(key)) is not None:
            queries.count(ROUTE, "cache", 0, started)
            return sending.whole(request, kept.body, formats.MEDIA["json"], age_s=kept.age_s)
    question, first = await _first(
        gateway.queries, who.tenant, id, names, asked, step_ms, aggregates, forced, rounded_to, start_ms, rows
    )
    if any(one.metric in queries.POSITION for one in question.series):
        await gateway.queries.note_read(who, f"device:{id}")
    queries.count(ROUTE, first.plan.source, len(first.page.ts), started)
    where = None if first.next_ms is None else [first.next_ms, asked.start_ms, asked.end_ms, first.plan.step_ms or 0]
    next_ = None if where is None else sending.encode_cursor(mark, where)
    about = _about(question, first)
    if answered == "json":
        body = formats.json_of(about | {"next": next_}, question.columns(), first.page)
        if key is not None and all(one.kind in NUMERIC for one in question.series):
            await gateway.queries.cache.put(key, body, first.at_ms)
        return sending.whole(request, body, formats.MEDIA["json"])
    media, one_page = formats.MEDIA[answered], limit is not None or first.next_ms is None
    if limit is not None:
        first.next_ms = None
    pages = questions.pages(gateway.queries.store, replace(question, step_ms=first.plan.step_ms), first)
    answer = Answer(about, question.columns(), pages)
    pieces = formats.csv_of(answer) if answered == "csv" else formats.arrow_of(answer)
    headers = {} if next_ is None or limit is None else {sending.NEXT_HEADER: next_}
    if one_page:
        return sending.whole(request, b"".join([piece async for piece in pieces]), media, headers)
    return sending.streamed(pieces, media, headers)


async def _first(
    service: queries.Queries,
    tenant: str,
    device: str,
    names: tuple[str, ...],
    asked: Range,
    step_ms: int | None,
    aggregates: tuple[str, ...],
    forced: Tier | None,
    rounded_to: int | None,
    start_ms: int,
    rows: int,
) -> tuple[Question, Read]:
    """The question with its series, and its first page; read again where retention moved meanwhile."""
    while True:
        async with service.store.snapshot(tenant) as snapshot:
            series = await questions.resolve(snapshot, device, names)
            question = questions.checked(
                Question(tenant, device, series, asked, step_ms, aggregates, forced), rounded_to
            )
            most = questions.most_rows(question, rows)
            first = await questions.read(snapshot, question, start_ms, most, rounded_to is not None)
        if not await service.store.moved(tenant, first.plan):
            return question, first


def _about(question: Question, first: Read) -> dict[str, Any]:
    plan = first.plan
    return {
        "device": question.device,
        "from": iso(question.range.start_ms),
        "to": iso(question.range.end_ms),
        "step_ms": plan.step_ms,
        "source": plan.source,
        "segments": [{"tier": s.tier, "from": iso(s.start_ms), "to": iso(s.end_ms)} for s in plan.segments],
        "notes": list(plan.notes),
    }
