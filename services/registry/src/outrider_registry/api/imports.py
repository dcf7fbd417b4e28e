"""Many devices at once: an import, a thousand rows a request, and the devices that the ledger knows already."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Literal

import psycopg
from fastapi import APIRouter
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from outrider_registry.api.deps import RegistryDep, audited, needs, tenant_transaction
from outrider_registry.api.devices import NewDevice, half_a_place
from outrider_registry.api.fields import Body, changed
from outrider_registry.context import Registry
from outrider_registry.principals import Principal
from outrider_registry.store import devices, imports, shadows
from outrider_registry.store.credentials import Secret
from outrider_registry.store.rows import Row

router = APIRouter(tags=["devices"])

Writer = Annotated[Principal, needs("devices:write")]
MAX_ROWS = 1000
OnExisting = Literal["skip", "update", "fail"]
Result = Literal["created", "updated", "unchanged", "failed"]


class ImportRow(NewDevice):
    """A row as a spreadsheet has it: tags may be one text, and what is empty is not given."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, row: Any) -> Any:
        if isinstance(row, dict):
            return {name: value for name, value in row.items() if value not in ("", None)}
        return row

    @field_validator("tags", mode="before")
    @classmethod
    def _split(cls, tags: Any) -> Any:
        return tags.replace(",", " ").replace(";", " ").split() if isinstance(tags, str) else tags


class Import(Body):
    """Rows to import."""

    rows: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_ROWS,
        description="Each with `id` and what else is known, as when registering one device. Tags may be one text.",
    )
    dry_run: bool = Field(False, description="Only say what would happen.")
    on_existing: OnExisting = Field("skip", description="What to do with devices that are there already.")
    credentials: bool = Field(
        False, description="Also issue a secret to every device without one, except those behind a gateway."
    )


class RowResult(BaseModel):
    """What became of a row."""

    row: int = Field(description="Its place in the request, from 0.")
    id: str
    result: Result
    error: str | None = None
    secret: str | None = Field(default=None, description="Of a device that had none; shown this once.")
    generation: int | None = None
    key_id: str | None = None


class Imported(BaseModel):
    """What became of each row."""

    results: list[RowResult]


class Adopt(Body):
    """What to do with devices that are adopted."""

    dry_run: bool = False
    credentials: bool = False


class AdoptedDevice(BaseModel):
    """A device that is registered now."""

    id: str
    secret: str | None = None
    generation: int | None = None
    key_id: str | None = None


class Adopted(BaseModel):
    """The devices that are registered now."""

    adopted: list[AdoptedDevice]


@router.post("/devices/import", summary="Import devices", response_model_exclude_none=True)
async def import_devices(registry: RegistryDep, who: Writer, body: Import) -> Imported:
    """Register or change up to 1,000 devices; each row succeeds or fails on its own. Sent again, it changes nothing more."""
    if body.credentials:
        who.require("credentials:write")
    work = Work(who.in_tenant(), body)
    async with (
        tenant_transaction(registry, who) as connection,
        connection.transaction(force_rollback=body.dry_run),
    ):
        await work.store(connection)
        if body.credentials and not body.dry_run:
            await work.issue(connection, registry)
        if not body.dry_run and (counts := work.counts()).keys() - {"failed", "unchanged"}:
            changes = {result: work.ids(result) for result in ("created", "updated") if work.ids(result)}
            await audited(connection, who, "device.import", f"tenant:{work.tenant}", **counts, devices=changes)
    return Imported(results=work.results)


@router.post("/devices/adopt", summary="Adopt devices", response_model_exclude_none=True)
async def adopt_devices(registry: RegistryDep, who: Writer, body: Adopt | None = None) -> Adopted:
    """Register every device that has sent something under this tenant and is not registered anywhere."""
    body = body or Adopt()
    if body.credentials:
        who.require("credentials:write")
    tenant = who.in_tenant()
    async with (
        tenant_transaction(registry, who) as connection,
        connection.transaction(force_rollback=body.dry_run),
    ):
        adopted = await imports.adopt(connection, tenant)
        secrets: dict[str, Secret] = {}
        if adopted and not body.dry_run:
            await shadows.recompute(connection, adopted)
            if body.credentials:
                secrets = await imports.issue(connection, adopted, registry.keys, rotation(registry))
            await audited(
                connection, who, "device.adopt", f"tenant:{tenant}", created=len(adopted), secrets=len(secrets),
                devices=adopted,
            )  # fmt: skip
    return Adopted(
        adopted=[
            AdoptedDevice(id=device, secret=new.of(registry.keys), generation=new.generation, key_id=new.key_id)
            if (new := secrets.get(device))
            else AdoptedDevice(id=device)
            for device in adopted
        ]
    )


def rotation(registry: Registry) -> timedelta:
    """How old a secret gets."""
    return timedelta(days=registry.settings.credential_rotation_days)


