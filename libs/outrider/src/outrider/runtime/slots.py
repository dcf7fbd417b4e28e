"""Leases of consumer slots in PostgreSQL: each slot has one holder, replicas share them fairly, a dead holder is replaced.

A replica attends a slot's session only while it holds the lease (delivery rule 12). While PostgreSQL is away nobody
can take a slot over, so holders keep theirs: they store nothing and acknowledge nothing, and go on when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from outrider.runtime import metrics
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient

log = logging.getLogger(__name__)

DECLARE = "SELECT runtime.declare_slots(%s, %s)"
# A replica that is stopped in the middle of its round would keep its row locks, and nobody could take its slots: the
# server ends such a session after two seconds.
NEVER_LINGER = "SET LOCAL idle_in_transaction_session_timeout = '2s'; SET LOCAL lock_timeout = '3s'"
BEAT = """
INSERT INTO runtime.replica AS r (group_name, holder, heartbeat_at) VALUES (%s, %s, now())
ON CONFLICT (group_name, holder) DO UPDATE SET heartbeat_at = now()
"""
# One that is locked is alive, or stopped in its own round; it is forgotten in a later one.
FORGET_DEAD_REPLICAS = """
DELETE FROM runtime.replica WHERE (group_name, holder) IN (
    SELECT group_name, holder FROM runtime.replica
    WHERE group_name = %(group)s
      AND (heartbeat_at < now() - make_interval(secs => %(timeout)s) OR holder = ANY (%(replaced)s))
    FOR UPDATE SKIP LOCKED)
"""
# Slots, live replicas, and how many of these hold more than this one: where the slots do not divide evenly, those that
# have one more keep it, so that a newcomer moves no slot needlessly. A replica that fell silent counts no longer at once:
# its share is what the others may take. The process before this one is this one: its slots are taken back in this round.
SHARES = """
WITH mine AS (
    SELECT count(*) AS slots FROM runtime.slot
    WHERE group_name = %(group)s AND (holder = %(holder)s OR (%(starting)s AND replica = %(replica)s))
), other AS (
    SELECT r.holder, count(s.slot) AS slots
    FROM runtime.replica r LEFT JOIN runtime.slot s USING (group_name, holder)
    WHERE r.group_name = %(group)s AND r.holder <> %(holder)s
      AND r.heartbeat_at > now() - make_interval(secs => %(timeout)s)
    GROUP BY r.holder HAVING NOT (%(starting)s AND coalesce(bool_or(s.replica = %(replica)s), false))
)
SELECT (SELECT count(*) FROM runtime.slot WHERE group_name = %(group)s),
       1 + count(other.holder),
       count(*) FILTER (WHERE (other.slots, other.holder) > (mine.slots, %(holder)s))
FROM mine LEFT JOIN other ON true
"""
RENEW = """
UPDATE runtime.slot SET heartbeat_at = now() WHERE group_name = %s AND holder = %s AND slot = ANY (%s)
RETURNING slot, retiring
"""
# Ours but not held is a slot that was taken in a commit whose reply was lost: nobody attends it.
# The row lock decides between two candidates; a taker ends the old holder's database sessions before it starts, because
# a stopped process in the middle of a COPY would otherwise keep its locks (seen in an experiment, delivery rule 12).
TAKE = """
WITH free AS (
    SELECT slot, holder AS old FROM runtime.slot
    WHERE group_name = %(group)s AND NOT slot = ANY (%(held)s)
      AND (holder IS NULL OR heartbeat_at < now() - make_interval(secs => %(timeout)s)
           OR holder = %(holder)s
           OR (%(starting)s AND replica = %(replica)s AND holder <> %(holder)s))
    ORDER BY slot LIMIT %(want)s FOR UPDATE SKIP LOCKED
)
UPDATE runtime.slot s
SET holder = %(holder)s, replica = %(replica)s, epoch = s.epoch + 1, heartbeat_at = now(), acquired_at = now()
FROM free WHERE s.group_name = %(group)s AND s.slot = free.slot
RETURNING s.slot, s.epoch, free.old
"""
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ANY (%s) AND pid <> pg_backend_pid()
"""
RELEASE = "UPDATE runtime.slot SET holder = NULL, heartbeat_at = NULL WHERE group_name = %s AND holder = %s AND slot = ANY (%s)"
RETIRED = "SELECT runtime.slot_retired(%s, %s, %s)"
LEAVE = "DELETE FROM runtime.replica WHERE group_name = %s AND holder = %s"


