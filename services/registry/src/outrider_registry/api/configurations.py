"""Configurations: parts of the desired state for many devices, and the types of their keys."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import psycopg
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StringConstraints, model_validator

from outrider_registry import merge
from outrider_registry.api.deps import ExpectedVersion, RegistryDep, audited, check_version, needs, tenant_transaction
from outrider_registry.api.fields import LABEL_PATTERN, Body, Items, Name, Text, Time
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import configurations as store
from outrider_registry.store import shadows

router = APIRouter(tags=["configuration"])

Reader = Annotated[Principal, needs("config:read")]
Writer = Annotated[Principal, needs("config:write")]
KeyName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Type = Literal["integer", "number", "boolean", "string", "json"]
State = Annotated[dict[str, Any], Field(description="Values by key; objects inside are merged, too.")]
CONFIGURATIONS_MAX = 200
EXAMPLES = 5
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""One preview at a time in a replica: of a large fleet it takes seconds, and a database session."""
KEY_MAX_CHARS = 128


class Details(Body):
    """What a configuration says, and to whom."""

    applies_to: merge.AppliesTo = "all"
    selector: Annotated[str, StringConstraints(pattern=rf"({LABEL_PATTERN})|^$")] = Field(
        "", description="The type, tier or tag; empty for all."
    )
    priority: int = Field(
        0, ge=-1_000_000, le=1_000_000, description="Higher ones win; then tag over tier over type over all; then name."
    )
    state: State

    @model_validator(mode="after")
    def _selected(self) -> Details:
        if (self.applies_to == "all") != (self.selector == ""):
            raise ValueError(
                "selector is empty for all" if self.applies_to == "all" else f"selector names the {self.applies_to}"
            )
        return self


class NewConfiguration(Details):
    """A configuration with its name."""

    name: Name


class ReplacedConfiguration(Details):
    """What a configuration says from now on."""

    name: Name | None = Field(None, description="If given, the one in the path.")


class Configuration(BaseModel):
    """A configuration."""

    name: str
    applies_to: merge.AppliesTo
    selector: str
    priority: int
    state: dict[str, Any]
    version: int
    updated_at: Time


class Configurations(Items):
    """All of the tenant's, the strongest first."""

    items: list[Configuration]


class Preview(Body):
    """A configuration to try; it is not stored."""

    configuration: NewConfiguration


class Example(BaseModel):
    """A device whose desired state would change."""

    device: str
    before: dict[str, Any]
    after: dict[str, Any]


class Previewed(BaseModel):
    """What would change."""

    devices: int = Field(description="Devices whose desired state would change.")
    applies_to: int = Field(description="Devices it would apply to.")
    examples: list[Example]


class KeyDetails(Body):
    """What a key may hold."""

    type: Type
    minimum: float | None = Field(None, description="Least value; of a string, least number of characters.")
    maximum: float | None = None
    choices: list[Any] | None = Field(None, max_length=100, description="The only values allowed.")
    unit: Annotated[str, StringConstraints(max_length=30)] = ""
    description: Text = ""

    @model_validator(mode="after")
    def _possible(self) -> KeyDetails:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("minimum is greater than maximum")
        if self.type in ("boolean", "json") and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"a {self.type} has no minimum and no maximum")
        if self.choices is not None:
            if not self.choices:
                raise ValueError("choices is empty, so nothing would be allowed")
            for choice in self.choices:  # NotAllowed is a ValueError with a sentence
                merge.check_json(choice, "choices")
                merge.Key("choices", self.type, self.minimum, self.maximum).check(choice)
        for text in (self.unit, self.description):
            merge.check_text(text, "unit and description")
        return self


class Key(BaseModel):
    """A typed key."""

    key: str
    type: Type
    minimum: float | None
    maximum: float | None
    choices: list[Any] | None
    unit: str
    description: str
    version: int


class Keys(Items):
    """All typed keys."""

    items: list[Key]


@router.get("/configurations", summary="List configurations")
async def list_configurations(registry: RegistryDep, who: Reader) -> Configurations:
    """All of the tenant's, the strongest first."""
    async with tenant_transaction(registry, who) as connection:
        rows = await store.all_rows(connection)
    rows.sort(key=lambda row: (row["priority"], merge.SPECIFICITY[row["applies_to"]], row["name"]), reverse=True)
    return Configurations(items=[Configuration(**row) for row in rows], total=len(rows))


@router.post("/configurations", status_code=201, summary="Make a configuration")
async def create_configuration(
    registry: RegistryDep, who: Writer, body: NewConfiguration, response: Response
) -> Configuration:
    """Make a configuration; the desired state of its devices changes at once."""
    async with tenant_transaction(registry, who) as connection:
        await shadows.lock(connection, who.in_tenant())
        if await store.one(connection, body.name) is not None:
            raise Conflict(f"There is a configuration {body.name} already. Choose another name, or change that one.")
        row = await _put(connection, who, "config.create", body)
    response.headers["Location"] = f"/api/v1/configurations/{body.name}"
    return Configuration(**row)


@router.post("/configurations/preview", summary="Try a configuration")
async def preview_configuration(registry: RegistryDep, who: Reader, body: Preview) -> Previewed:
    """Say what would change if it were stored (or replaced the one of its name), and store nothing."""
    new = body.configuration
    turns = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(1))
    async with turns, tenant_transaction(registry, who) as connection:
        await _check(connection, who.in_tenant(), new)
        others = [c for c in await store.all_of(connection, who.in_tenant()) if c.name != new.name]
        candidate = merge.Configuration(new.name, new.applies_to, new.selector, new.priority, new.state)
        changed = await shadows.changes(connection, who.in_tenant(), None, [*others, candidate])
        applies_to = len(await store.matching(connection, new.applies_to, new.selector))
    examples = [Example(device=d, before=before, after=after) for d, before, after in changed[:EXAMPLES]]
    return Previewed(devices=len(changed), applies_to=applies_to, examples=examples)


