"""What ingest keeps in PostgreSQL: boot anchors, rejected messages, and the numbers of the batches it published."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

import psycopg

from outrider.runtime import rejects
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider_ingest.messages import BootKey, Message

ANCHOR = """
INSERT INTO telemetry.boot (tenant, device, boot, anchor_ms)
SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
"""
ANCHORS = """
SELECT tenant, device, boot, anchor_ms FROM telemetry.boot
WHERE (tenant, device, boot) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[]))
"""
DRIFT = """
UPDATE telemetry.boot b SET drift_ms = k.drift_ms, drift_at = now()
FROM (SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[])) AS k(tenant, device, boot, drift_ms)
WHERE (b.tenant, b.device, b.boot) = (k.tenant, k.device, k.boot) AND b.drift_ms IS NULL
"""
SLOTS = "SELECT count(*) FROM runtime.slot WHERE group_name = %s AND NOT retiring"
PUBLISHED = """
INSERT INTO runtime.published AS p (producer_slot, epoch, topic, number)
SELECT * FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::bigint[]) ORDER BY 1, 3, 2
ON CONFLICT (producer_slot, topic, epoch) DO UPDATE SET number = excluded.number, updated_at = now()
"""
SEEN = """
INSERT INTO telemetry.seen AS s (device, tenant, seen_at)
SELECT device, tenant, to_timestamp(ms / 1000.0) FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS u(device, tenant, ms)
WHERE device NOT IN (SELECT device FROM runtime.tombstone)  -- it may have been erased since it was heard
ORDER BY device
ON CONFLICT (device) DO UPDATE SET tenant = excluded.tenant, seen_at = excluded.seen_at WHERE s.seen_at < excluded.seen_at
"""
# Nobody waits for a lost epoch's tail longer than a day: numbered messages came again long ago.
FORGET_OLD_EPOCHS = "DELETE FROM runtime.published WHERE updated_at < now() - interval '1 day'"


class Anchors:
    """Boot anchors: first wins, committed before anything of the boot is published, cached after (delivery rule 2)."""

    def __init__(self, database: Database, capacity: int) -> None:
        self._database = database
        self._capacity = capacity
        self._cache: OrderedDict[BootKey, int] = OrderedDict()
        self._drifted: OrderedDict[BootKey, None] = OrderedDict()

    async def of(self, messages: Sequence[Message]) -> dict[BootKey, int]:
        """Anchors of the boots these messages need, fixed now where a message offers the first. Raises Transient."""
        wanted: dict[BootKey, int | None] = {}
        for message in messages:
            key = message.boot_key
            if key is not None and wanted.get(key) is None:
                wanted[key] = message.anchor_candidate()
        found = {key: self._cache[key] for key in wanted if key in self._cache}
        missing = sorted(key for key in wanted if key not in found)
        if missing:
            found |= await self._fix(missing, wanted)
        await self._note_drift(messages, found)
        return found

    async def _fix(self, keys: list[BootKey], candidates: dict[BootKey, int | None]) -> dict[BootKey, int]:
        new = [(key, candidate) for key in keys if (candidate := candidates[key]) is not None]
        async with self._database.transaction() as connection:
            if new:
                await connection.execute(ANCHOR, (*_columns([key for key, _ in new]), [anchor for _, anchor in new]))
            rows = await (await connection.execute(ANCHORS, _columns(keys))).fetchall()
        fixed: dict[BootKey, int] = {(tenant, device, boot): anchor for tenant, device, boot, anchor in rows}
        self._cache.update(fixed)
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return fixed

    async def _note_drift(self, messages: Sequence[Message], anchors: dict[BootKey, int]) -> None:
        found: dict[BootKey, int] = {}
        for message in messages:
            key = message.boot_key
            if key is not None and key not in self._drifted and key in anchors:
                drift = message.drift_ms(anchors[key])
                if drift is not None:
                    found[key] = drift
        if found:
            async with self._database.transaction() as connection:
                await connection.execute(DRIFT, (*_columns(list(found)), list(found.values())))
            self._drifted.update(dict.fromkeys(found))
            while len(self._drifted) > self._capacity:
                self._drifted.popitem(last=False)


class Seen:
    """When each device was last heard, for its presence: written every few seconds for those heard since.

    A device that speaks all the time is written every EVERY_MS only, a silent one that speaks again at once.
    """

    EVERY_MS = 10_000
    MAX_DEVICES = 200_000

    def __init__(self) -> None:
        self._heard: dict[str, tuple[str, int]] = {}
        self._written: dict[str, int] = {}

    def note(self, messages: Sequence[Message]) -> None:
        """These were heard now, but for what was refused because of its sender and for what is only replayed."""
        heard = self._heard
        for message in messages:
            if message.foreign or message.replayed:
                continue
            identity = message.identity
            if identity.problem is None:
                heard[identity.device] = (identity.tenant, message.received_ms)

    async def write(self, database: Database, now_ms: int) -> None:
        """Store what is due. Raises Transient; then it is due again."""
        if due := self.due(now_ms):
            tenants, times = zip(*due.values(), strict=True)
            async with database.transaction() as connection:
                await connection.execute(SEEN, (list(due), list(tenants), list(times)))
            self.written(due, now_ms)

    def due(self, now_ms: int) -> dict[str, tuple[str, int]]:
        """Tenant and time of the devices that are to be written now."""
        written, oldest_ms = self._written, now_ms - self.EVERY_MS
        return {device: heard for device, heard in self._heard.items() if written.get(device, 0) <= oldest_ms}

    def written(self, due: dict[str, tuple[str, int]], now_ms: int) -> None:
        """These are stored."""
        if len(self._written) > self.MAX_DEVICES:
            self._written.clear()
        for device, heard in due.items():
            self._written[device] = now_ms
            if self._heard.get(device) == heard:
                del self._heard[device]


class Shards:
    """How many shards a writer group has: its slots, read from the database now and then."""

    MAX_AGE_S = 10.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: dict[str, tuple[int, float]] = {}

    def forget(self, group: str) -> None:
        """Ask the database again the next time."""
        self._counts.pop(group, None)

    async def of(self, group: str) -> int:
        """Number of shards. Raises Transient while the group has never run."""
        known = self._counts.get(group)
        if known is not None and time.monotonic() - known[1] < self.MAX_AGE_S:
            return known[0]
        try:
            async with self._database.transaction() as connection:
                row = await (await connection.execute(SLOTS, (group,))).fetchone()
        except Transient:
            if known is not None:  # the database is away: the last answer still holds
                self._counts[group] = (known[0], time.monotonic())
                return known[0]
            raise
        count = int(row[0]) if row else 0
        if count == 0:
            raise Transient(f"{group} has never run, so nobody would store this; start {group}")
        self._counts[group] = (count, time.monotonic())
        return count


async def keep_rejections(database: Database, group: str, messages: Sequence[Message]) -> None:
    """Store what was refused of these messages, before anything of them is published or acknowledged."""
    refused = [message for message in messages if message.rejections and not message.kept]
    if refused:
        async with database.transaction() as connection:
            await rejects.keep(
                connection, group, [rejection for message in refused for rejection in message.rejections]
            )
        for message in refused:
            message.kept = True


async def record_published(connection: psycopg.AsyncConnection, numbers: dict[tuple[int, int, str], int]) -> None:
    """Tell the world how far the bus was filled; depth is this minus what the writers committed."""
    if numbers:
        slots, epochs, names = zip(*numbers, strict=True)
        await connection.execute(PUBLISHED, (list(slots), list(epochs), list(names), list(numbers.values())))
    await connection.execute(FORGET_OLD_EPOCHS)


def _columns(keys: Sequence[BootKey]) -> tuple[list[str], list[str], list[int]]:
    return [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys]
