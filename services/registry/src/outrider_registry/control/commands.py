"""Commands: sent while their device is online, until it answers or they end; a device carries one out at most once.

Sending is one transaction: no stop stands, it is published, it is marked. A crash in between sends it again, and the
device knows its id. An emergency stop waits for such a transaction, so nothing goes out after it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from outrider.contract import topics
from outrider.contract.payloads import CommandResponse
from outrider.contract.reasons import Reason
from outrider.runtime import rejects
from outrider.runtime.errors import NotStored, Rejected, Transient
from outrider.runtime.packets import Request
from outrider_registry import merge
from outrider_registry.context import Registry
from outrider_registry.control.admission import GROUP, admit, rejection
from outrider_registry.control.message import Message
from outrider_registry.leader import Changes, Duty
from outrider_registry.store import audit, stops
from outrider_registry.store import commands as store
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

SEND_AT_ONCE = 100
SEND_TIMEOUT_S = 3.0
"""A broker that does not answer holds an emergency stop up for no longer."""
IN_BROKER_MAX_S = 10
"""The broker drops a command it could not hand on for so long: a stop cannot take it back from there. It is sent again."""
RETRY_UNHEARD_S = 5.0
"""A device that is online and not subscribed (yet) is tried again."""
RETRY_UNANSWERED_S = 60.0
ANSWER_GRACE_S = 5.0
"""An answer may be on its way when a command expires."""
_POLL_S = 1.0


async def on_response(registry: Registry, messages: Sequence[Message]) -> None:
    """Take devices' answers in: in any order, any number of times, each only from the device that was asked."""
    async with of_platform(registry.database) as connection:
        admitted, refused = await admit(connection, messages, CommandResponse)
        ids = [_uuid(response.id) for _, response in admitted]
        known = await store.lock(connection, [id_ for id_ in ids if id_])
        changed: dict[UUID, store.Known] = {}
        ended: dict[UUID, store.Known] = {}
        for id_, (message, response) in zip(ids, admitted, strict=True):
            try:
                command = _asked(message, known.get(id_) if id_ else None, response)
            except Rejected as error:
                refused.append(rejection(message, error.reason, error.detail))
                continue
            before = command.state
            if command.answer(
                response.status, response.result, datetime.fromtimestamp(message.received_ms / 1000, UTC)
            ):
                changed[command.id] = command
            if command.state in store.FINAL and before not in store.FINAL:
                ended[command.id] = command
        await store.answered(connection, list(changed.values()))
        await rejects.keep(connection, GROUP, refused)
        for command in ended.values():
            await _note_end(
                connection, command.tenant, f"device:{command.device}", command.id, command.name, command.state
            )


def duties(registry: Registry) -> list[Duty]:
    """Send what is due, and end what nobody answers."""

    async def work(changes: Changes) -> None:
        while True:
            await changes.take(_POLL_S, settle_s=0.05)
            await end_overdue(registry)
            while await send_due(registry) == SEND_AT_ONCE:
                pass

    return [("commands", ("command", "presence", "stop", "device"), work)]


async def send_due(registry: Registry) -> int:
    """Publish commands whose devices are online, unless a stop stands; how many were tried. Raises Transient."""
    problem: BaseException | None = None
    began_s = time.monotonic()
    async with of_platform(registry.database) as connection:
        await stops.sending(connection)
        due = await store.due(connection, SEND_AT_ONCE, RETRY_UNHEARD_S, RETRY_UNANSWERED_S)
        if not due:
            return 0
        results = await asyncio.gather(*(_send(registry, command, began_s) for command in due), return_exceptions=True)
        tried, taken = [], []
        for command, result in zip(due, results, strict=True):
            if result is None:
                taken.append(command.id)
            if result is None or isinstance(result, NotStored):
                tried.append(command.id)
            else:
                problem = result
        await store.sent(connection, tried, taken)
    log.info("commands_sent", extra={"tried": len(tried), "taken": len(taken)})
    if problem is not None:
        raise problem
    return len(due)


async def end_overdue(registry: Registry) -> int:
    """End commands that expired before they were sent, or were not answered or finished in time."""
    async with of_platform(registry.database) as connection:
        ended = await store.end(connection, ANSWER_GRACE_S)
        for row in ended:
            await _note_end(connection, row["tenant"], "registry", row["id"], row["name"], row["state"])
    return len(ended)


async def _send(registry: Registry, command: store.Due, began_s: float) -> None:
    if time.monotonic() - began_s > SEND_TIMEOUT_S:
        # This process stood still. Another may have ended its transaction, and a stop may stand by now.
        raise Transient(f"it took longer than {SEND_TIMEOUT_S:g} s to begin sending commands")
    names = {"tenant": command.tenant, "device": command.device, "name": command.name}
    left_s = (command.expires_at - datetime.now(UTC)).total_seconds()
    document = {
        "id": str(command.id),
        "params": command.params,
        "expires_ms": int(command.expires_at.timestamp() * 1000),
    }
    request = Request(
        response_topic=topics.COMMAND_RESPONSE.name(**names),
        correlation_data=command.id.bytes,
        expiry_s=max(1, min(IN_BROKER_MAX_S, math.ceil(left_s))),
    )
    payload = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await registry.publisher.publish(topics.COMMAND.name(**names), payload, request=request)
    except TimeoutError as error:
        raise Transient(f"the broker did not take a command within {SEND_TIMEOUT_S:g} s") from error


def _asked(message: Message, command: store.Known | None, response: CommandResponse) -> store.Known:
    """The command this answers. Raises Rejected."""
    if command is None or command.device != message.values["device"]:
        # One of another device looks like none: nobody learns of others' commands.
        raise Rejected(Reason.BAD_VALUE, f"no command {response.id} was sent to this device")
    if command.name != message.values["name"]:
        raise Rejected(Reason.BAD_VALUE, f"command {response.id} is {command.name}, not {message.values['name']}")
    try:
        merge.check_json(response.result, "result", patch=True)
    except merge.NotAllowed as error:
        raise Rejected(Reason.BAD_VALUE, str(error)) from None
    return command


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


async def _note_end(
    connection: psycopg.AsyncConnection, tenant: str, actor: str, id_: UUID, name: str, state: str
) -> None:
    await audit.append(connection, tenant, actor, "command.finish", f"command:{id_}", {"name": name, "state": state})
