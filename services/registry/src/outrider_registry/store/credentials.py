"""Credentials of devices: secrets by generation, two-phase rotation, revocation.

At most one secret of a device is `active`: the broker takes it. A successor is `delivered` until the device confirms it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row, dict_row

from outrider.access.keys import KeyRing, verifier
from outrider.access.secrets import device_secret
from outrider_registry.errors import Conflict, NotFound

Kind = Literal["secret", "certificate"]

# Every change of a device's credentials holds this lock, taken in the order of ids: two of them never cross.
LOCK = """
SELECT d.id, d.tenant, d.status, d.gateway FROM registry.device d WHERE d.id = ANY(%s) ORDER BY d.id FOR NO KEY UPDATE
"""
LIST = """
SELECT generation, kind, state, key_id, serial, issued_at, rotates_at, grace_until, delivered_at, confirmed_at, last_used_at,
       expires_at
FROM registry.credential WHERE device = %s ORDER BY generation DESC
"""
CURRENT = """
SELECT device, generation, kind, state, key_id, verifier, serial, expires_at FROM registry.credential
WHERE device = ANY(%s) AND state IN ('active', 'delivered') ORDER BY generation
"""
NEXT = "SELECT id, registry.next_generation(id) FROM unnest(%s::text[]) AS id"
INSERT = """
INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at)
SELECT device, generation, tenant, 'secret', %(state)s, %(key_id)s, verifier, now() + %(age)s
FROM unnest(%(devices)s::text[], %(generations)s::integer[], %(tenants)s::text[], %(verifiers)s::bytea[])
     AS new (device, generation, tenant, verifier)
"""
WITHOUT_SECRET = """
SELECT d.id FROM registry.device d WHERE d.id = ANY(%s) AND d.gateway IS NULL
  AND NOT EXISTS (SELECT FROM registry.credential c
                  WHERE c.device = d.id AND c.kind = 'secret' AND c.state IN ('active', 'delivered'))
"""
SET_STATE = "UPDATE registry.credential SET state = %s, grace_until = NULL WHERE device = %s AND generation = ANY(%s)"
SET_GRACE = """
UPDATE registry.credential SET grace_until = now() + %s WHERE device = ANY(%s) AND kind = 'secret' AND state = 'active'
"""
CLEAR_GRACE = (
    "UPDATE registry.credential SET grace_until = NULL WHERE device = %s AND kind = 'secret' AND state = 'active'"
)
REPLACE = """
UPDATE registry.credential c SET state = 'replaced', grace_until = NULL
FROM unnest(%s::text[], %s::integer[]) AS confirmed (device, generation)
WHERE c.device = confirmed.device AND c.generation < confirmed.generation AND c.kind = 'secret' AND c.state = 'active'
"""
ACTIVATE = """
UPDATE registry.credential c SET state = 'active', confirmed_at = now()
FROM unnest(%s::text[], %s::integer[]) AS confirmed (device, generation)
WHERE c.device = confirmed.device AND c.generation = confirmed.generation
"""
# Children of gateways have no connection of their own, so nobody could take their secret to them.
DUE_FOR_ROTATION = """
SELECT c.device FROM registry.credential c JOIN registry.device d ON d.id = c.device JOIN registry.tenant t ON t.name = d.tenant
WHERE c.state = 'active' AND c.kind = 'secret' AND c.rotates_at <= now()
  AND d.status = 'active' AND d.gateway IS NULL AND t.disabled_at IS NULL
  AND NOT EXISTS (SELECT FROM registry.credential n WHERE n.device = c.device AND n.kind = 'secret' AND n.state = 'delivered')
ORDER BY c.rotates_at LIMIT %s
"""
FRESH = timedelta(minutes=2)
SOON = timedelta(seconds=5)
# Whoever is not known to be away is sent it: a device that never tells its status is away for all we know, or not.
TO_DELIVER = """
SELECT c.device, c.tenant, c.generation, c.key_id
FROM registry.credential c JOIN registry.device d ON d.id = c.device JOIN registry.tenant t ON t.name = d.tenant
LEFT JOIN registry.presence p ON p.device = c.device
WHERE c.state = 'delivered' AND c.kind = 'secret' AND d.status = 'active' AND d.gateway IS NULL AND t.disabled_at IS NULL
  AND coalesce(p.state, 'unknown') <> 'offline'
  AND (c.delivered_at IS NULL OR c.delivered_at < now() - %(again)s OR c.device = ANY(%(connected)s)
       OR c.issued_at > now() - %(fresh)s AND c.delivered_at < now() - %(soon)s)
