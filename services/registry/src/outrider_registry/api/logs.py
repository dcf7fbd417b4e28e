"""Log lines and events of a device."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from psycopg import errors as pg
from pydantic import BaseModel, Field

from outrider_registry.api.deps import Page, PageDep, RegistryDep, encode_cursor, needs, tenant_transaction
from outrider_registry.api.devices import missing
from outrider_registry.api.fields import AskedTime, Items, Name, Time, Word, is_bigint, like
from outrider_registry.context import Registry
from outrider_registry.errors import Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import devices, records, telemetry
from outrider_registry.store.records import Kind

router = APIRouter(tags=["telemetry"])

Reader = Annotated[Principal, needs("telemetry:read")]
Before = Annotated[AskedTime | None, Query(description="Only older ones.")]
Text = Annotated[Word | None, Query(description="Only with this text in the message.")]
BUDGET_S = 10.0
_SERVICES: dict[Kind, str] = {"logs": "writer-logs", "events": "writer-timeseries"}


class Record(BaseModel):
    """A log line or an event."""

    ts: Time
    level: str | None = Field(default=None, description="Of a log line.")
    type: str | None = Field(default=None, description="Of an event.")
    message: str
    fields: dict[str, Any]
    boot: int | None
    seq: int | None
    received_at: Time


class Records(Items):
    """A part of them, newest first."""

    items: list[Record]


@router.get("/devices/{id}/logs", summary="Log lines of a device", response_model_exclude_unset=True)
async def list_logs(
    registry: RegistryDep,
    who: Reader,
    id: Name,  # noqa: A002
    page: PageDep,
    level: Annotated[list[Word] | None, Query(max_length=10, description="Only of these levels.")] = None,
    q: Text = None,
    before: Before = None,
) -> Records:
    """Newest first; `next` goes on with older ones."""
    return await _records(registry, who, "logs", id, level or [], q, before, page)


@router.get("/devices/{id}/events", summary="Events of a device", response_model_exclude_unset=True)
async def list_events(
    registry: RegistryDep,
    who: Reader,
    id: Name,  # noqa: A002
    page: PageDep,
    type: Annotated[list[Word] | None, Query(max_length=10, description="Only of these types.")] = None,  # noqa: A002
    q: Text = None,
    before: Before = None,
) -> Records:
    """Newest first; `next` goes on with older ones."""
    return await _records(registry, who, "events", id, type or [], q, before, page)


async def _records(
    registry: Registry,
    who: Principal,
    kind: Kind,
    device: str,
    labels: list[str],
    q: str | None,
    before: datetime | None,
    page: Page,
) -> Records:
    if page.after is not None and not _is_key(page.after):
        raise Invalid("This cursor was not made here: use `next` of the page before as it is.")
    async with tenant_transaction(registry, who) as connection:
        if not await devices.exists(connection, device):
            raise missing(device)
        await telemetry.limit_time(connection, BUDGET_S)
        try:
            found = await records.page(
                connection, kind, device, labels, like(q) if q else None, before, page.after, page.limit
            )
        except pg.QueryCanceled:
            raise Invalid("Searching took too long. Leave `q` out, or start further back with `before`.") from None
    if found is None:
        raise NotFound(f"Nothing stores {kind} here: install {_SERVICES[kind]} and run `outrider migrate`.")
    rows, last = found
    name = "level" if kind == "logs" else "type"
    kept = ("ts", "message", "fields", "boot", "seq", "received_at")
    items = [Record(**{name: row["label"]}, **{key: row[key] for key in kept}) for row in rows]
    return Records(items=items, next=encode_cursor(last) if last else None)


def _is_key(after: list[Any]) -> bool:
    try:
        times = [datetime.fromisoformat(after[n]) for n in (0, 1)]
        return (
            len(after) == 5
            and all(map(is_bigint, after[2:]))
            and abs(after[4]) < 2**31
            and all(t.tzinfo for t in times)
        )
    except (TypeError, ValueError, IndexError):
        return False
