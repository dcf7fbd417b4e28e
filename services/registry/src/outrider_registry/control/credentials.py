"""Rotation of secrets: successors go out to devices that are connected, and become valid when they are confirmed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from outrider.access.keys import UnknownKey
from outrider.contract import payloads, topics
from outrider.contract.reasons import Reason
from outrider.runtime import rejects
from outrider_registry.context import Registry
from outrider_registry.control import admission, revocations
from outrider_registry.control.message import Message
from outrider_registry.leader import EVERYTHING, Changes, Duty
from outrider_registry.store import audit, credentials
from outrider_registry.store.credentials import Secret
from outrider_registry.store.transactions import of_platform

log = logging.getLogger(__name__)

AGAIN_S = 180.0
"""A device that does not confirm is sent its new secret again so often."""
LOOK_S = 5.0
BATCH = 200
ROTATE_INTERVAL_S = 60.0
ROTATE_BATCH = 50
"""A fleet that was imported in an hour is not rotated in one: 10,000 devices take three."""
EXPIRE_AFTER_S = 3600.0
"""A registry that was away longer than a grace first gives devices so long to come and take their new secrets."""
DIGEST_CHARS = 16


async def on_confirm(registry: Registry, messages: Sequence[Message]) -> None:
    """The newest generation that a device confirms becomes its secret; anything else it confirms changes nothing.

    A confirmation with the digest of another secret is kept as rejected, and the secret goes out again.
    """
    # Crosses tenants: a batch holds messages of all.
    async with of_platform(registry.database) as connection:
        locked = {device.id: device for device in await credentials.lock_all(connection, _devices(messages))}
        admitted, refused = await admission.admit(connection, messages, payloads.CredentialConfirm)
        delivered = {
            c.device: c
            for c in await credentials.current(connection, list(locked))
            if c.state == "delivered" and c.kind == "secret"
        }
        confirmed: dict[str, int] = {}
        for message, confirm in admitted:
            device = message.values["device"]
            waiting = delivered.get(device)
            if waiting is None or waiting.generation != confirm.generation:
                continue
            if confirm.digest is not None and confirm.digest != waiting.verifier.hex()[:DIGEST_CHARS]:
                detail = f"generation {confirm.generation}: the digest of another secret; it is sent again"
                refused.append(admission.rejection(message, Reason.BAD_VALUE, detail))
                continue
            confirmed[device] = confirm.generation
        if refused:
            await rejects.keep(connection, admission.GROUP, refused)
        for device, generation in await credentials.confirm(connection, confirmed) if confirmed else ():
            noted = {"generation": generation}
            actor = object_ = f"device:{device}"
            await audit.append(connection, locked[device].tenant, actor, "credential.confirm", object_, noted)


def _devices(messages: Sequence[Message]) -> list[str]:
    return [message.values["device"] for message in messages]


def duties(registry: Registry) -> list[Duty]:
    """What the leader does about secrets and certificates."""
    began_s = time.monotonic()
    return [
        ("credential delivery", ("device", "presence"), lambda changes: _deliver(registry, changes)),
        ("credential rotation", (), lambda changes: _rotate(registry, changes, began_s)),
        ("credential use", ("presence",), lambda changes: _note_use(registry, changes)),
        *revocations.duties(registry),
    ]


async def _deliver(registry: Registry, changes: Changes) -> None:
    while True:
        changed = await changes.take(LOOK_S, settle_s=0.1)
        connected = [id_ for kind, _, id_ in (change.partition(":") for change in changed) if kind == "presence"]
        while await _deliver_some(registry, connected) == BATCH:
            connected = []


async def _deliver_some(registry: Registry, connected: Sequence[str]) -> int:
    # Crosses tenants: the broker serves them all.
    async with of_platform(registry.database) as connection:
        due = await credentials.to_deliver(connection, connected, AGAIN_S, BATCH)
    if not due:
        return 0
    # Noted whether somebody listened or not: who connects later is a change of presence, or waits for the next round.
    await asyncio.gather(*(_send(registry, tenant, secret) for tenant, secret in due))
    async with of_platform(registry.database) as connection:
        await credentials.note_delivered(connection, [secret for _, secret in due])
    return len(due)


async def _send(registry: Registry, tenant: str, secret: Secret) -> None:
    topic = topics.CREDENTIAL.name(tenant=tenant, device=secret.device)
    try:
        payload = payloads.Credential(generation=secret.generation, secret=secret.of(registry.keys))
        # QoS 0: with QoS 1 the broker keeps it in its file, for as long as the device is away. It goes out again anyway.
        await registry.publisher.publish(topic, payload.model_dump_json(exclude_none=True).encode(), qos=0)
        log.info("credential_sent", extra={"device": secret.device, "tenant": tenant, "generation": secret.generation})
    except UnknownKey as error:
        log.error("credential_not_sent", extra={"device": secret.device, "tenant": tenant, "reason": str(error)})


async def _rotate(registry: Registry, changes: Changes, began_s: float) -> None:
    settings = registry.settings
    while True:
        await changes.take(ROTATE_INTERVAL_S)
        # Crosses tenants: secrets grow old in all of them.
        async with of_platform(registry.database) as connection:
            rotated = await credentials.rotate_due(
                connection,
                registry.keys,
                settings.credential_rotation_days,
                settings.credential_grace_days,
                ROTATE_BATCH,
            )
            tenants = await credentials.tenants_of(connection, [secret.device for secret in rotated])
            for secret in rotated:
                await audit.append(
                    connection,
                    tenants[secret.device],
                    "registry",
                    "credential.rotate",
                    f"device:{secret.device}",
                    {"generation": secret.generation},
                )
        if time.monotonic() - began_s < EXPIRE_AFTER_S:
            continue
        async with of_platform(registry.database) as connection:
            for device, tenant, generation in await credentials.expire(connection, BATCH):
                await audit.append(
                    connection, tenant, "registry", "credential.expire", f"device:{device}", {"generation": generation}
                )


async def _note_use(registry: Registry, changes: Changes) -> None:
    while True:
        changed = await changes.take(600.0, settle_s=2.0)
        if not changed:
            continue
        devices = None if EVERYTHING in changed else [change.partition(":")[2] for change in changed]
        # Crosses tenants, and goes over all that changed in one statement.
        async with of_platform(registry.database) as connection:
            await credentials.note_use(connection, devices)