ORDER BY c.delivered_at NULLS FIRST LIMIT %(limit)s
"""
DELIVERED = """
UPDATE registry.credential c SET delivered_at = now() FROM unnest(%s::text[], %s::integer[]) AS sent (device, generation)
WHERE c.device = sent.device AND c.generation = sent.generation
"""
OVERDUE = """
SELECT DISTINCT device FROM registry.credential
WHERE state = 'active' AND kind = 'secret' AND grace_until <= now() LIMIT %s
"""
EXPIRE = """
UPDATE registry.credential c SET state = 'expired'
WHERE c.device = ANY(%(devices)s) AND c.kind = 'secret' AND c.state IN ('active', 'delivered')
  AND EXISTS (SELECT FROM registry.credential old WHERE old.device = c.device AND old.kind = 'secret' AND old.state = 'active'
              AND old.grace_until <= now())
RETURNING c.device, c.tenant, c.generation
"""
EXPIRE_CERTIFICATES = """
UPDATE registry.credential SET state = 'expired' WHERE kind = 'certificate' AND state = 'active' AND expires_at <= now()
RETURNING device, tenant, generation
"""
USED = """
UPDATE registry.credential c SET last_used_at = p.since FROM registry.presence p
WHERE p.device = c.device AND p.state = 'online' AND c.state = 'active'
  AND p.since >= coalesce(c.confirmed_at, c.issued_at) AND (c.last_used_at IS NULL OR c.last_used_at < p.since)
  AND (%(everything)s OR c.device = ANY(%(devices)s))
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose row is locked."""

    id: str
    tenant: str
    status: str
    gateway: str | None


@dataclass(frozen=True, slots=True)
class Current:
    """A credential that is `active` or `delivered`."""

    device: str
    generation: int
    kind: Kind
    state: Literal["active", "delivered"]
    key_id: str
    verifier: bytes
    serial: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Secret:
    """A generation of a device's secret; the secret itself is derived by `of`."""

    device: str
    generation: int
    key_id: str
    state: Literal["active", "delivered"]

    def of(self, keys: KeyRing) -> str:
        """The MQTT password. Raises UnknownKey."""
        return device_secret(keys, self.device, self.generation, self.key_id)


async def list_of(connection: psycopg.AsyncConnection, device: str) -> list[dict[str, Any]]:
    """Every credential a device has or had, the newest first. Raises NotFound."""
    if await (await connection.execute("SELECT 1 FROM registry.device WHERE id = %s", (device,))).fetchone() is None:
        raise _no_device(device)
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(LIST, (device,))).fetchall()


async def lock(connection: psycopg.AsyncConnection, device: str) -> Device:
    """The device, which may have credentials: locked until the transaction ends. Raises NotFound, Conflict (see `may_have`)."""
    found = await lock_all(connection, [device])
    if not found:
        raise _no_device(device)
    may_have(found[0])
    return found[0]


