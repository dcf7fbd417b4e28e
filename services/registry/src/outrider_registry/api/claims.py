"""Claims: tokens that each let one device in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from outrider.contract import topics
from outrider_registry.api.deps import PageDep, RegistryDep, audited, encode_cursor, needs, tenant_transaction
from outrider_registry.api.devices import MAX_TAGS, half_a_place
from outrider_registry.api.fields import Body, Items, Label, Name, OptionalLabel, Text, Time, Word, is_text
from outrider_registry.context import Registry
from outrider_registry.errors import Conflict, Invalid, NotFound
from outrider_registry.principals import Principal
from outrider_registry.store import claims, credentials, redemption
from outrider_registry.store.transactions import of_platform

router = APIRouter(tags=["claims"])

Reader = Annotated[Principal, needs("devices:read")]
Writer = Annotated[Principal, needs("credentials:write")]
State = Literal["open", "awaiting_approval", "used", "refused", "revoked", "expired"]
ClaimId = Annotated[str, Field(pattern=r"^[a-z0-9]{6,32}$")]
HOURS_MAX = 24 * 366
COUNT_MAX = 1000


class Template(Body):
    """What a device is from the start."""

    name: Text = ""
    type: OptionalLabel = ""
    tier: OptionalLabel = ""
    tags: list[Label] = Field([], max_length=MAX_TAGS)
    latitude: float | None = Field(None, ge=-90, le=90)
    longitude: float | None = Field(None, ge=-180, le=180)
    location: Text = ""
    owner: Text = ""

    @model_validator(mode="after")
    def _checked(self) -> Template:
        if problem := half_a_place(self.model_dump()):
            raise ValueError(problem)
        self.tags = sorted(set(self.tags))
        return self


class NewClaims(Body):
    """Which claims to make."""

    device: Name | None = Field(None, description="The id the device gets; that of a device here: it enrols again.")
    serial: Word | None = Field(None, description="Only a device with this serial number may use it.")
    hours: float | None = Field(
        None, gt=0, le=HOURS_MAX, description="How long it can be used; the default is a setting."
    )
    approval: bool = Field(False, description="The device waits until somebody approves it.")
    template: Template = Field(default_factory=lambda: Template.model_validate({}))
    count: int = Field(1, ge=1, le=COUNT_MAX, description="How many, each for one device.")

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> NewClaims:
        if self.count > 1 and (self.device or self.serial):
            raise ValueError("a claim for a certain device or serial number is for one: leave count out")
        return self


class NewClaim(BaseModel):
    """A claim with its token, which is shown once."""

    id: str
    token: str = Field(description="The MQTT password of `username`; or `token` of POST /enrol.")
    username: str = Field(description="User name and client id at the broker.")
    url: str = Field(description="The broker's listener for devices.")
    topic: str = Field(description="Where the device publishes its request.")
    reply_topic: str
    enrol_url: str = Field(description="The same over HTTPS.")
    expires_at: Time


class NewClaimsAnswer(NewClaim):
    """The first claim, and all of them."""

    items: list[NewClaim]


class Claim(BaseModel):
    """A claim, without its token."""

    id: str
    state: State
    device: str | None = Field(description="The id it is for, if it names one.")
    serial: str | None
    approval: bool
    template: dict[str, object]
    request: dict[str, object] | None = Field(description="What the device said of itself.")
    used_by: str | None = Field(description="The device it became, or will be once approved.")
    created_by: str
    decided_by: str
    created_at: Time
    expires_at: Time
    used_at: Time | None
    refusals: int = Field(description="Requests that were refused: of other devices, with a wrong serial number …")

    @classmethod
    def of(cls, claim: claims.Claim) -> Claim:
        """As the store gives it; one whose time is over is expired, whoever has noted it."""
        over = claim.over and claim.state in ("open", "awaiting_approval")
        values = {name: getattr(claim, name) for name in cls.model_fields}
        return cls(**values | {"state": "expired" if over else claim.state})


class Claims(Items):
    """The newest first."""

    items: list[Claim]


@router.get("/claims", summary="List claims")
async def list_claims(
    registry: RegistryDep,
    who: Reader,
    page: PageDep,
    state: Annotated[list[State] | None, Query(description="Only these.")] = None,
) -> Claims:
    """The tenant's claims, the newest first."""
    after = None
    if page.after is not None:
        if len(page.after) != 2 or not all(is_text(part) for part in page.after) or not _is_time(page.after[0]):
            raise Invalid("This cursor was not made here: use `next` of the page before as it is.")
        after = page.after[0], page.after[1]
    async with tenant_transaction(registry, who) as connection:
        found = await claims.page(connection, state, after, page.limit + 1)
    items = [Claim.of(claim) for claim in found[: page.limit]]
    last = found[page.limit - 1] if len(found) > page.limit else None
    return Claims(items=items, next=encode_cursor([last.created_at.isoformat(), last.id]) if last else None)


