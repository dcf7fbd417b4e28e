"""Presence of devices, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

# In the order of ids, as everybody who locks several of them: no two wait for each other.
ENSURE: LiteralString = """
INSERT INTO registry.presence (device, tenant) SELECT id, tenant FROM registry.device d
WHERE id = ANY (%s) AND NOT EXISTS (SELECT FROM registry.presence p WHERE p.device = d.id) ORDER BY id
ON CONFLICT DO NOTHING
"""
LOCK: LiteralString = """
SELECT p.device, p.tenant, p.state, p.since, p.reason, p.status_at, p.status_digest, p.boot, p.boots, p.recent_boots,
       p.firmware, p.tier, d.firmware, d.tier
FROM registry.presence p JOIN registry.device d ON d.id = p.device WHERE p.device = ANY (%s) ORDER BY p.device FOR UPDATE OF p
"""
SET_STATE: LiteralString = """
UPDATE registry.presence p SET state = new.state, since = new.at, reason = new.reason
FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[]) AS new (device, state, reason, at)
WHERE p.device = new.device
"""
EVENTS: LiteralString = """
INSERT INTO registry.presence_event (tenant, device, state, reason, at)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[])
"""
GATEWAYS: LiteralString = "SELECT DISTINCT gateway FROM registry.device WHERE gateway = ANY (%s)"
# What is said behind a gateway goes and comes with it.
CHILDREN: LiteralString = """
SELECT p.device, p.tenant, g.state, g.at
FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS g (device, state, at)
JOIN registry.device d ON d.gateway = g.device JOIN registry.presence p ON p.device = d.id
WHERE (g.state = 'offline' AND p.state = 'online') OR (g.state = 'online' AND p.state = 'offline' AND p.reason = 'gateway')
ORDER BY p.device FOR UPDATE OF p
"""
STORE_STATUS: LiteralString = """
UPDATE registry.presence p
SET status_at = new.at, seen_at = greatest(p.seen_at, new.at), status_digest = decode(new.digest, 'hex'), boot = new.boot,
    boots = new.boots, recent_boots = new.recent::bigint[], firmware = new.firmware, tier = new.tier, reason = new.reason
FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::bigint[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[])
     AS new (device, at, digest, boot, boots, recent, firmware, tier, reason)
WHERE p.device = new.device
"""
STORE_VERSIONS: LiteralString = """
UPDATE registry.device d
SET firmware = new.firmware, tier = new.tier, version = d.version + 1, updated_at = now()
FROM unnest(%s::text[], %s::text[], %s::text[]) AS new (device, firmware, tier) WHERE d.id = new.device
"""
# Data of a device nobody has heard a status of; `silence` is how long ago is long ago.
ENSURE_SEEN: LiteralString = """
INSERT INTO registry.presence (device, tenant)
SELECT d.id, d.tenant FROM telemetry.tenant_seen s JOIN registry.device d ON d.id = s.device AND d.tenant = s.tenant
WHERE s.seen_at > now() - make_interval(secs => %(silence)s)
  AND NOT EXISTS (SELECT FROM registry.presence p WHERE p.device = d.id) ORDER BY d.id
ON CONFLICT DO NOTHING
"""
HEARD: LiteralString = """
SELECT p.device, p.tenant, s.seen_at
FROM registry.presence p
JOIN registry.device d ON d.id = p.device JOIN telemetry.tenant_seen s ON s.device = p.device AND s.tenant = p.tenant
WHERE p.state <> 'online' AND d.status = 'active' AND s.seen_at > now() - make_interval(secs => %(silence)s)
  AND (p.state = 'unknown' OR s.seen_at > p.since + make_interval(secs => %(margin)s))
