"""Shadow: what a device should be, and what it says it is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from outrider_registry import merge
from outrider_registry.api.configurations import check_names
from outrider_registry.api.deps import RegistryDep, audited, check_version, expected_version, needs, tenant_transaction
from outrider_registry.api.fields import Body, Name, Time
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import configurations, shadows

router = APIRouter(tags=["configuration"])


class Shadow(BaseModel):
    """Desired and reported state of a device."""

    device: str
    desired: dict[str, Any] = Field(description="Configurations merged, this device's own wishes on top.")
    desired_version: int
    desired_at: Time | None
    overrides: dict[str, Any] = Field(description="This device's own wishes.")
    sources: dict[str, str] = Field(description="Where each desired key comes from: a configuration, or `device`.")
    reported: dict[str, Any]
    reported_version: int = Field(description="The newest desired version that the device has answered.")
    reported_at: Time | None
    delta: dict[str, Any] = Field(description="Desired values that are not reported so.")
    published_version: int = Field(description="The newest version that the broker has.")
    version: int = Field(description="The desired version, as in the ETag.")

    @classmethod
    def of(cls, row: dict[str, Any], applying: list[merge.Configuration]) -> Shadow:
        """As the store gives it, with the configurations that apply."""
        _, sources = merge.merged(applying, row["overrides"])
        own = {name: row[name] for name in cls.model_fields if name in row}
        delta = merge.delta(row["desired"], row["reported"])
        return cls(**own, sources=sources, delta=delta, version=row["desired_version"])


class Change(Body):
    """A change of a device's own wishes."""

    overrides: dict[str, Any] = Field(description="A merge patch (RFC 7396): null takes a wish away.")
    version: int | None = Field(None, ge=0, description="The desired version it was made on, instead of If-Match.")


@router.get("/devices/{id}/shadow", summary="Show desired and reported state")
async def get_shadow(
    registry: RegistryDep,
    who: Annotated[Principal, needs("config:read")],
    id: Name,  # noqa: A002 - the path's own name
) -> Shadow:
    """What the device should have, what it says it has, and the difference."""
    async with tenant_transaction(registry, who) as connection:
        row = await shadows.one(connection, id)
        if row is None:
            raise NotFound(f"There is no device {id}.")
        merger = merge.Merger(await configurations.all_of(connection, who.in_tenant()))
    return Shadow.of(row, merger.applying(row["type"], row["tier"], row["tags"]))


@router.patch("/devices/{id}/shadow", summary="Change a device's desired state")
async def change_shadow(
    registry: RegistryDep,
    who: Annotated[Principal, needs("config:write")],
    request: Request,
    id: Name,  # noqa: A002
    body: Change,
) -> Shadow:
    """Change what this device alone should have. Name the version you read, with If-Match or in the body: if somebody
    changed it meanwhile, the answer is 412 or 409 with `current_version`, and nothing is changed."""
    expected = expected_version(request) if body.version is None else None
    check_names(body.overrides)
    async with tenant_transaction(registry, who) as connection:
        await shadows.lock(connection, who.in_tenant())
        before = await shadows.one(connection, id)
        if before is None:
            raise NotFound(f"There is no device {id}.")
        current = before["desired_version"]
        check_version(expected, current, f"The desired state of {id}")
        if body.version is not None and body.version != current:
            raise Conflict(
                f"The desired state of {id} was changed meanwhile (version {current}, you had {body.version}). "
                "Read it again, then change it.",
                current_version=current,
            )
        try:
            merge.check_json(body.overrides, "overrides", patch=True)
            merge.check_keys(body.overrides, await configurations.keys_of(connection, who.in_tenant()))
            overrides = merge.merge_patch(before["overrides"], body.overrides)
            merge.check_desired(overrides, f"What {id} alone should have")
        except merge.NotAllowed as error:
            raise Invalid(str(error)) from None
        await shadows.set_overrides(connection, id, who.in_tenant(), overrides)
        await shadows.recompute(connection, [id])
        row = await shadows.one(connection, id)
        assert row is not None, "the tenant's lock and the shadow's row are held"
        merger = merge.Merger(await configurations.all_of(connection, who.in_tenant()))
        # Values stay out of the audit: a wish may be a password of a network.
        detail = {"keys": sorted(body.overrides), "version": row["desired_version"]}
        await audited(connection, who, "shadow.change", f"device:{id}", **detail)
    return Shadow.of(row, merger.applying(row["type"], row["tier"], row["tags"]))
