"""How much is kept where; and the archive of what is not any more: listed, verified, restored."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from outrider_registry.api.deps import (
    PageDep,
    RegistryDep,
    audited,
    encode_cursor,
    home_transaction,
    needs,
    tenant_transaction,
)
from outrider_registry.api.fields import Body, Items, Name, Time, is_text
from outrider_registry.errors import Invalid, NotFound, Unavailable
from outrider_registry.principals import Principal
from outrider_registry.store import lifecycle

router = APIRouter(tags=["storage"])

Reader = Annotated[Principal, needs("telemetry:read")]
Writer = Annotated[Principal, needs("retention:write")]
FIRST, LAST = date(1970, 1, 1), date(9999, 12, 31)


class StoredTable(BaseModel):
    """A table with its indexes."""

    name: str
    bytes: int
    index_bytes: int
    rows: int = Field(description="As the database estimates.")
    bytes_day: int | None = Field(description="What a day takes, of the last week; null: not known yet.")
    dead_rows: int | None = Field(description="What vacuum has not removed yet; for the platform.")
    vacuumed_at: Time | None


class StoredDay(BaseModel):
    """What of a day is kept, in tables with a partition a day."""

    day: date
    bytes: int


class StoredDevice(BaseModel):
    """What a device sent in 24 hours."""

    device: str
    tenant: str | None = None
    samples: int
    texts: int
    events: int
    lines: int
    bytes: int = Field(description="What these rows take, about.")


class ArchiveSize(BaseModel):
    """The archive as a whole."""

    files: int
    bytes: int
    rows: int
    first_day: date | None
    last_day: date | None


class Tier(BaseModel):
    """A table that grows until it has the days it keeps."""

    table: str
    bytes: int
    bytes_day: int
    days: int = Field(description="That it keeps; 0: for ever.")
    full_bytes: int | None = Field(description="What it takes once it has all of them.")


class Forecast(BaseModel):
    """At today's growth and policy."""

    tiers: list[Tier]
    database_bytes: int
    growth_bytes_day: int
    in_30_days_bytes: int
    in_a_year_bytes: int
    free_bytes: int | None = Field(description="null: not known; see OUTRIDER_STORAGE_DISK_PATH of lifecycle.")
    full_on: date | None = Field(description="When the disk is full; null: not within ten years, or not known.")
    full_in_days: int | None
    archive_bytes_day: int


class Storage(BaseModel):
    """How much is kept where, as it was last measured."""

    measured_at: Time | None
    estimated: bool = Field(description="A tenant's part of tables that all share, by what its devices send.")
    tables: list[StoredTable]
    days: list[StoredDay]
    devices: list[StoredDevice] = Field(description="The largest first.")
    device_count: int
    archive: ArchiveSize
    history: list[StoredDay] = Field(description="Of the whole database, by day; for the platform.")
    forecast: Forecast | None = Field(description="For the platform.")


class ArchivedDay(BaseModel):
    """A tenant's day of a table."""

    tenant: str
    day: date
    table_name: str
    files: int
    rows: int
    bytes: int
    first_at: Time
    last_at: Time
    devices: int = Field(description="In the file with most.")
    encrypted: bool
    verified_at: Time | None = Field(description="When the file that was not verified for longest was.")


class ArchivedDays(Items):
    """The archive, the oldest day first."""

    items: list[ArchivedDay]


class NewTask(Body):
    """Which days to verify or restore."""

    kind: Literal["verify", "restore"]
    first_day: date = Field(FIRST, description="UTC.")
    last_day: date = LAST
    devices: list[Name] | None = Field(None, min_length=1, max_length=1000, description="Only these; null: all.")
    keep_days: int = Field(7, ge=1, le=3650, description="How long restored rows stay.")

    @model_validator(mode="after")
    def _in_order(self) -> NewTask:
        if self.first_day > self.last_day:
            raise ValueError("first_day is after last_day")
        return self


class TaskProblem(BaseModel):
    """A file that is not as it should be."""

    file: str
    problem: str


class Task(BaseModel):
    """How far a task is."""

    id: UUID
    kind: Literal["verify", "restore"]
    first_day: date
    last_day: date
    devices: list[str] | None
    keep_days: int
    state: Literal["queued", "running", "done", "failed"]
    files: int
    files_done: int
    rows: int
    problems: list[TaskProblem]
    requested_at: Time
    finished_at: Time | None


@router.get("/storage", summary="How much is kept where")
async def get_storage(
    registry: RegistryDep,
    who: Reader,
    top: Annotated[int, Query(ge=0, le=1000, description="So many devices, the largest.")] = 20,
) -> Storage:
    """Of the tenant; of everybody, with growth, forecast and vacuum, for an administrator of the platform who has chosen none."""
    if who.tenant is None:
        who.require("platform:read")
    transaction = home_transaction(registry, who) if who.tenant is None else tenant_transaction(registry, who)
    async with transaction as connection:
        await _check_installed(connection)
        return Storage(**await lifecycle.storage(connection, top))


@router.get("/archive", summary="What is in the archive")
async def list_archive(
    registry: RegistryDep,
    who: Reader,
    page: PageDep,
    first_day: date = FIRST,
    last_day: date = LAST,
) -> ArchivedDays:
    """Day by day and table by table."""
    if page.after is not None and not (len(page.after) == 3 and all(map(is_text, page.after))):
        raise Invalid("This cursor is of another list: use `next` of the page before as it is.")
    transaction = home_transaction(registry, who) if who.tenant is None else tenant_transaction(registry, who)
    async with transaction as connection:
        await _check_installed(connection)
        rows, last = await lifecycle.archived(connection, who.tenant, first_day, last_day, page.after, page.limit)
    return ArchivedDays(items=[ArchivedDay(**row) for row in rows], next=encode_cursor(last) if last else None)


@router.post("/archive/tasks", status_code=202, summary="Verify or restore days of the archive")
async def make_task(registry: RegistryDep, who: Writer, body: NewTask, response: Response) -> Task:
    """verify reads every file and compares it with what was written. restore puts the rows into the schema `restored` of the
    database, apart from the ledger, for `keep_days`. Look at the task until it is done."""
    async with tenant_transaction(registry, who) as connection:
        await _check_installed(connection)
        id_ = await lifecycle.request_task(
            connection, body.kind, body.first_day, body.last_day, body.devices, body.keep_days
        )
        row = await lifecycle.task(connection, id_)
        assert row is not None
        detail = {"first_day": str(body.first_day), "last_day": str(body.last_day), "devices": body.devices}
        await audited(connection, who, f"archive.{body.kind}", f"tenant:{who.tenant}", **detail)
    response.headers["Location"] = f"/api/v1/archive/tasks/{id_}"
    return Task(**row)


@router.get("/archive/tasks/{id}", summary="How far a task is")
async def get_task(registry: RegistryDep, who: Reader, id: UUID) -> Task:  # noqa: A002
    """With the files that are not as they should be."""
    async with tenant_transaction(registry, who) as connection:
        row = await lifecycle.task(connection, id) if await lifecycle.installed(connection) else None
    if row is None:
        raise NotFound(f"There is no task {id}; a month after its end it is forgotten.")
    return Task(**row)


async def _check_installed(connection: Any) -> None:
    if not await lifecycle.installed(connection):
        raise Unavailable("This takes the service lifecycle: install it and run `outrider migrate`.", 60)