class Renewal:
    """When a lease was renewed last (monotonic clock); a session is opened only while the lease certainly holds."""

    def __init__(self, renewed_s: float = 0.0, timeout_s: float = inf) -> None:
        self._timeout_s = timeout_s
        self._renewed_s = renewed_s
        self._again = asyncio.Event()

    def renew(self, asked_s: float) -> None:
        """The database renewed it, having been asked at `asked_s` of the monotonic clock."""
        self._renewed_s = asked_s
        self._again.set()

    async def confirmed(self) -> None:
        """Wait until the lease is younger than its timeout: a process that was stopped for long may have lost it."""
        while time.monotonic() - self._renewed_s >= self._timeout_s:
            self._again.clear()
            await self._again.wait()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to attend one slot; `epoch` is new with every lease of the slot.

    `retiring` is set when an operator retires the slot; the attendant then ends the session once it is empty and sets
    `retired`.
    """

    group: str
    slot: int
    epoch: int
    retiring: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    retired: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    renewal: Renewal = field(default_factory=Renewal, compare=False)

    @property
    def client_id(self) -> str:
        """MQTT client id of the slot: a name that no device can have (device names hold no colon)."""
        return f"svc:{self.group}:{self.slot}"


class Slots:
    """Holds this replica's fair share of a group's slots; calls `attend(lease)` and cancels that task when a lease is lost."""

    def __init__(
        self,
        database: Database,
        group: str,
        count: int,
        replica: str,
        timeout_s: float,
        attend: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._database = database
        self._group = group
        self._count = count
        self._replica = replica
        self._holder = database.application_name
        self._timeout_s = timeout_s
        self._attend = attend
        self._attending: dict[int, asyncio.Task[None]] = {}
        self._leases: dict[int, Lease] = {}
        # Until the first round is committed, slots of this replica's name are its own of before a crash, taken back at
        # once. Only then: of two live processes of one name the later one takes them once, and after that they share.
        self._starting = True
        self._leaving: dict[int, asyncio.Task[None]] = {}  # finishing their batch; the lease is renewed meanwhile
        self.problem: str | None = "no slot yet"

    @property
    def held(self) -> list[int]:
        """Slots held, in order."""
        return sorted(self._attending)

    async def run(self) -> None:
        """Renew, take and give back leases until cancelled; then stop attending and release them."""
        try:
            declared = False
            while True:
                try:
                    if not declared:
                        await self._declare()
                        declared = True
                    await self._round()
                    self.problem = None  # a standby, which holds no slot because others hold them all, is well
                except Transient as error:
                    self.problem = str(error)
                    log.warning("lease_round_failed", extra={"group": self._group, "reason": str(error)})
                metrics.SLOTS_HELD.labels(self._group).set(len(self._attending))
                await asyncio.sleep(self._timeout_s / 4)
        finally:
            await asyncio.shield(self._stop())

    async def _declare(self) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(DECLARE, (self._group, self._count))

    async def _round(self) -> None:
        group, timeout = self._group, self._timeout_s
        await self._release(self._reap())
        held = sorted([*self._attending, *self._leaving])
        asked_s = time.monotonic()
        async with self._database.transaction() as connection:
            await connection.execute(NEVER_LINGER)
            await connection.execute(BEAT, (group, self._holder))
            rows = await (await connection.execute(RENEW, (group, self._holder, held))).fetchall()
            renewed = {slot for slot, _ in rows}
            for slot, retiring in rows:
                if retiring and slot in self._leases:
                    self._leases[slot].retiring.set()
            arguments: dict[str, Any] = {
                "group": group,
                "held": held,
                "timeout": timeout,
                "holder": self._holder,
                "replica": self._replica,
                "starting": self._starting,
            }
            share = fair_share(*(await (await connection.execute(SHARES, arguments)).fetchone() or (0, 1, 0)))
            taken: list[tuple[int, int, str | None]] = []
            if len(renewed) < share:
                arguments["want"] = share - len(renewed)
                taken = await (await connection.execute(TAKE, arguments)).fetchall()
            replaced = [old for _, _, old in taken if old and old != self._holder]
            if replaced:
                await connection.execute(END_SESSIONS, (replaced,))
            await connection.execute(FORGET_DEAD_REPLICAS, {"group": group, "timeout": timeout, "replaced": replaced})
        self._starting = False
        for slot in renewed & self._leases.keys():
            self._leases[slot].renewal.renew(asked_s)
        lost = [slot for slot in held if slot not in renewed]
        for slot in lost:
            log.warning("slot_lost", extra={"group": group, "slot": slot})
            self._leave(slot)
        for slot, epoch, old in taken:
            log.info("slot_taken", extra={"group": group, "slot": slot, "epoch": epoch, "previous_holder": old})
            lease = self._leases[slot] = Lease(group, slot, epoch, renewal=Renewal(asked_s, timeout))
            self._attending[slot] = asyncio.create_task(self._attending_task(lease), name=lease.client_id)
        for slot in self.held[share:]:
            self._leave(slot)

    async def _attending_task(self, lease: Lease) -> None:
        await self._attend(lease)

    def _leave(self, slot: int) -> None:
        task = self._attending.pop(slot, None)
        if task is not None:
            task.cancel()
            self._leaving[slot] = task

    def _reap(self) -> list[int]:
        """Slots whose attendance has ended: told to leave, taken over by another session, or failed."""
        ended: list[int] = []
        for tasks in (self._attending, self._leaving):
            for slot, task in list(tasks.items()):
                if task.done():
                    del tasks[slot]
                    ended.append(slot)
                    if not task.cancelled() and (error := task.exception()):
                        log.warning("slot_left", extra={"group": self._group, "slot": slot, "reason": str(error)})
        return ended

    async def _release(self, slots: list[int]) -> None:
        for slot in slots:
            lease = self._leases.pop(slot, None)
            if lease is not None and lease.retired.is_set():
                async with self._database.transaction() as connection:
                    await connection.execute(RETIRED, (self._group, slot, self._holder))
                log.info("slot_retired", extra={"group": self._group, "slot": slot})
        if slots:
            async with self._database.transaction() as connection:
                await connection.execute(RELEASE, (self._group, self._holder, slots))

    async def _stop(self) -> None:
        for slot in self.held:
            self._leave(slot)
        held = list(self._leaving)
        if held:
            await asyncio.wait(list(self._leaving.values()))
        self._leaving.clear()
        try:
            async with self._database.transaction() as connection:
                await connection.execute(RELEASE, (self._group, self._holder, held))
                await connection.execute(LEAVE, (self._group, self._holder))
        except Transient as error:
            log.warning("release_failed", extra={"group": self._group, "reason": str(error)})


def fair_share(slots: int, replicas: int, ahead: int) -> int:
    """How many of a group's slots a replica may hold; `ahead` replicas come before it for what does not divide evenly."""
    each, rest = divmod(slots, replicas)
    return each + (ahead < rest)