ORDER BY p.device FOR UPDATE OF p
"""
# Only data says it is online and there is no more; or it was online before the broker was started, and no word since.
SILENT: LiteralString = """
SELECT p.device, p.tenant
FROM registry.presence p LEFT JOIN telemetry.tenant_seen s ON s.device = p.device AND s.tenant = p.tenant
WHERE p.state = 'online' AND (
    (p.reason = 'data' AND greatest(p.since, s.seen_at) < now() - make_interval(secs => %(silence)s))
    OR (greatest(p.status_at, s.seen_at, CASE WHEN p.reason = 'gateway' THEN p.since END) < %(started)s
        AND now() > %(started)s + make_interval(secs => %(silence)s)))
ORDER BY p.device FOR UPDATE OF p
"""
DISABLED: LiteralString = """
SELECT p.device, p.tenant
FROM registry.presence p JOIN registry.device d ON d.id = p.device JOIN registry.tenant t ON t.name = d.tenant
WHERE p.state = 'online' AND (d.status = 'disabled' OR t.disabled_at IS NOT NULL) ORDER BY p.device FOR UPDATE OF p
"""
KNOWN: LiteralString = "SELECT device, tenant, state, reason FROM registry.presence WHERE state <> 'unknown'"
ALL_DEVICES: LiteralString = "SELECT id, tenant FROM registry.device"
ONE: LiteralString = """
SELECT coalesce(p.state, 'unknown') AS state, p.since, coalesce(p.reason, '') AS reason, p.status_at,
       greatest(p.seen_at, s.seen_at) AS seen_at, p.boot, coalesce(p.boots, 0) AS boots,
       coalesce(p.firmware, '') AS firmware, coalesce(p.tier, '') AS tier
FROM registry.device d LEFT JOIN registry.presence p ON p.device = d.id
LEFT JOIN telemetry.tenant_seen s ON s.device = d.id AND s.tenant = d.tenant
WHERE d.id = %s AND d.tenant = current_setting('outrider.tenant')
"""
LATEST_EVENTS: LiteralString = """
SELECT at, state, reason FROM registry.presence_event WHERE device = %s ORDER BY at DESC, id DESC LIMIT %s
"""
FORGET_EVENTS: LiteralString = "DELETE FROM registry.presence_event WHERE at < now() - make_interval(days => %s)"

BOOTS_REMEMBERED = 16


@dataclass
class Presence:
    """A device's presence, and the firmware and tier of its row."""

    device: str
    tenant: str
    state: str
    since: datetime
    reason: str
    status_at: datetime | None
    digest: bytes | None
    boot: int | None
    boots: int
    recent_boots: list[int]
    firmware: str
    tier: str
    device_firmware: str
    device_tier: str

    def booted(self, boot: int) -> None:
        """Count a boot, once: a message of one of the last boots may come again."""
        self.boot = boot
        if boot not in self.recent_boots:
            self.boots += 1
            self.recent_boots = [*self.recent_boots, boot][-BOOTS_REMEMBERED:]


@dataclass(frozen=True)
class Change:
    """A device came or went."""

    device: str
    tenant: str
    state: str
    reason: str
    at: datetime


async def lock(connection: psycopg.AsyncConnection, devices: Sequence[str]) -> dict[str, Presence]:
    """The presence of devices, held until the transaction ends; those that do not exist are left out."""
    names = sorted(set(devices))
    await connection.execute(ENSURE, (names,))
    return {row[0]: Presence(*row) for row in await (await connection.execute(LOCK, (names,))).fetchall()}


async def change(connection: psycopg.AsyncConnection, changes: Sequence[Change]) -> list[Change]:
    """Set states, of a gateway's children too, and keep an event of each, also of those that were undone at once.

    Several changes of one device are in their order. Returns what changed in the end, one of each device.
    """
    if not changes:
        return []
    last = {one.device: one for one in changes}
    await _set(connection, list(last.values()))
    rows = await (
        await connection.execute(
            CHILDREN, (list(last), [one.state for one in last.values()], [one.at for one in last.values()])
        )
    ).fetchall()
    children = [
        Change(device, tenant, state, "gateway", at) for device, tenant, state, at in rows if device not in last
    ]
    await _set(connection, children)
    events = [*changes, *children]
    await connection.execute(
        EVENTS,
        (
            [one.tenant for one in events],
            [one.device for one in events],
            [one.state for one in events],
            [one.reason for one in events],
            [one.at for one in events],
        ),
    )
    return [*last.values(), *children]