@router.get("/configurations/{name}", summary="Show a configuration")
async def get_configuration(registry: RegistryDep, who: Reader, name: Name) -> Configuration:
    """One configuration."""
    async with tenant_transaction(registry, who) as connection:
        return Configuration(**await _get(connection, name))


@router.put("/configurations/{name}", summary="Make or replace a configuration")
async def put_configuration(
    registry: RegistryDep, who: Writer, name: Name, body: ReplacedConfiguration, expected: ExpectedVersion
) -> Configuration:
    """Replace the whole configuration (`If-Match: *` also makes a new one); desired states change at once."""
    if body.name not in (None, name):
        raise Invalid(
            f"The path names {name} and the body {body.name}. A configuration keeps its name: make a new one."
        )
    new = NewConfiguration(**body.model_dump(exclude={"name"}), name=name)
    async with tenant_transaction(registry, who) as connection:
        await shadows.lock(connection, who.in_tenant())
        before = await store.one(connection, name)
        check_version(expected, before["version"] if before else 0, f"Configuration {name}")
        row = await _put(connection, who, "config.change" if before else "config.create", new)
    return Configuration(**row)


@router.delete("/configurations/{name}", status_code=204, summary="Delete a configuration", response_class=Response)
async def delete_configuration(registry: RegistryDep, who: Writer, name: Name, expected: ExpectedVersion) -> None:
    """Its devices fall back to what the others say."""
    async with tenant_transaction(registry, who) as connection:
        await shadows.lock(connection, who.in_tenant())
        before = await _get(connection, name)
        check_version(expected, before["version"], f"Configuration {name}")
        await store.delete(connection, name)
        devices = await shadows.recompute(connection, None)
        await audited(connection, who, "config.delete", f"configuration:{name}", devices=devices)


@router.get("/configuration-keys", summary="List typed keys")
async def list_keys(registry: RegistryDep, who: Reader) -> Keys:
    """All keys that have a type; any other key may hold anything."""
    async with tenant_transaction(registry, who) as connection:
        return Keys(items=[Key(**row) for row in await store.all_keys(connection)])


@router.put("/configuration-keys/{key}", summary="Type a key")
async def put_key(registry: RegistryDep, who: Writer, key: KeyName, body: KeyDetails, expected: ExpectedVersion) -> Key:
    """Say what a key may hold. Refused while a configuration or a device holds something else."""
    async with tenant_transaction(registry, who) as connection:
        await shadows.lock(connection, who.in_tenant())
        before = await store.one_key(connection, key)
        check_version(expected, before["version"] if before else 0, f"Key {key}")
        rule = merge.Key(key, body.type, body.minimum, body.maximum, body.choices, body.unit)
        for where, value in await store.uses(connection, key):
            try:
                rule.check(value)
            except merge.NotAllowed as error:
                raise Conflict(f"In {where}: {error} Change it there first.") from None
        row = await store.put_key(connection, {"key": key, **body.model_dump()})
        await audited(connection, who, "config.key", f"configuration-key:{key}", **body.model_dump(exclude_none=True))
    return Key(**row)


@router.delete("/configuration-keys/{key}", status_code=204, summary="Take a key's type away", response_class=Response)
async def delete_key(registry: RegistryDep, who: Writer, key: KeyName, expected: ExpectedVersion) -> None:
    """It may hold anything again."""
    async with tenant_transaction(registry, who) as connection:
        before = await store.one_key(connection, key)
        if before is None:
            raise NotFound(f"The key {key} has no type.")
        check_version(expected, before["version"], f"Key {key}")
        await store.delete_key(connection, key)
        await audited(connection, who, "config.key_delete", f"configuration-key:{key}")


async def _put(
    connection: psycopg.AsyncConnection, who: Principal, action: str, new: NewConfiguration
) -> dict[str, Any]:
    await _check(connection, who.in_tenant(), new)
    row = await store.put(connection, new.model_dump())
    if await store.count(connection) > CONFIGURATIONS_MAX:
        raise Conflict(f"There are {CONFIGURATIONS_MAX} configurations already. Delete one, or put more into one.")
    devices = await shadows.recompute(connection, None)
    where = f"{new.applies_to}:{new.selector}" if new.selector else new.applies_to
    # Values stay out of the audit: a configuration may hold a password of a network.
    detail = {"applies_to": where, "priority": new.priority, "keys": sorted(new.state), "devices": devices}
    await audited(connection, who, action, f"configuration:{new.name}", **detail)
    return row


async def _check(connection: psycopg.AsyncConnection, tenant: str, new: NewConfiguration) -> None:
    """Raises Invalid for a state that no device may have."""
    if not new.state:
        raise Invalid("The state is empty. Give it a key, such as interval_s.")
    check_names(new.state)
    try:
        merge.check_desired(new.state, f"Configuration {new.name}")
        merge.check_keys(new.state, await store.keys_of(connection, tenant))
    except merge.NotAllowed as error:
        raise Invalid(str(error)) from None


def check_names(state: dict[str, Any]) -> None:
    """Raises Invalid for a key without name or with a long one."""
    for key in state:
        if not 1 <= len(key) <= KEY_MAX_CHARS:
            raise Invalid(f"A key has {len(key)} characters; 1 to {KEY_MAX_CHARS} are allowed.")


async def _get(connection: psycopg.AsyncConnection, name: str) -> dict[str, Any]:
    row = await store.one(connection, name)
    if row is None:
        raise NotFound(f"There is no configuration {name}.")
    return row
