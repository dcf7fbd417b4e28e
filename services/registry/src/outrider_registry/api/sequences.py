"""Which numbered messages are stored, and which are missing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from outrider_registry.api.deps import PageDep, RegistryDep, encode_cursor, needs, tenant_transaction
from outrider_registry.api.fields import Items, Name, Time, is_bigint, is_text
from outrider_registry.errors import Invalid
from outrider_registry.principals import Principal
from outrider_registry.store import records

router = APIRouter(tags=["telemetry"])


class Sequence(BaseModel):
    """One stream of one boot of a device."""

    device: str
    stream: str
    boot: int
    contiguous: int = Field(description="All up to this number are stored.")
    last: int
    gaps: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        description="First and last number of each range that is missing."
    )
    missing: int
    gone: int = Field(description="How many the device says it discarded.")
    duplicates: int
    conflicts: int
    rejected: int
    first_at: Time
    updated_at: Time


class Sequences(Items):
    """A part of them."""

    items: list[Sequence]


@router.get("/sequences", summary="Sequence numbers and gaps")
async def list_sequences(
    registry: RegistryDep,
    who: Annotated[Principal, needs("telemetry:read")],
    page: PageDep,
    device: Annotated[Name | None, Query()] = None,
    gaps: Annotated[bool | None, Query(description="true: only with gaps; false: only without.")] = None,
) -> Sequences:
    """What is stored of each device's numbered streams, by device, the newest boot first. Empty before anything was."""
    after = page.after
    if after is not None and not (len(after) == 3 and is_text(after[0]) and is_text(after[1]) and is_bigint(after[2])):
        raise Invalid("This cursor was not made here: use `next` of the page before as it is.")
    async with tenant_transaction(registry, who) as connection:
        rows, last = await records.sequences(connection, device, gaps, after, page.limit)
    items = [
        Sequence(**row, contiguous=row["contiguous_seq"], last=row["last_seq"], updated_at=row["last_at"])
        for row in rows
    ]
    return Sequences(items=items, next=encode_cursor(last) if last else None)