class Work:
    """One request's rows on their way: checked one by one, stored together."""

    def __init__(self, tenant: str, body: Import) -> None:
        self.tenant = tenant
        self.on_existing = body.on_existing
        self.results: list[RowResult] = []
        self._rows: dict[str, ImportRow] = {}
        self._result: dict[str, RowResult] = {}
        for number, row in enumerate(body.rows):
            result = RowResult(row=number, id=str(row.get("id", ""))[:80], result="failed")
            self.results.append(result)
            try:
                device = ImportRow.model_validate(row)
            except ValidationError as error:
                result.error = _words(error)
                continue
            if device.id in self._rows:
                result.error = f"Row {self._result[device.id].row} has the same id."
            else:
                self._rows[device.id], self._result[device.id] = device, result

    def counts(self) -> dict[str, int]:
        """How many rows came to what."""
        counts: dict[str, int] = {}
        for result in self.results:
            counts[result.result] = counts.get(result.result, 0) + 1
        return counts

    def ids(self, result: Result) -> list[str]:
        """The devices of the rows that came to this."""
        return [row.id for row in self.results if row.result == result]

    async def store(self, connection: psycopg.AsyncConnection) -> None:
        """Insert and update what can be, and say of each row what became of it."""
        known = await imports.existing(connection, list(self._rows))
        wanted: dict[str, Row] = {}
        for device, row in self._rows.items():
            if device not in known:
                wanted[device] = row.model_dump()
            elif self.on_existing == "update":
                wanted[device] = known[device] | row.model_dump(include=row.model_fields_set - {"id"})
            elif self.on_existing == "skip":
                self._result[device].result = "unchanged"
            else:
                self._fail(device, "It is registered already.")
        for device, values in wanted.items():
            if problem := half_a_place(values):
                self._fail(device, problem)
        await self._check_gateways(connection, wanted, known)
        good = {device: values for device, values in wanted.items() if self._result[device].error is None}
        # A child needs its gateway there, and fails with it.
        merged = await self._store(connection, [v for v in good.values() if v["gateway"] is None], known)
        later = []
        for device, values in good.items():
            gateway = values["gateway"]
            if gateway is not None and (of_gateway := self._result.get(gateway)) and of_gateway.error is not None:
                self._fail(device, f"Its gateway {gateway} failed.")
            elif gateway is not None:
                later.append(values)
        merged += await self._store(connection, later, known)
        if merged:
            await shadows.recompute(connection, merged)

    async def issue(self, connection: psycopg.AsyncConnection, registry: Registry) -> None:
        """A first secret for each good row's device that has none and is its own publisher."""
        good = [device for device, result in self._result.items() if result.error is None]
        behind = {device for device, row in (await imports.existing(connection, good)).items() if row["gateway"]}
        own = [device for device in good if device not in behind]
        secrets = await imports.issue(connection, own, registry.keys, rotation(registry))
        for device, credential in (await imports.newest(connection, own)).items():
            result = self._result[device]
            result.generation, result.key_id = credential["generation"], credential["key_id"]
            result.secret = secrets[device].of(registry.keys) if device in secrets else None

    def _fail(self, device: str, error: str) -> None:
        self._result[device].result = "failed"
        self._result[device].error = error

    async def _store(
        self, connection: psycopg.AsyncConnection, rows: Iterable[Row], known: dict[str, Row]
    ) -> list[str]:
        """Returns the devices whose merged configuration may be another now."""
        new, changes = [], []
        merged: list[str] = []
        for values in rows:
            device = values["id"]
            if device not in known:
                new.append(values)
            elif not (difference := changed(known[device], values)):
                self._result[device].result = "unchanged"
            else:
                changes.append(values)
                self._result[device].result = "updated"
                if difference.keys() & set(devices.MERGED_FROM):
                    merged.append(device)
        if changes:
            await imports.update(connection, changes)
        if new:
            added = await imports.insert(connection, self.tenant, new)
            merged += sorted(added)
            for values in new:
                if values["id"] in added:
                    self._result[values["id"]].result = "created"
                else:
                    self._fail(
                        values["id"], "The id is taken. Ids are unique in this installation: choose another one."
                    )
        return merged

    async def _check_gateways(
        self, connection: psycopg.AsyncConnection, wanted: dict[str, Row], known: dict[str, Row]
    ) -> None:
        """Gateways must be there and do not chain: among these rows, and with the devices there are."""
        children = [device for device, values in wanted.items() if values["gateway"] is not None]
        if not children:
            return
        named = {wanted[device]["gateway"] for device in children}
        others = await devices.gateways(connection, sorted(named - wanted.keys()))
        # What these rows make of a gateway counts, not what it was.
        gateway_of = others | {device: values["gateway"] for device, values in wanted.items()}
        parents = await imports.parents(connection, children)
        for device in children:
            gateway = wanted[device]["gateway"]
            if gateway == device:
                self._fail(device, "A device cannot be its own gateway.")
            elif gateway not in gateway_of:
                self._fail(device, f"There is no device {gateway} to be the gateway. Put it into an earlier row.")
            elif gateway_of[gateway] is not None:
                self._fail(device, f"{gateway} is behind a gateway itself. Gateways do not chain.")
            elif device in parents:
                self._fail(device, "It is a gateway of other devices, so it cannot be behind one.")


def _words(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'row'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)[:3]
    )