async def lock_all(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> list[Device]:
    """Those of the devices that exist, locked until the transaction ends."""
    async with connection.cursor(row_factory=class_row(Device)) as cursor:
        return await (await cursor.execute(LOCK, (sorted(set(devices)),))).fetchall()


def may_have(device: Device) -> None:
    """Raises Conflict for a device that cannot get a credential now, saying what to do."""
    if device.gateway is not None:
        raise Conflict(
            f"{device.id} is behind the gateway {device.gateway}, which speaks for it: it has no connection, so it needs no "
            f"credential. Rotate the one of {device.gateway}, or take {device.id} from its gateway first."
        )
    if device.status == "disabled":
        raise Conflict(f"{device.id} is disabled. Enable it first.")
    if device.status == "pending":
        raise Conflict(f"{device.id} waits for approval. Approve its claim first.")


async def issue(connection: psycopg.AsyncConnection, keys: KeyRing, device: str, rotation_days: float) -> Secret:
    """A first secret, valid at once. Raises NotFound, and Conflict where there is one already."""
    row = await lock(connection, device)
    if any(c.kind == "secret" for c in await current(connection, [device])):
        raise Conflict(f"{device} has a secret. Rotate it for a new one (`now` if the old one is lost).")
    return (await _add(connection, keys, [row], "active", rotation_days))[0]


async def issue_many(
    connection: psycopg.AsyncConnection, keys: KeyRing, devices: Sequence[str], rotation_days: float
) -> list[Secret]:
    """A first secret, valid at once, for each of these devices that has none and connects by itself; the rest is left out.

    Four statements whatever the number of devices: for imports.
    """
    locked = {row.id: row for row in await lock_all(connection, devices)}
    cursor = await connection.execute(WITHOUT_SECRET, (list(locked),))
    return await _add(connection, keys, [locked[id_] for (id_,) in await cursor.fetchall()], "active", rotation_days)


async def replace_now(
    connection: psycopg.AsyncConnection, keys: KeyRing, device: Device, rotation_days: float
) -> Secret:
    """A new secret in place of all earlier ones, valid at once. The device is locked by the caller."""
    earlier = [c.generation for c in await current(connection, [device.id]) if c.kind == "secret"]
    await connection.execute(SET_STATE, ("replaced", device.id, earlier))
    return (await _add(connection, keys, [device], "active", rotation_days))[0]


async def rotate(
    connection: psycopg.AsyncConnection, keys: KeyRing, device: str, rotation_days: float, grace_days: float
) -> Secret:
    """A successor that is sent to the device; the old secret works until it is confirmed, or for `grace_days`.

    While one is on its way already that one is returned, unless it is of an older master key. Raises NotFound, Conflict.
    """
    row = await lock(connection, device)
    found = {c.state: c for c in await current(connection, [device]) if c.kind == "secret"}
    if "active" not in found:
        raise Conflict(f"{device} has no secret to rotate. Issue one first.")
    on_its_way = found.get("delivered")
    if on_its_way is not None:
        if on_its_way.key_id == keys.newest:
            return Secret(device, on_its_way.generation, on_its_way.key_id, "delivered")
        await connection.execute(
            "UPDATE registry.credential SET state = 'replaced' WHERE device = %s AND generation = %s",
            (device, on_its_way.generation),
        )
    else:
        await connection.execute(SET_GRACE, (timedelta(days=grace_days), [device]))
    return (await _add(connection, keys, [row], "delivered", rotation_days))[0]


async def rotate_due(
    connection: psycopg.AsyncConnection, keys: KeyRing, rotation_days: float, grace_days: float, limit: int
) -> list[Secret]:
    """Successors for up to `limit` devices whose secret is old enough, the oldest first. In a transaction of the platform."""
    due = [device for (device,) in await (await connection.execute(DUE_FOR_ROTATION, (limit,))).fetchall()]
    if not due:
        return []
    rows = await lock_all(connection, due)
    # Looked at again under the lock: a person may have rotated, disabled or revoked it meanwhile.
    found = await current(connection, [row.id for row in rows])
    active = {c.device for c in found if c.kind == "secret" and c.state == "active"}
    delivered = {c.device for c in found if c.kind == "secret" and c.state == "delivered"}
    rows = [r for r in rows if r.status == "active" and r.gateway is None and r.id in active and r.id not in delivered]
    await connection.execute(SET_GRACE, (timedelta(days=grace_days), [row.id for row in rows]))
    return await _add(connection, keys, rows, "delivered", rotation_days)


async def confirm(connection: psycopg.AsyncConnection, generations: dict[str, int]) -> list[tuple[str, int]]:
    """Make these generations active, where they are what was delivered last; returns those. Devices are locked by the caller.

    A confirmation that comes twice, late, or for a generation that never was, changes nothing.
    """
    valid = [
        (c.device, c.generation)
        for c in await current(connection, list(generations))
        if c.kind == "secret" and c.state == "delivered" and generations[c.device] == c.generation
    ]
    columns = [device for device, _ in valid], [generation for _, generation in valid]
    await connection.execute(REPLACE, columns)
    await connection.execute(ACTIVATE, columns)
    return valid


async def revoke(connection: psycopg.AsyncConnection, device: str, generation: int | None) -> list[dict[str, Any]]:
    """Take a generation, or all, from a device at once, with the successors sent over it; returns {generation, kind} of each.

    Certificates that were renewed are revoked too while they have not expired. Raises NotFound, Conflict for what is no
    longer valid.
    """
    if not await lock_all(connection, [device]):
        raise _no_device(device)
    cursor = await connection.execute(
        """SELECT generation, kind, state, serial, expires_at, tenant FROM registry.credential WHERE device = %s AND
           (state IN ('active', 'delivered') OR kind = 'certificate' AND state = 'replaced' AND expires_at > now())
           ORDER BY generation""",
        (device,),
    )
    rows = await cursor.fetchall()
    chosen = [row for row in rows if generation is None or row[0] == generation]
    if generation is not None and not chosen:
        raise Conflict(f"Generation {generation} of {device} is not valid, so there is nothing to revoke.")
    if any(row[1] == "secret" and row[2] == "active" for row in chosen):
        # It went over the connection of the one that is revoked, and nobody can confirm it without.
        chosen += [row for row in rows if row[1] == "secret" and row[2] == "delivered" and row not in chosen]
    elif any(row[1] == "secret" for row in chosen):
        await connection.execute(CLEAR_GRACE, (device,))
    await connection.execute(SET_STATE, ("revoked", device, [row[0] for row in chosen]))
    for _, kind, _, serial, expires_at, tenant in chosen:
        if kind == "certificate":
            await connection.execute(
                """INSERT INTO registry.revoked_certificate (serial, tenant, device, expires_at)
                   VALUES (%s, %s, %s, %s) ON CONFLICT (serial) DO NOTHING""",
                (serial, tenant, device, expires_at),
            )
    return [{"generation": row[0], "kind": row[1]} for row in chosen]


async def current(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> list[Current]:
    """The credentials of these devices that are active or delivered."""
    async with connection.cursor(row_factory=class_row(Current)) as cursor:
        return await (await cursor.execute(CURRENT, (list(devices),))).fetchall()


async def to_deliver(
    connection: psycopg.AsyncConnection, connected: Sequence[str], again_s: float, limit: int
) -> list[tuple[str, Secret]]:
    """(tenant, secret) of devices that have to be sent theirs: at once if they just connected, more often while it is
    fresh (somebody may be about to subscribe), else every `again_s`."""
    cursor = await connection.execute(
        TO_DELIVER,
        {
            "connected": list(connected),
            "again": timedelta(seconds=again_s),
            "fresh": FRESH,
            "soon": SOON,
            "limit": limit,
        },
    )
    return [
        (tenant, Secret(device, generation, key_id, "delivered"))
        for device, tenant, generation, key_id in await cursor.fetchall()
    ]


async def note_delivered(connection: psycopg.AsyncConnection, sent: Sequence[Secret]) -> None:
    """They went out just now."""
    columns = [secret.device for secret in sent], [secret.generation for secret in sent]
    await connection.execute(DELIVERED, columns)


async def tenants_of(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> dict[str, str]:
    """Device → tenant."""
    cursor = await connection.execute("SELECT id, tenant FROM registry.device WHERE id = ANY(%s)", (list(devices),))
    return dict(await cursor.fetchall())


async def expire(connection: psycopg.AsyncConnection, limit: int) -> list[tuple[str, str, int]]:
    """Expire the old secrets of up to `limit` devices that never confirmed the new one within their grace, and expired
    certificates; returns (device, tenant, generation) of each."""
    due = [device for (device,) in await (await connection.execute(OVERDUE, (limit,))).fetchall()]
    expired: list[tuple[str, str, int]] = []
    if due:
        locked = [row.id for row in await lock_all(connection, due)]
        expired += await (await connection.execute(EXPIRE, {"devices": locked})).fetchall()
    expired += await (await connection.execute(EXPIRE_CERTIFICATES)).fetchall()
    return sorted(expired)


async def note_use(connection: psycopg.AsyncConnection, devices: Sequence[str] | None) -> None:
    """Note for these devices (None: all) when they connected last, as presence knows it."""
    await connection.execute(USED, {"everything": devices is None, "devices": list(devices or ())})


async def _add(
    connection: psycopg.AsyncConnection,
    keys: KeyRing,
    devices: Sequence[Device],
    state: Literal["active", "delivered"],
    rotation_days: float,
) -> list[Secret]:
    if not devices:
        return []
    cursor = await connection.execute(NEXT, ([device.id for device in devices],))
    generations: dict[str, int] = dict(await cursor.fetchall())
    secrets = [Secret(device.id, generations[device.id], keys.newest, state) for device in devices]
    await connection.execute(
        INSERT,
        {
            "state": state,
            "key_id": keys.newest,
            "age": timedelta(days=rotation_days),
            "devices": [secret.device for secret in secrets],
            "generations": [secret.generation for secret in secrets],
            "tenants": [device.tenant for device in devices],
            "verifiers": [verifier(secret.of(keys)) for secret in secrets],
        },
    )
    return secrets


def _no_device(device: str) -> NotFound:
    return NotFound(f"There is no device {device}.")
