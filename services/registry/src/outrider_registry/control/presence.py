"""Presence: what devices say of themselves, corrected where the broker says nothing.

A status is retained, so it comes again at every subscription: what is known already changes nothing. Corrections are
published as retained statuses too, with `"by": "registry"`, so that everybody who reads the topic sees the truth.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from outrider.contract import topics
from outrider.contract.payloads import Status
from outrider.runtime import rejects
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider_registry.context import Registry
from outrider_registry.control import retained
from outrider_registry.control.admission import GROUP, admit
from outrider_registry.control.message import Message
from outrider_registry.errors import Invalid
from outrider_registry.leader import Changes, Duty
from outrider_registry.store import presence as store
from outrider_registry.store import shadows
from outrider_registry.store.presence import Change, Presence
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

DATA_MARGIN_S = 5.0
"""Data counts against a status that says offline when it is newer by so much: some may have been on its way."""
EVENTS_KEPT_DAYS = 90
BY = "registry"
BROKER_UPTIME = "$SYS/broker/uptime"
_EVERY_S = 5.0
_LABEL = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,62}")
"""What can be chosen by: a tier of another form is kept with the presence only."""
_WORD_MAX_CHARS = 64


async def on_status(registry: Registry, messages: Sequence[Message]) -> None:
    """Take what devices say into their presence: state, boots, firmware. Set-based, so that a fleet may come at once."""
    ours = [message for message in messages if _is_ours(message)]
    theirs = [message for message in messages if message.payload and not _is_ours(message)]
    async with of_platform(registry.database) as connection:
        admitted, refused = await admit(connection, theirs, Status)
        await rejects.keep(connection, GROUP, refused)
        known = await store.lock(connection, [m.values["device"] for m in [*(m for m, _ in admitted), *ours]])
        versions = {device: (p.device_firmware, p.device_tier) for device, p in known.items()}
        changes: list[Change] = []
        said: dict[str, Presence] = {}
        for message, status in admitted:
            presence = known.get(message.values["device"])
            if presence is not None and _take(presence, message, status, changes):
                said[presence.device] = presence
        changed = await store.change(connection, changes)
        await store.store(connection, list(said.values()))
        renewed = {d: p for d, p in said.items() if (p.device_firmware, p.device_tier) != versions[d]}
        await store.store_versions(connection, [(d, p.device_firmware, p.device_tier) for d, p in renewed.items()])
        if tiers := [device for device, p in renewed.items() if p.device_tier != versions[device][1]]:
            await _recompute(connection, tiers)
    wrong = [change for change in changed if change.device not in said]  # children went with their gateway
    wrong += [_correction(p) for m in ours if (p := known.get(m.values["device"])) and _contradicts(m, p)]
    # What was retained and is refused would be refused again at every subscription.
    clear = {m.delivery.topic for m in theirs if m.delivery.retained} & {r.topic for r in refused}
    try:
        await publish(registry, wrong)
        await asyncio.gather(*(retained.put(registry, topic, b"") for topic in clear))
    except Transient as error:  # compared again at the next connection to the broker
        log.warning("status_not_corrected", extra={"reason": str(error)})


def _take(presence: Presence, message: Message, status: Status, changes: list[Change]) -> bool:
    """Fold a status into a device's presence; False for a retained one that is known."""
    digest = hashlib.sha256(message.payload).digest()[:16]
    if message.delivery.retained and digest == presence.digest:
        return False
    at = datetime.fromtimestamp(message.received_ms / 1000, UTC)
    reason = _word(status.reason)
    if status.state != presence.state:
        changes.append(Change(presence.device, presence.tenant, status.state, reason, at))
        presence.state, presence.since = status.state, at
    presence.reason, presence.digest = reason, digest
    if not message.delivery.retained:  # a broker that was killed may bring an older one back
        presence.status_at = at
    if status.boot is not None and status.state == "online":
        presence.booted(status.boot)
    # Its row follows what it says when that changes; what a person wrote there meanwhile stays until then.
    if (firmware := _word(status.fw)) and firmware != presence.firmware:
        presence.firmware = presence.device_firmware = firmware
    if (tier := _word(status.tier)) and tier != presence.tier:
        presence.tier = tier
        if _LABEL.fullmatch(tier):
            presence.device_tier = tier
    return True


async def mark_offline(
    registry: Registry, devices: Sequence[str], reason: str, kicked_at: datetime | None = None
) -> None:
    """These were disconnected by the broker, which sends no will then: note it, and correct their retained statuses.

    With `kicked_at` they may come back: only those that were online are marked, and none that said something later.
    Without, all are. Raises Transient.
    """
    now = datetime.now(UTC)
    async with of_platform(registry.database) as connection:
        known = await store.lock(connection, devices)
        changes = [
            Change(presence.device, presence.tenant, "offline", reason, now)
            for presence in known.values()
            if presence.state != "offline" and (kicked_at is None or _stayed_away(presence, kicked_at))
        ]
        changed = await store.change(connection, changes)
    await publish(registry, changed)


