"""Desired and reported state of devices, many at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from outrider.contract import topics
from outrider_registry import merge
from outrider_registry.errors import Invalid
from outrider_registry.store import configurations

# One at a time per tenant: two changes that do not see each other would each undo the other's part of the result.
LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('shadow:' || %s, 0))"
TENANTS: LiteralString = """
SELECT DISTINCT tenant FROM registry.device WHERE %(devices)s::text[] IS NULL OR id = ANY (%(devices)s) ORDER BY tenant
"""
INPUTS: LiteralString = """
SELECT d.id, d.type, d.tier, d.tags, coalesce(s.overrides, '{}'), coalesce(s.desired, '{}')
FROM registry.device d LEFT JOIN registry.shadow s ON s.device = d.id
WHERE d.tenant = %(tenant)s AND (%(devices)s::text[] IS NULL OR d.id = ANY (%(devices)s)) ORDER BY d.id
"""
# Past every version that the broker or the device may know: also after a backup was restored (fault 48).
STORE: LiteralString = """
INSERT INTO registry.shadow AS s (device, tenant, desired, desired_version, desired_at)
SELECT device, %s, desired::jsonb, 1, now() FROM unnest(%s::text[], %s::text[]) AS new (device, desired) ORDER BY device
ON CONFLICT (device) DO UPDATE
SET desired = EXCLUDED.desired, desired_at = now(),
    desired_version = greatest(s.desired_version, s.reported_version, s.published_version) + 1
"""
ONE: LiteralString = """
SELECT d.id AS device, d.tenant, d.type, d.tier, d.tags, coalesce(s.overrides, '{}') AS overrides,
       coalesce(s.desired, '{}') AS desired, coalesce(s.desired_version, 0) AS desired_version, s.desired_at,
       coalesce(s.reported, '{}') AS reported, coalesce(s.reported_version, 0) AS reported_version, s.reported_at,
       coalesce(s.published_version, 0) AS published_version
FROM registry.device d LEFT JOIN registry.shadow s ON s.device = d.id
WHERE d.id = %s AND d.tenant = current_setting('outrider.tenant')
"""
SET_OVERRIDES: LiteralString = """
INSERT INTO registry.shadow (device, tenant, overrides) VALUES (%s, %s, %s)
ON CONFLICT (device) DO UPDATE SET overrides = EXCLUDED.overrides
"""
ENSURE: LiteralString = """
INSERT INTO registry.shadow (device, tenant) SELECT id, tenant FROM registry.device WHERE id = ANY (%s) ORDER BY id
ON CONFLICT DO NOTHING
"""
LOCK_REPORTED: LiteralString = """
SELECT device, reported_stamps, reported_version, desired_version FROM registry.shadow WHERE device = ANY (%s)
ORDER BY device FOR UPDATE
"""
STORE_REPORTED: LiteralString = """
UPDATE registry.shadow s
SET reported = new.reported::jsonb, reported_stamps = new.stamps::jsonb, reported_version = new.version,
    reported_at = to_timestamp(new.received_ms / 1000.0), desired_version = new.desired_version
FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS new (device, reported, stamps, version, received_ms, desired_version)
WHERE s.device = new.device
"""
UNPUBLISHED: LiteralString = """
SELECT device, tenant, desired, desired_version FROM registry.shadow
WHERE published_version <> desired_version ORDER BY device LIMIT %s
"""
PUBLISHED: LiteralString = """
UPDATE registry.shadow s SET published_version = new.version
FROM unnest(%s::text[], %s::bigint[]) AS new (device, version) WHERE s.device = new.device
"""
TO_BE_RETAINED: LiteralString = """
SELECT device, tenant, desired, desired_version, published_version FROM registry.shadow
WHERE desired_version > 0
"""
# The broker has a version that this database never gave out, or has forgotten in a restore.
BEYOND: LiteralString = """
UPDATE registry.shadow s SET desired_version = new.version + 1, published_version = 0
FROM unnest(%s::text[], %s::bigint[]) AS new (device, version)
WHERE s.device = new.device AND s.desired_version <= new.version
"""
REPUBLISH: LiteralString = """
UPDATE registry.shadow SET published_version = 0, desired_version = desired_version WHERE device = ANY (%s)
"""
EXISTING: LiteralString = "SELECT id FROM registry.device WHERE id = ANY (%s)"
OWN: LiteralString = "SELECT id, tenant FROM registry.device WHERE id = ANY (%s)"

MERGED_AT_ONCE = 50
"""Devices whose state is merged in one go: some 10 ms."""
STORED_AT_ONCE = 200
"""As many states are written in one statement."""
VERSIONS_AHEAD_MAX = 1_000_000
"""A restored backup lags by fewer versions; a report further ahead is a mistake of the device."""


@dataclass(frozen=True)
class Report:
    """What a device said of its state."""

    device: str
    version: int
    state: merge.State
    received_ms: int


@dataclass(frozen=True)
class Desired:
    """A device's desired state, to be published."""

    device: str
    tenant: str
    state: merge.State
    version: int

    @property
    def topic(self) -> str:
        """Where it is retained."""
        return str(topics.SHADOW_DESIRED.name(tenant=self.tenant, device=self.device))

    @property
    def payload(self) -> bytes:
        """As published."""
        document = {"version": self.version, "state": self.state}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


async def lock(connection: psycopg.AsyncConnection, tenant: str) -> None:
    """Hold off everybody else who changes configuration or desired state of this tenant, until the transaction ends.

    Take it before the first change of a configuration or of overrides.
    """
    await connection.execute(LOCK, (tenant,))


async def recompute(connection: psycopg.AsyncConnection, devices: Sequence[str] | None) -> int:
    """Merge the desired state of these devices (None: of all the transaction sees) anew; the number that changed.

    Call it after a change of a configuration or of a device's type, tier or tags, in the same transaction. A device's
    version grows only if its state really changed. Raises Invalid naming a device whose state would be too large.
    """
    named = None if devices is None else list(devices)
    rows = await (await connection.execute(TENANTS, {"devices": named})).fetchall()
    count = 0
    for (tenant,) in rows:
        await lock(connection, tenant)
        found = await changes(connection, tenant, named, await configurations.all_of(connection, tenant))
        for start in range(0, len(found), STORED_AT_ONCE):
            new = {device: json.dumps(state) for device, _, state in found[start : start + STORED_AT_ONCE]}
            await connection.execute(STORE, (tenant, list(new), list(new.values())))
        count += len(found)
    return count


async def changes(
    connection: psycopg.AsyncConnection,
    tenant: str,
    devices: Sequence[str] | None,
    of: Iterable[merge.Configuration],
) -> list[tuple[str, merge.State, merge.State]]:
    """Which devices' desired state would be another one with these configurations: (device, before, after).

    Raises Invalid naming a device whose state would be too large.
    """
    merger = merge.Merger(of)
    rows = await (await connection.execute(INPUTS, {"tenant": tenant, "devices": devices})).fetchall()
    found = []
    for number, (device, type_, tier, tags, overrides, desired) in enumerate(rows):
        if number % MERGED_AT_ONCE == 0:
            await asyncio.sleep(0)  # a large fleet takes seconds: everybody else goes on meanwhile
        state = merger.desired(type_, tier, tags, overrides)
        if not merge.same(state, desired):
            try:
                merge.check_desired(state, f"The desired state of {device}")
            except merge.NotAllowed as error:
                raise Invalid(str(error)) from None
            found.append((device, desired, state))
    return found


