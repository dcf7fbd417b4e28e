"""Beside the uploads: says that this process lives, forgets old keys, and declares gone the numbers that nobody will send."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from outrider.contract import topics
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider_gateway.link import Link
from outrider_gateway.store import processes, uploads
from outrider_gateway.store.processes import Gap

log = logging.getLogger(__name__)

TOPIC: dict[str, topics.Topic] = {"telemetry": topics.TELEMETRY, "log": topics.LOG, "event": topics.EVENT}

InHand = Callable[[Gap, int, int], bool]
"""True if a number of this range of a gap is in hand."""


class House:
    """Keeps house while the gateway runs. Any number of replicas may do it at once."""

    def __init__(self, database: Database, link: Link, boot: int, replica: str, in_hand: InHand) -> None:
        self._database = database
        self._link = link
        self._boot = boot
        self._replica = replica
        self._in_hand = in_hand
        self._own: set[tuple[str, str, str, int, int]] = set()
        """Gaps in this process's own numbers at the last look."""

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            try:
                await processes.beat(self._database, self._boot, self._replica)
                await uploads.expire(self._database)
                await self.declare_gone()
            except Transient as error:
                log.debug("house_not_kept", extra={"reason": str(error)})
            await asyncio.sleep(processes.BEAT_S)

    async def declare_gone(self) -> None:
        """Declare gone what dead processes left open, and what this one has not in hand: after a restore of the database the
        ledger misses uploads that it acked. Each look declares what it finds, until it is counted. Raises Transient."""
        dead = await processes.dead(self._database)
        gaps = await processes.gaps(self._database, [*dead, self._boot])
        for boot in set(dead) - {gap.boot for gap in gaps}:
            await processes.forget(self._database, boot)
        before, self._own = self._own, set()
        for gap in gaps:
            if gap.boot != self._boot:
                await self._say(gap, gap.ranges, "the gateway process that numbered them ended")
                continue
            lost = []
            for first, last in gap.ranges:
                found = gap.tenant, gap.device, gap.stream, int(first), int(last)
                if self._in_hand(gap, first, last):
                    continue
                self._own.add(found)
                if found in before:  # a number that was given just now may not be in hand yet
                    lost.append([first, last])
            if lost:
                await self._say(gap, lost, "the gateway does not have them any more")

    async def _say(self, gap: Gap, ranges: list[list[int]], reason: str) -> None:
        log.warning("numbers_gone", extra={"device": gap.device, "ranges": ranges, "reason": reason})
        document = {"boot": gap.boot, "gone": ranges, "reason": reason}
        topic = TOPIC[gap.stream].name(tenant=gap.tenant, device=gap.device)
        await self._link.publish(None, topic, orjson.dumps(document))

    async def end(self, *, clean: bool) -> None:
        """This process ends; `clean`: nothing of it is open, so nobody needs to look. Raises Transient."""
        if clean:
            await processes.forget(self._database, self._boot)
