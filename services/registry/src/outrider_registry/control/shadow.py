"""Shadow: what devices report, and the desired state that the broker retains for each of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from outrider.contract import topics
from outrider.contract.payloads import ShadowReported
from outrider.contract.reasons import Reason
from outrider.runtime import rejects
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection
from outrider_registry import merge
from outrider_registry.context import Registry
from outrider_registry.control import presence, retained
from outrider_registry.control.admission import GROUP, admit, rejection
from outrider_registry.control.message import Message
from outrider_registry.leader import EVERYTHING, Changes, Duty
from outrider_registry.store import shadows
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

PUBLISH_AT_ONCE = 500
PUBLISH_WITHIN_S = 3.0
"""States read longer ago may be old by now: this process stood still, and another one leads."""
REMOVED_AT_ONCE = 50
"""Of so many removed devices the retained topics are looked up one by one; of more, all topics are read."""
_POLL_S = 5.0


async def on_reported(registry: Registry, messages: Sequence[Message]) -> None:
    """Store what devices report. A merge patch; older versions overwrite nothing, whatever the order of arrival."""
    async with of_platform(registry.database) as connection:
        admitted, refused = await admit(connection, messages, ShadowReported)
        reports: list[tuple[Message, shadows.Report]] = []
        for message, payload in admitted:
            try:
                merge.check_json(payload.state, "state", patch=True)
            except merge.NotAllowed as error:
                refused.append(rejection(message, Reason.BAD_VALUE, str(error)))
                continue
            report = shadows.Report(message.values["device"], payload.version, payload.state, message.received_ms)
            reports.append((message, report))
        if reports:
            impossible = await shadows.take_reports(connection, [report for _, report in reports])
            refused += [rejection(reports[i][0], Reason.BAD_VALUE, why) for i, why in impossible.items()]
        await rejects.keep(connection, GROUP, refused)


def duties(registry: Registry) -> list[Duty]:
    """Publish what is desired, and keep the broker's retained messages equal to it."""

    async def publish(changes: Changes) -> None:
        while True:
            await changes.take(_POLL_S)
            while await publish_desired(registry):
                pass

    async def keep(changes: Changes) -> None:
        await keep_retained(registry, changes)

    return [("shadow", ("shadow",), publish), ("retained", ("device",), keep)]


async def publish_desired(registry: Registry) -> int:
    """Publish what the broker has not acknowledged yet, the newest version only; how many. Raises Transient."""
    began_s = time.monotonic()
    async with of_platform(registry.database) as connection:
        states = await shadows.unpublished(connection, PUBLISH_AT_ONCE)
    if not states:
        return 0

    async def put(state: shadows.Desired) -> None:
        if time.monotonic() - began_s > PUBLISH_WITHIN_S:
            raise Transient(f"it took longer than {PUBLISH_WITHIN_S:g} s to begin publishing desired states")
        await retained.put(registry, state.topic, state.payload)

    results = await asyncio.gather(*map(put, states), return_exceptions=True)
    async with of_platform(registry.database) as connection:
        done = [state for state, result in zip(states, results, strict=True) if result is None]
        await shadows.published(connection, done)
    for result in results:
        if result is not None:
            raise result
    log.info("desired_published", extra={"devices": len(states)})
    return len(states)


async def keep_retained(registry: Registry, changes: Changes) -> None:
    """Compare what is retained with what should be at every connection to the broker, and clear what removed devices leave."""
    while True:
        connection = await compare_retained(registry, None)
        try:
            while not connection.closed.is_set():
                names = {change.partition(":")[2] for change in await changes.take(1.0) if change != EVERYTHING}
                if names and (gone := await _gone(registry, names)):
                    if len(gone) > REMOVED_AT_ONCE:
                        break
                    await (await compare_retained(registry, gone)).close(end_session=True)
        finally:
            await connection.close(end_session=True)


async def compare_retained(registry: Registry, removed: Sequence[str] | None) -> Connection:
    """Make the broker's retained messages agree; of all devices, or clear those of removed ones. Raises Transient.

    Returns the connection that was used, still open.
    """
    desired, status = topics.SHADOW_DESIRED, topics.STATUS
    filters = [desired.filter(), status.filter()]
    if removed is not None:
        filters = [topic.filter(device=device) for device in removed for topic in (desired, status)]
    client_id = "svc:registry:retained" if removed is None else "svc:registry:removed"
    found, connection = await retained.read(registry.settings.broker_url, client_id, filters)
    try:
        if removed is None:
            async with of_platform(registry.database) as transaction:
                again, foreign = await shadows.compare(
                    transaction, {topic: payload for topic, payload in found.items() if desired.parse(topic)}
                )
                states = {topic: payload for topic, payload in found.items() if status.parse(topic)}
                corrections, unknown = await presence.compare(transaction, states)
                foreign += unknown
        else:
            again, foreign, corrections = 0, list(found), []
        for topic in foreign:
            await retained.put(registry, topic, b"")
        await presence.publish(registry, corrections)
        if again or foreign or corrections:
            log.warning(
                "retained_mended",
                extra={"published_again": again, "states": len(corrections), "removed": len(foreign)},
            )
    except BaseException:
        await connection.close(end_session=True)
        raise
    return connection


async def _gone(registry: Registry, names: set[str]) -> list[str]:
    async with of_platform(registry.database) as connection:
        rows = await (await connection.execute(shadows.EXISTING, (list(names),))).fetchall()
    there = {device for (device,) in rows}
    return sorted(name for name in names - there if topics.is_name(name))