async def one(connection: psycopg.AsyncConnection, device: str) -> dict[str, Any] | None:
    """A device's shadow, empty where nothing was ever desired or reported; None for no device of this tenant."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(ONE, (device,))
        return await cursor.fetchone()


async def set_overrides(connection: psycopg.AsyncConnection, device: str, tenant: str, overrides: merge.State) -> None:
    """Keep what this device alone shall have; `recompute` it then."""
    await connection.execute(SET_OVERRIDES, (device, tenant, Jsonb(overrides)))


async def take_reports(connection: psycopg.AsyncConnection, reports: Sequence[Report]) -> dict[int, str]:
    """Store reports, in whatever order they came; by index those that cannot be, and why."""
    devices = sorted({report.device for report in reports})
    await connection.execute(ENSURE, (devices,))
    rows = await (await connection.execute(LOCK_REPORTED, (devices,))).fetchall()
    known = {device: [stamps, version, desired_version, 0] for device, stamps, version, desired_version in rows}
    refused: dict[int, str] = {}
    for index, report in enumerate(reports):
        shadow = known.get(report.device)
        if shadow is None:
            refused[index] = "the device was removed meanwhile"
            continue
        stamps, version, desired_version, _ = shadow
        if report.version > max(desired_version, version) + VERSIONS_AHEAD_MAX:
            refused[index] = f"version {report.version} was never desired; the newest is {desired_version}"
            continue
        taken = merge.report(stamps, report.version, report.state)
        if (found := merge.size(merge.state_of(taken))) > merge.REPORTED_MAX_BYTES:
            refused[index] = f"the reported state would be {found} bytes; {merge.REPORTED_MAX_BYTES} are allowed"
            continue
        if report.version > desired_version:
            desired_version = report.version + 1
        known[report.device] = [taken, max(version, report.version), desired_version, report.received_ms]
    changed = [(device, *shadow) for device, shadow in known.items() if shadow[3]]
    if changed:
        await connection.execute(
            STORE_REPORTED,
            (
                [device for device, *_ in changed],
                [json.dumps(merge.state_of(stamps)) for _, stamps, *_ in changed],
                [json.dumps(stamps) for _, stamps, *_ in changed],
                [version for _, _, version, _, _ in changed],
                [received_ms for *_, received_ms in changed],
                [desired_version for _, _, _, desired_version, _ in changed],
            ),
        )
    return refused


async def unpublished(connection: psycopg.AsyncConnection, limit: int) -> list[Desired]:
    """Desired states that the broker has not taken yet."""
    return [Desired(*row) for row in await (await connection.execute(UNPUBLISHED, (limit,))).fetchall()]


async def published(connection: psycopg.AsyncConnection, states: Iterable[Desired]) -> None:
    """The broker has taken these."""
    states = list(states)
    await connection.execute(PUBLISHED, ([s.device for s in states], [s.version for s in states]))


async def compare(connection: psycopg.AsyncConnection, retained: dict[str, bytes]) -> tuple[int, list[str]]:
    """Compare what the broker retains (all payloads by topic) with what it should.

    What is missing or differs is marked to be published again, under a higher version where the broker knows one that
    is ahead. Returns how many, and the topics of no device: those are to be emptied.
    """
    rows = await (await connection.execute(TO_BE_RETAINED)).fetchall()
    wanted = {(state := Desired(*row[:4])).topic: (state, row[4]) for row in rows}
    beyond: dict[str, int] = {}
    again: list[str] = []
    for topic, (state, published_version) in wanted.items():
        found = retained.get(topic)
        if found == state.payload:
            continue
        if found is not None and (version := _version(found)) >= state.version:
            beyond[state.device] = version
        elif published_version == state.version:
            again.append(state.device)
    foreign = [topic for topic in retained if topic not in wanted]
    names = [(topics.SHADOW_DESIRED.parse(topic) or {}).get("device", "") for topic in foreign]
    for device, tenant in await (await connection.execute(OWN, (names,))).fetchall():
        topic = str(topics.SHADOW_DESIRED.name(tenant=tenant, device=device))
        if topic in retained and topic not in wanted:
            # Registered, and nothing desired: of a time that a restore has lost. Overwritten, not emptied: what is
            # published for it meanwhile must stay.
            beyond[device] = _version(retained[topic])
            foreign.remove(topic)
    if beyond:
        await connection.execute(ENSURE, (list(beyond),))
        await connection.execute(BEYOND, (list(beyond), list(beyond.values())))
    if again:
        await connection.execute(REPUBLISH, (again,))
    return len(beyond) + len(again), foreign


def _version(payload: bytes) -> int:
    try:
        version = json.loads(payload)["version"]
    except (ValueError, TypeError, KeyError):
        return 0
    return version if type(version) is int and 0 <= version < 2**53 - 2 else 0
