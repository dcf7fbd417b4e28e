"""Rejected messages: what could not be stored and why; sent again, or thrown away."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, model_validator

from outrider.contract.reasons import EXPLANATION, Reason
from outrider.runtime import replay
from outrider.runtime.errors import Transient
from outrider_registry.api.deps import PageDep, RegistryDep, audited, encode_cursor, needs, tenant_transaction
from outrider_registry.api.fields import Body, Items, Time, Word, is_bigint
from outrider_registry.context import Registry
from outrider_registry.errors import Conflict, Invalid, NotFound, Unavailable
from outrider_registry.principals import Principal
from outrider_registry.store import rejected

router = APIRouter(tags=["rejected messages"])

Reader = Annotated[Principal, needs("rejected:read")]
Writer = Annotated[Principal, needs("rejected:write")]
Id = Annotated[int, Path(ge=1, lt=2**63)]
DeviceOption = Annotated[Word | None, Query(description="Only of this device, also of one that is not registered.")]
MAX_REPLAY = 1000
CHUNK_MESSAGES = 100
"""Sent at once and then marked: what is in memory, and what an interruption sends twice."""


class RejectedMessage(BaseModel):
    """A message that could not be stored."""

    id: int
    device: str
    stream: str
    boot: int | None
    seq: int | None
    reason: str
    detail: str
    explanation: str = Field(description="What the reason means.")
    topic: str
    bytes: int
    service: str = Field(description="Who refused it.")
    received_at: Time
    rejected_at: Time
    replayed_at: Time | None


class RejectedDetail(RejectedMessage):
    """The same with its payload."""

    payload_text: str | None = Field(description="Null where it is no text.")
    payload_hex: str
    replayable: bool


class RejectedMessages(Items):
    """A part of them, newest first."""

    items: list[RejectedMessage]
    reasons: dict[str, int] | None = Field(description="How many there are of each reason; with the first part only.")


class Choice(Body):
    """Which messages to send again: some by id, or the oldest that were not yet, by reason or device."""

    ids: list[Annotated[int, Field(ge=1, lt=2**63)]] | None = Field(default=None, min_length=1, max_length=MAX_REPLAY)
    reason: Reason | None = None
    device: Word | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Choice:
        if (self.ids is None) == (self.reason is None and self.device is None):
            raise ValueError("give ids, or reason or device")
        return self


class Replayed(BaseModel):
    """What was sent again."""

    replayed: int
    skipped: int = Field(description="Not there, or of a kind that is not sent again.")
    more: bool = Field(description="More are left of this choice: call again.")


@router.get("/rejected", summary="List rejected messages")
async def list_rejected(
    registry: RegistryDep,
    who: Reader,
    page: PageDep,
    reason: Annotated[Word | None, Query(description="Only with this reason code.")] = None,
    device: DeviceOption = None,
    replayed: Annotated[bool | None, Query(description="true: only those sent again; false: only the others.")] = None,
) -> RejectedMessages:
    """Newest first."""
    if page.after is not None and not (len(page.after) == 1 and is_bigint(page.after[0])):
        raise Invalid("This cursor was not made here: use `next` of the page before as it is.")
    filter_ = rejected.Filter(reason, device, replayed)
    async with tenant_transaction(registry, who) as connection:
        rows, last = await rejected.page(connection, filter_, page.after[0] if page.after else None, page.limit)
        reasons = await rejected.count(connection, filter_) if page.after is None else None
    return RejectedMessages(
        items=[RejectedMessage(**row, explanation=explanation(row["reason"])) for row in rows],
        next=encode_cursor(last) if last else None,
        total=None if reasons is None else sum(reasons.values()),
        reasons=reasons,
    )


@router.get("/rejected/{id}", summary="Show a rejected message")
async def get_rejected(registry: RegistryDep, who: Reader, id: Id) -> RejectedDetail:  # noqa: A002
    """One message with its payload and what its reason means."""
    async with tenant_transaction(registry, who) as connection:
        row = await rejected.get(connection, id)
    if row is None:
        raise missing(id)
    payload: bytes = row.pop("payload")
    return RejectedDetail(
        **row,
        explanation=explanation(row["reason"]),
        payload_text=as_text(payload),
        payload_hex=payload.hex(),
        replayable=can_replay(row["topic"], who),
    )


@router.post("/rejected/{id}/replay", summary="Send a rejected message again")
async def replay_one(registry: RegistryDep, who: Writer, id: Id) -> Replayed:  # noqa: A002
    """Publish it on its topic as it came, unnumbered, with the time it first arrived. Refused again, it is a new one."""
    async with tenant_transaction(registry, who) as connection:
        row = await rejected.get(connection, id)
    if row is None:
        raise missing(id)
    if not can_replay(row["topic"], who):
        raise Conflict(
            f"A message on {row['topic']} is not sent again: an old one would be taken for news. "
            "Telemetry, logs and events of this tenant are."
        )
    return await _replay(registry, who, [id], skipped=0, more=False, choice={"ids": [id]})


@router.post("/rejected/replay", summary="Send rejected messages again")
async def replay_many(registry: RegistryDep, who: Writer, body: Choice) -> Replayed:
    """Up to 1,000 a call, the oldest first; those given by id also if they were sent again before."""
    async with tenant_transaction(registry, who) as connection:
        if body.ids is not None:
            wanted = list(dict.fromkeys(body.ids))
            there = [(message.id, message.topic) for message in await rejected.kept(connection, wanted)]
            more = False
        else:
            filter_ = rejected.Filter(body.reason, body.device, replayed=False, replayable=True)
            there = await rejected.choose(connection, filter_, MAX_REPLAY + 1)
            more = len(there) > MAX_REPLAY
            there = there[:MAX_REPLAY]
            wanted = [id_ for id_, _ in there]
    good = [id_ for id_, topic in there if can_replay(topic, who)]
    choice = body.model_dump(exclude_none=True, mode="json")
    return await _replay(registry, who, good, skipped=len(wanted) - len(good), more=more, choice=choice)


@router.delete("/rejected/{id}", status_code=204, summary="Delete a rejected message")
async def delete_rejected(registry: RegistryDep, who: Writer, id: Id) -> None:  # noqa: A002
    """Throw it away for good, and give its quota back to the device."""
    async with tenant_transaction(registry, who) as connection:
        row = await rejected.get(connection, id)
        if row is None or not await rejected.purge(connection, [id]):
            raise missing(id)
        await audited(connection, who, "rejected.delete", f"rejected:{id}", device=row["device"], reason=row["reason"])


async def _replay(
    registry: Registry, who: Principal, ids: list[int], *, skipped: int, more: bool, choice: dict[str, object]
) -> Replayed:
    """Publish and mark in chunks, so that a stop loses no mark. Raises Unavailable with how many were sent."""
    sent = 0
    problem: Transient | None = None
    for at in range(0, len(ids), CHUNK_MESSAGES):
        async with tenant_transaction(registry, who) as connection:
            messages = await rejected.kept(connection, ids[at : at + CHUNK_MESSAGES])
        taken, problem = await replay.publish(registry.publisher, messages)
        async with tenant_transaction(registry, who) as connection:
            await rejected.mark_replayed(connection, taken)
        sent += len(taken)
        if problem is not None:
            break
    if sent:
        object_ = f"rejected:{ids[0]}" if len(ids) == 1 else f"tenant:{who.in_tenant()}"
        async with tenant_transaction(registry, who) as connection:
            await audited(connection, who, "rejected.replay", object_, replayed=sent, choice=choice)
    if problem is not None:
        raise Unavailable(f"{sent} of {len(ids)} messages were sent again, then it stopped: {problem}. Try again.")
    return Replayed(replayed=sent, skipped=skipped, more=more)


def can_replay(topic: str, who: Principal) -> bool:
    """True for what ingest stores, under this tenant: a device may have named another one, and nothing goes there."""
    return replay.can_replay(topic) and topic.split("/")[2] == who.in_tenant()


def explanation(reason: str) -> str:
    """What a reason code means."""
    return EXPLANATION[Reason(reason)] if reason in set(Reason) else ""


def as_text(payload: bytes) -> str | None:
    """The payload if it is UTF-8 text without control characters other than white space."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\n\r\t" for char in text) else None


def missing(id_: int) -> NotFound:
    """The same for a message that does not exist and for one of another tenant."""
    return NotFound(f"There is no rejected message {id_}.")
