"""Rejected messages, sent again on their topic as they came: unnumbered, and with the time at which they first arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from outrider.contract import topics
from outrider.runtime.errors import NotStored, Transient

REPLAYED = "outrider-replay"
"""User property of a message that is sent again."""
RECEIVED_MS = "outrider-received-ms"
"""User property with its first receive time, epoch ms."""

TOPICS = (topics.TELEMETRY, topics.TELEMETRY_METRIC, topics.LOG, topics.EVENT)
"""What can be sent again: what ingest stores. An old status or response would be taken for a new one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A rejected message, as `rejected.message` keeps it."""

    id: int
    topic: str
    payload: bytes
    received_ms: int


class Publishes(Protocol):
    """A connection or publisher; its `publish` returns after PUBACK and raises Transient."""

    async def publish(self, topic: str, payload: bytes, *, user_properties: Sequence[tuple[str, str]] = ()) -> None:
        """Publish with QoS 1."""


def can_replay(topic: str) -> bool:
    """True for a topic of TOPICS."""
    return any(template.parse(topic) is not None for template in TOPICS)


async def publish(publisher: Publishes, messages: Sequence[Kept]) -> tuple[list[int], Transient | None]:
    """Send messages again, all at once; the ids of those the broker took, and the first problem with another."""
    outcomes = await asyncio.gather(*(_publish(publisher, message) for message in messages), return_exceptions=True)
    taken: list[int] = []
    problem: Transient | None = None
    for message, outcome in zip(messages, outcomes, strict=True):
        if outcome is None:
            taken.append(message.id)
        elif not isinstance(outcome, Transient):
            raise outcome
        elif problem is None:
            problem = outcome
    return taken, problem


async def _publish(publisher: Publishes, message: Kept) -> None:
    properties = [(REPLAYED, "1"), (RECEIVED_MS, str(message.received_ms))]
    try:
        await publisher.publish(message.topic, message.payload, user_properties=properties)
    except NotStored as error:
        raise Transient(f"{error}: is ingest running? (`outrider doctor`)") from error