@router.post("/claims", status_code=201, summary="Make claims")
async def create_claims(registry: RegistryDep, who: Writer, body: NewClaims) -> NewClaimsAnswer:
    """A token, or `count` of them, each good for one device and for a while."""
    if body.device is not None and await _is_elsewhere(registry, who.in_tenant(), body.device):
        raise Conflict(f"The id {body.device} is taken. Ids are unique in this installation: choose another one.")
    async with tenant_transaction(registry, who) as connection:
        made = await claims.create(
            connection,
            registry.keys,
            who.in_tenant(),
            by=who.actor,
            hours=body.hours or registry.settings.claim_hours,
            count=body.count,
            device=body.device,
            serial=body.serial,
            approval=body.approval,
            template=body.template.model_dump(exclude_defaults=True),
        )
        what = {"device": body.device, "serial": body.serial, "approval": body.approval}
        for id_, _, _ in made[:1]:
            more = {"count": len(made), "claims": [id_ for id_, _, _ in made]} if len(made) > 1 else {}
            await audited(connection, who, "claim.create", f"claim:{id_}", **what, **more)
    items = [_new(registry, *one) for one in made]
    return NewClaimsAnswer(items=items, **items[0].model_dump())


@router.get("/claims/{id}", summary="Show a claim")
async def get_claim(registry: RegistryDep, who: Reader, id: ClaimId) -> Claim:  # noqa: A002
    """What became of it. Its token is not shown again."""
    async with tenant_transaction(registry, who) as connection:
        claim = await claims.get(connection, id)
    if claim is None:
        raise NotFound(f"There is no claim {id}.")
    return Claim.of(claim)


@router.delete("/claims/{id}", status_code=204, summary="Take a claim back", response_class=Response)
async def revoke_claim(registry: RegistryDep, who: Writer, id: ClaimId) -> None:  # noqa: A002
    """Nobody can use it any more. A device that it became stays: disable that."""
    async with tenant_transaction(registry, who) as connection:
        await claims.revoke(connection, id, who.actor)
        await audited(connection, who, "claim.revoke", f"claim:{id}")


@router.post("/claims/{id}/approve", summary="Approve the device that waits")
async def approve_claim(registry: RegistryDep, who: Writer, id: ClaimId) -> Claim:  # noqa: A002
    """The device gets its credential: at once if it still listens, else when it asks again."""
    days = registry.settings.credential_rotation_days
    async with tenant_transaction(registry, who) as connection:
        _, accepted = await redemption.approve(connection, registry.keys, id, days, who.actor)
        claim = await claims.get(connection, id)
        await audited(
            connection, who, "claim.approve", f"claim:{id}", device=accepted.device, generation=accepted.generation
        )
    assert claim is not None
    return Claim.of(claim)


@router.post("/claims/{id}/refuse", summary="Refuse the device that waits")
async def refuse_claim(registry: RegistryDep, who: Writer, id: ClaimId) -> Claim:  # noqa: A002
    """It is told so; the claim cannot be used any more."""
    async with tenant_transaction(registry, who) as connection:
        before = await redemption.refuse(connection, id, who.actor)
        claim = await claims.get(connection, id)
        await audited(connection, who, "claim.decline", f"claim:{id}", device=before.used_by)
    assert claim is not None
    return Claim.of(claim)


def _new(registry: Registry, id_: str, token: str, expires_at: datetime) -> NewClaim:
    return NewClaim(
        id=id_,
        token=token,
        username=f"claim:{id_}",
        url=registry.settings.device_mqtt_url,
        topic=topics.CLAIM.name(claim=id_),
        reply_topic=topics.CLAIM_REPLY.name(claim=id_),
        enrol_url=f"{registry.url}/api/v1/enrol",
        expires_at=expires_at,
    )


async def _is_elsewhere(registry: Registry, tenant: str, device: str) -> bool:
    """Crosses tenants: an id is unique among all of them."""
    async with of_platform(registry.database) as connection:
        return (await credentials.tenants_of(connection, [device])).get(device, tenant) != tenant


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