def _stayed_away(presence: Presence, kicked_at: datetime) -> bool:
    return presence.state == "online" and not (presence.status_at is not None and presence.status_at > kicked_at)


def duties(registry: Registry) -> list[Duty]:
    """Correct what devices cannot say themselves."""
    broker = _BrokerStart()

    async def correct(changes: Changes) -> None:
        while True:
            await changes.take(_EVERY_S, settle_s=0.5)
            await correct_states(registry, broker.at)

    async def watch(_: Changes) -> None:
        await broker.watch(registry)

    return [("presence", ("device", "tenant"), correct), ("broker-start", (), watch)]


async def correct_states(registry: Registry, broker_started: datetime | None) -> int:
    """Compare states with what is known otherwise: data that came, silence, disabled devices; how many were wrong."""
    silence_s = registry.settings.presence_silence_s
    now = datetime.now(UTC)
    async with of_platform(registry.database) as connection:
        wrong = await store.disabled(connection, now)
        wrong += await store.heard(connection, silence_s, DATA_MARGIN_S)
        wrong += await store.silent(connection, silence_s, broker_started, now)
        changed = await store.change(connection, list({change.device: change for change in reversed(wrong)}.values()))
        await store.forget_events(connection, EVENTS_KEPT_DAYS)
    await publish(registry, changed)
    return len(changed)


async def compare(connection: psycopg.AsyncConnection, found: Mapping[str, bytes]) -> tuple[list[Change], list[str]]:
    """Corrections of retained statuses (payloads by topic) that are wrong or missing, and the topics of no device."""
    now = datetime.now(UTC)
    known = await store.known(connection)
    devices = await store.all_devices(connection)
    foreign: list[str] = []
    said: dict[tuple[str, str], str | None] = {}
    for topic, payload in found.items():
        values = topics.STATUS.parse(topic)
        if values is None:
            continue
        if (values["tenant"], values["device"]) in devices:
            said[values["tenant"], values["device"]] = _document(payload).get("state")
        else:
            foreign.append(topic)
    wrong = [
        Change(device, tenant, state, reason, now)
        for (tenant, device), (state, reason) in known.items()
        # A missing one that says online comes from the device itself, when it connects.
        if said.get((tenant, device), None if state == "offline" else state) != state
    ]
    return wrong, foreign


async def publish(registry: Registry, changes: Iterable[Change]) -> None:
    """Put these states into the retained statuses. Raises Transient."""
    await asyncio.gather(
        *(
            retained.put(
                registry,
                topics.STATUS.name(tenant=change.tenant, device=change.device),
                json.dumps(
                    {
                        "state": change.state,
                        "ts": int(change.at.timestamp() * 1000),
                        "reason": change.reason,
                        "by": BY,
                    },
                    separators=(",", ":"),
                ).encode(),
            )
            for change in changes
        )
    )


class _BrokerStart:
    """When the broker was started, from its own `$SYS/broker/uptime`."""

    def __init__(self) -> None:
        self.at: datetime | None = None

    async def watch(self, registry: Registry) -> None:
        """Keep `at` right while connected. Raises Transient when the connection ends."""
        connection = await Connection.open(
            registry.settings.broker_url,
            f"svc:registry:uptime:{secrets.token_hex(4)}",
            self._on_uptime,
            clean_start=True,
            session_expiry_s=0,
            receive_maximum=10,
        )
        try:
            await connection.subscribe([BROKER_UPTIME], qos=0)
            await connection.closed.wait()
            raise connection.reason
        finally:
            await connection.close(end_session=True)

    def _on_uptime(self, delivery: Delivery) -> None:
        number, _, unit = delivery.payload.decode(errors="replace").partition(" ")
        # The retained one says how long it was when it was published, which is some seconds ago.
        if not delivery.retained and unit == "seconds" and number.isdecimal():
            received = datetime.fromtimestamp(delivery.received_ms / 1000, UTC)
            self.at = received - timedelta(seconds=int(number) + 1)


def _is_ours(message: Message) -> bool:
    return b'"by"' in message.payload and _document(message.payload).get("by") == BY


def _contradicts(message: Message, presence: Presence) -> bool:
    """What this service said last of a device crossed with something the device said: the broker retains the wrong one."""
    said = _document(message.payload).get("state")
    return message.values["tenant"] == presence.tenant and presence.state != "unknown" and said != presence.state


def _correction(presence: Presence) -> Change:
    return Change(presence.device, presence.tenant, presence.state, presence.reason, presence.since)


async def _recompute(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> None:
    try:
        await shadows.recompute(connection, devices)
    except Invalid as error:  # a person's to mend: the state stays as it was
        log.error("desired_too_large", extra={"reason": str(error)})


def _document(payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _word(text: str | None) -> str:
    """A device's word as it can be stored and shown."""
    cleaned = "".join(char for char in text or "" if char.isprintable())
    return cleaned.encode("utf-8", "ignore").decode()[:_WORD_MAX_CHARS]
