"""Saved charts: which series, which range, how they look."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import psycopg
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

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
from outrider_registry.api.fields import Body, Items, Metric, Name, Time, aware, is_text
from outrider_registry.errors import Conflict, Forbidden, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import charts
from outrider_registry.store.rows import Row
from outrider_registry.store.telemetry import Aggregation

router = APIRouter(tags=["charts"])

Reader = Annotated[Principal, needs("charts:read")]
Writer = Annotated[Principal, needs("charts:write")]
MAX_CHARTS = 1000
"""Of one person."""
YEAR_S = 366 * 86_400
ZonedTime = Annotated[Time, AfterValidator(aware)]


class ChartSeries(Body):
    """A line of the chart."""

    device: Name
    metric: Metric
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")] | None = Field(
        default=None, description="#rrggbb; null: the console chooses."
    )
    axis: Literal["left", "right"] | None = None


class ChartRange(Body):
    """The last so many seconds, or from one time to another."""

    last_s: int | None = Field(default=None, ge=1, le=10 * YEAR_S)
    since: ZonedTime | None = Field(default=None, alias="from")
    to: ZonedTime | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ChartRange:
        if (self.last_s is None) == (self.since is None or self.to is None):
            raise ValueError("give last_s, or from and to")
        return self


class Definition(Body):
    """What a chart shows and how."""

    series: list[ChartSeries] = Field(min_length=1, max_length=20)
    range: ChartRange
    aggregation: Aggregation = "mean"
    style: Literal["line", "points", "area", "steps", "bars"] = "line"


class ChartBody(Body):
    """A chart to save."""

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    ]
    shared: bool = Field(False, description="Everybody in the tenant sees it; its owner and administrators change it.")
    definition: Definition


class Chart(BaseModel):
    """A saved chart."""

    id: UUID
    name: str
    shared: bool
    owner: str | None = Field(description="Null when the account is gone.")
    mine: bool
    definition: dict[str, Any]
    created_at: Time
    updated_at: Time
    version: int

    @classmethod
    def of(cls, row: Row, who: Principal) -> Chart:
        """As the store gives it."""
        return cls(
            mine=row["owner_id"] == who.account, **{key: value for key, value in row.items() if key != "owner_id"}
        )


class Charts(Items):
    """A part of them."""

    items: list[Chart]


@router.get("/charts", summary="List charts")
async def list_charts(registry: RegistryDep, who: Reader, page: PageDep) -> Charts:
    """Your own charts and shared ones, by name."""
    if page.after is not None and not _is_key(page.after):
        raise Invalid("This cursor was not made here: use `next` of the page before as it is.")
    async with tenant_transaction(registry, who) as connection:
        rows, last = await charts.page(connection, who.account, page.after, page.limit)
    return Charts(items=[Chart.of(row, who) for row in rows], next=encode_cursor(last) if last else None)


@router.post("/charts", status_code=201, summary="Save a new chart")
async def create_chart(registry: RegistryDep, who: Writer, body: ChartBody) -> Chart:
    """Save a chart of your own, shared or not."""
    async with tenant_transaction(registry, who) as connection:
        if await charts.count(connection, who.account) >= MAX_CHARTS:
            raise Conflict(f"You have {MAX_CHARTS} charts. Delete one first.")
        id_ = await charts.insert(connection, who.account, body.name, body.shared, _document(body))
        row = await _get(connection, who, id_)
        await audited(connection, who, "chart.create", f"chart:{id_}", name=body.name, shared=body.shared)
    return Chart.of(row, who)


@router.get("/charts/{id}", summary="Show a chart")
async def get_chart(registry: RegistryDep, who: Reader, id: UUID) -> Chart:  # noqa: A002
    """A chart of your own, or a shared one."""
    async with tenant_transaction(registry, who) as connection:
        return Chart.of(await _get(connection, who, id), who)


@router.put("/charts/{id}", summary="Save a chart again")
async def put_chart(
    registry: RegistryDep,
    who: Writer,
    id: UUID,  # noqa: A002
    body: ChartBody,
    expected: ExpectedVersion,
) -> Chart:
    """Change a chart: its owner may, and administrators."""
    async with tenant_transaction(registry, who) as connection:
        before = await _held(connection, who, id)
        check_version(expected, before["version"], f"Chart {before['name']}")
        await charts.update(connection, id, body.name, body.shared, _document(body))
        row = await _get(connection, who, id)
        await audited(connection, who, "chart.change", f"chart:{id}", name=body.name, shared=body.shared)
    return Chart.of(row, who)


@router.delete("/charts/{id}", status_code=204, summary="Delete a chart")
async def delete_chart(registry: RegistryDep, who: Writer, id: UUID, expected: ExpectedVersion) -> None:  # noqa: A002
    """Throw a chart away: its owner may, and administrators."""
    async with tenant_transaction(registry, who) as connection:
        before = await _held(connection, who, id)
        check_version(expected, before["version"], f"Chart {before['name']}")
        await charts.delete(connection, id)
        await audited(connection, who, "chart.delete", f"chart:{id}", name=before["name"])


async def _get(connection: psycopg.AsyncConnection, who: Principal, id_: UUID, *, hold: bool = False) -> Row:
    row = await charts.get(connection, who.account, id_, hold=hold)
    if row is None:
        raise NotFound("There is no such chart, or it is somebody else's and not shared.")
    return row


async def _held(connection: psycopg.AsyncConnection, who: Principal, id_: UUID) -> Row:
    row = await _get(connection, who, id_, hold=True)
    if row["owner_id"] != who.account and who.role != "admin":
        raise Forbidden(f"This chart is {row['owner'] or 'somebody'}'s. Save a copy under another name.")
    return row


def _document(body: ChartBody) -> dict[str, Any]:
    return body.definition.model_dump(mode="json", by_alias=True, exclude_none=True)


def _is_key(after: list[Any]) -> bool:
    try:
        return len(after) == 2 and is_text(after[0]) and bool(UUID(after[1]))
    except (TypeError, ValueError, AttributeError):
        return False
