"""What is done now and then: topics of removed devices are cleared, rules are told, gauges are set."""

from __future__ import annotations

import asyncio
import logging
import time

from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider_trips import metrics, profiles, vehicles

log = logging.getLogger(__name__)

LOOK_S = 5.0
REMOVED_S = 15.0
SLOTS = "SELECT count(*) FROM runtime.slot WHERE group_name = 'trips' AND NOT retiring"
INSTALLED = "SELECT to_regclass('registry.device_types') IS NOT NULL"
# A device that the registry never knew (it may run without one) is not removed.
KNOWN = """
UPDATE trips.vehicle v SET registered = true FROM registry.device_types d
WHERE (d.tenant, d.device) = (v.tenant, v.device) AND v.registered IS DISTINCT FROM true
"""
REMOVED = """
WITH gone AS (
    UPDATE trips.vehicle v SET registered = false
    WHERE v.registered AND NOT EXISTS (SELECT FROM registry.device_types d WHERE (d.tenant, d.device) = (v.tenant, v.device))
    RETURNING v.tenant, v.device
)
UPDATE trips.retained r SET payload = NULL, wanted = r.wanted + 1 FROM gone
WHERE (r.tenant, r.device) = (gone.tenant, gone.device) AND r.payload IS NOT NULL
"""


class Housekeeping:
    """Each replica does it; twice does no harm."""

    def __init__(self, database: Database, slots: int) -> None:
        self._database = database
        self._slots = slots
        self._problem: str | None = None
        self._told_rules = False
        self._removed_at = 0.0

    def problem(self) -> str | None:
        """Why shards of the bus are not read."""
        return self._problem

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._round()
            except Transient as error:
                log.debug("housekeeping_later", extra={"reason": str(error)})
            await asyncio.sleep(LOOK_S)

    async def _round(self) -> None:
        if not self._told_rules:
            await self.tell_rules()
        if time.monotonic() > self._removed_at:
            await self.clear_removed()
            self._removed_at = time.monotonic() + REMOVED_S
        async with self._database.transaction() as connection:
            waiting, oldest_s = await vehicles.waiting(connection)
            row = await (await connection.execute(SLOTS)).fetchone()
        slots = row[0] if row else 0
        self._problem = (
            f"the group has {slots} slots, and OUTRIDER_TRIPS_SLOTS is {self._slots}: some shards of the bus are not read; "
            f"run `outrider slots trips {self._slots}`"
            if 0 < slots < self._slots
            else None
        )
        metrics.DIRTY.set(waiting)
        metrics.DIRTY_SECONDS.set(oldest_s)

    async def tell_rules(self) -> None:
        """Tell the database which rules a profile may have."""
        async with self._database.transaction() as connection:
            await profiles.publish_rules(connection)
        self._told_rules = True

    async def clear_removed(self) -> None:
        """Have the retained topics of devices cleared that the registry knew and knows no more."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(INSTALLED)).fetchone()
            if row and row[0]:
                await connection.execute(KNOWN)
                await connection.execute(REMOVED)
