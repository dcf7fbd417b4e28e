"""Claims over MQTT: requests, the answers of people, and the end of claims."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from outrider.contract import topics
from outrider.contract.payloads import Claim, ClaimReply
from outrider.runtime.errors import Rejected
from outrider.runtime.packets import Request
from outrider_registry import enrolment
from outrider_registry.context import Registry
from outrider_registry.control.message import Message
from outrider_registry.leader import EVERYTHING, Changes, Duty
from outrider_registry.store import audit, claims, redemption
from outrider_registry.store.redemption import Refused
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

EXPIRE_INTERVAL_S = 30.0
BATCH = 200


async def on_claim(registry: Registry, messages: Sequence[Message]) -> None:
    """Answer each request on the claim's reply topic. A request that cannot be read is answered, and kept as rejected."""
    for message in messages:
        claim = message.values["claim"]
        try:
            asked = message.read(Claim)
        except Rejected as error:
            refused = Refused("bad_request", str(error))
            await _reply(registry, claim, enrolment.reply_of(refused, None, registry.keys, registry.settings), message)
            raise
        reply = await enrolment.redeem(registry, claim, asked)
        await _reply(registry, claim, reply, message)
        log.info(
            "claim_answered", extra={"claim": claim, "reason": reply.reason or reply.status, "device": reply.device}
        )
        message.delivery.done = True


def duties(registry: Registry) -> list[Duty]:
    """What the leader does about claims."""
    return [
        ("claim answers", ("claim",), lambda changes: _tell_decisions(registry, changes)),
        ("claim end", ("presence",), lambda changes: _end(registry, changes)),
    ]


async def _tell_decisions(registry: Registry, changes: Changes) -> None:
    while True:
        if not await changes.take(EXPIRE_INTERVAL_S):
            continue
        # Crosses tenants: the broker serves them all.
        async with of_platform(registry.database) as connection:
            due = await redemption.due(connection, registry.keys, BATCH)
        for claim, asked, answer in due:
            await _reply(registry, claim, enrolment.reply_of(answer, asked, registry.keys, registry.settings))
        if due:
            async with of_platform(registry.database) as connection:
                await claims.replied(connection, [claim for claim, _, _ in due])
        if len(due) == BATCH:
            changes.tell(EVERYTHING)


async def _end(registry: Registry, changes: Changes) -> None:
    while True:
        changed = await changes.take(EXPIRE_INTERVAL_S, settle_s=1.0)
        seen = None if EVERYTHING in changed or not changed else [change.partition(":")[2] for change in changed]
        # Crosses tenants: time is over for all alike.
        async with of_platform(registry.database) as connection:
            await claims.note_seen(connection, seen)
            expired = await claims.expire(connection, BATCH)
            for claim, tenant in expired:
                await audit.append(connection, tenant, "registry", "claim.expire", f"claim:{claim}")
        if len(expired) == BATCH:
            changes.tell(EVERYTHING)


async def _reply(registry: Registry, claim: str, reply: ClaimReply, message: Message | None = None) -> None:
    topic = topics.CLAIM_REPLY.name(claim=claim)
    # QoS 0: with QoS 1 the broker keeps it, and a secret in it, in its file. A device that heard nothing asks again.
    await registry.publisher.publish(topic, enrolment.payload_of(reply), qos=0, request=_correlation(topic, message))


def _correlation(topic: str, message: Message | None) -> Request | None:
    """The request's correlation data (MQTT 5.0 section 4.10), where it asks for the answer on the claim's own reply topic."""
    properties = message.delivery.properties if message else None
    if not properties or properties.get("response_topic", [topic]) != [topic]:
        return None
    data = properties.get("correlation_data")
    return Request(correlation_data=data[0]) if data else None
