"""The control plane: what devices say to the registry, and what the leader does about devices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from outrider.contract import topics
from outrider.contract.reasons import Reason
from outrider.runtime.errors import Rejected
from outrider.runtime.mqtt import Delivery
from outrider_registry.context import Registry
from outrider_registry.control import claims, commands, credentials, presence, shadow
from outrider_registry.control.message import Message
from outrider_registry.leader import Duty

Handler = Callable[[Registry, Sequence[Message]], Awaitable[None]]
"""Returns when all of it is stored; raises Rejected for what never can be, Transient for what may be later."""

HANDLERS: Sequence[tuple[Any, Handler]] = (
    (topics.STATUS, presence.on_status),
    (topics.SHADOW_REPORTED, shadow.on_reported),
    (topics.COMMAND_RESPONSE, commands.on_response),
    (topics.CREDENTIAL_CONFIRM, credentials.on_confirm),
    (topics.CLAIM, claims.on_claim),
)
FILTERS = tuple(topic.filter() for topic, _ in HANDLERS)
"""What the registry's slot subscribes to."""


async def handle(registry: Registry, deliveries: Sequence[Delivery]) -> None:
    """Give each message to its handler, those of one kind together; what is done is marked so that a retry leaves it out."""
    todo: dict[Handler, list[Message]] = {}
    for delivery in deliveries:
        if delivery.done:  # the batch is divided because of another one
            continue
        for topic, handler in HANDLERS:
            values = topic.parse(delivery.topic)
            if values is not None:
                todo.setdefault(handler, []).append(Message(values, delivery))
                break
        else:
            raise Rejected(Reason.BAD_NAME, "the registry handles no such topic")
    for handler, messages in todo.items():
        await handler(registry, messages)
        for message in messages:
            message.delivery.done = True


def duties(registry: Registry) -> list[Duty]:
    """What the leader does for devices."""
    return [
        *presence.duties(registry),
        *shadow.duties(registry),
        *commands.duties(registry),
        *credentials.duties(registry),
        *claims.duties(registry),
    ]
