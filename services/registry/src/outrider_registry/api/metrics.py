"""The metric catalogue: unit, kind and meaning of what devices measure."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from outrider_registry.api.deps import RegistryDep, audited, check_version, expected_version, needs, tenant_transaction
from outrider_registry.api.fields import Body, Metric, Text, changed
from outrider_registry.principals import Principal
from outrider_registry.store import metrics

router = APIRouter(tags=["telemetry"])

Kind = Literal["number", "boolean", "string", "json"]


class MetricDetails(Body):
    """What can be said of a metric."""

    kind: Kind = "number"
    unit: Annotated[str, Field(max_length=32, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field("", description="km/h, °C, % …")
    description: Text = ""


class MetricEntry(BaseModel):
    """A metric, as the catalogue and the ledger know it."""

    name: str
    kind: Kind
    unit: str
    description: str
    seen: bool = Field(description="Some device has sent it.")
    version: int = Field(description="0: nobody has said anything of it yet.")


@router.get("/metrics", summary="List metrics")
async def list_metrics(registry: RegistryDep, who: Annotated[Principal, needs("devices:read")]) -> list[MetricEntry]:
    """The catalogue, and every metric that devices have sent."""
    async with tenant_transaction(registry, who) as connection:
        described = {row["name"]: row for row in await metrics.catalogue(connection)}
        seen = await metrics.seen(connection)
    for name, kind in seen.items():
        described.setdefault(name, {"name": name, "kind": kind, "unit": "", "description": "", "version": 0})
    return [MetricEntry(**described[name], seen=name in seen) for name in sorted(described)]


@router.put("/metrics/{name}", summary="Describe a metric")
async def put_metric(
    registry: RegistryDep,
    who: Annotated[Principal, needs("devices:write")],
    name: Metric,
    body: MetricDetails,
    request: Request,
) -> MetricEntry:
    """Say what a metric is. One that is in the catalogue already needs If-Match."""
    async with tenant_transaction(registry, who) as connection:
        before = await metrics.get(connection, name)
        if before is not None:
            check_version(expected_version(request), before["version"], f"Metric {name}")
        row = await metrics.put(connection, {"name": name, **body.model_dump()})
        seen = await metrics.is_seen(connection, name)
        was = before or {"kind": "", "unit": "", "description": ""}
        await audited(connection, who, "metric.change", f"metric:{name}", changes=changed(was, body.model_dump()))
    return MetricEntry(**row, seen=seen)