async def _set(connection: psycopg.AsyncConnection, changes: Sequence[Change]) -> None:
    if changes:
        await connection.execute(
            SET_STATE,
            (
                [one.device for one in changes],
                [one.state for one in changes],
                [one.reason for one in changes],
                [one.at for one in changes],
            ),
        )


async def store(connection: psycopg.AsyncConnection, said: Sequence[Presence]) -> None:
    """Keep what devices' own status messages said, except their state, which `change` sets."""
    if said:
        await connection.execute(
            STORE_STATUS,
            (
                [p.device for p in said],
                [p.status_at for p in said],
                [p.digest.hex() if p.digest else None for p in said],
                [p.boot for p in said],
                [p.boots for p in said],
                ["{" + ",".join(map(str, p.recent_boots)) + "}" for p in said],
                [p.firmware for p in said],
                [p.tier for p in said],
                [p.reason for p in said],
            ),
        )


async def store_versions(connection: psycopg.AsyncConnection, devices: Sequence[tuple[str, str, str]]) -> None:
    """Take (device, firmware, tier) into the devices' rows."""
    if devices:
        names, firmwares, tiers = zip(*devices, strict=True)
        await connection.execute(STORE_VERSIONS, (list(names), list(firmwares), list(tiers)))


async def heard(connection: psycopg.AsyncConnection, silence_s: float, margin_s: float) -> list[Change]:
    """Devices that are not said to be online and of which there is data, newer than their status by the margin."""
    arguments = {"silence": silence_s, "margin": margin_s}
    await connection.execute(ENSURE_SEEN, arguments)
    rows = await (await connection.execute(HEARD, arguments)).fetchall()
    return [Change(device, tenant, "online", "data", at) for device, tenant, at in rows]


async def silent(
    connection: psycopg.AsyncConnection, silence_s: float, broker_started: datetime | None, now: datetime
) -> list[Change]:
    """Devices that are said to be online and cannot be."""
    arguments = {"silence": silence_s, "started": broker_started}
    rows = await (await connection.execute(SILENT, arguments)).fetchall()
    return [Change(device, tenant, "offline", "silent", now) for device, tenant in rows]


async def disabled(connection: psycopg.AsyncConnection, now: datetime) -> list[Change]:
    """Devices that are said to be online and may not be."""
    rows = await (await connection.execute(DISABLED)).fetchall()
    return [Change(device, tenant, "offline", "disabled", now) for device, tenant in rows]


async def known(connection: psycopg.AsyncConnection) -> dict[tuple[str, str], tuple[str, str]]:
    """(state, reason) of every device that has one, by (tenant, device)."""
    rows = await (await connection.execute(KNOWN)).fetchall()
    return {(tenant, device): (state, reason) for device, tenant, state, reason in rows}


async def all_devices(connection: psycopg.AsyncConnection) -> set[tuple[str, str]]:
    """(tenant, device) of every device."""
    return {(tenant, device) for device, tenant in await (await connection.execute(ALL_DEVICES)).fetchall()}


async def one(connection: psycopg.AsyncConnection, device: str) -> dict[str, Any] | None:
    """A device's presence; None for no device of this tenant."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(ONE, (device,))
        return await cursor.fetchone()


async def events(connection: psycopg.AsyncConnection, device: str, limit: int) -> list[dict[str, Any]]:
    """When it came and went, newest first."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(LATEST_EVENTS, (device, limit))
        return await cursor.fetchall()


async def forget_events(connection: psycopg.AsyncConnection, days: int) -> None:
    """Drop events older than this."""
    await connection.execute(FORGET_EVENTS, (days,))
