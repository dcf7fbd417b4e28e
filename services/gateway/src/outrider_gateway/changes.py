"""When something changed that cached answers are made of, by the database's clock: heard by NOTIFY, for this process.

`outrider_registry` tells of devices and tenants (edited, erased), `outrider_rollups` of hours whose rollups were made anew
because of late data. What was made before a change was heard is not served after it; while nothing can be heard, nothing is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import psycopg

from outrider.runtime.backoff import Backoff
from outrider_gateway.query.asked import Range

log = logging.getLogger(__name__)

LISTEN = ("LISTEN outrider_registry", "LISTEN outrider_rollups")
NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
HEARTBEAT_S = 5.0
DEAF_S = 15.0
"""Without a word of the database for so long we no longer believe that we hear."""
REMEMBERED = 20_000
HOUR_MS = 3_600_000
K = TypeVar("K")


class Changes:
    """The last change of each device, tenant and hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_ms: int | None = None
        self._contact: tuple[int, float] = (0, float("-inf"))
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._hours: OrderedDict[int, int] = OrderedDict()
        self._floor_ms = 0

    def contact(self, now_ms: int) -> None:
        """The database answered; its clock says `now_ms`."""
        self._contact = (now_ms, self._clock())
        if self._since_ms is None:
            self._since_ms = now_ms

    def lost(self) -> None:
        """Changes may be missed from now on."""
        self._since_ms = None
        self._last.clear()
        self._hours.clear()

    @property
    def deaf(self) -> bool:
        """True while changes may be missed."""
        return self._since_ms is None or self._clock() - self._contact[1] > DEAF_S

    def now_ms(self) -> int:
        """The database's clock."""
        return self._contact[0] + int((self._clock() - self._contact[1]) * 1000)

    def tell(self, channel: str, payload: str, at_ms: int) -> None:
        """A change was heard; the database's clock said `at_ms` afterwards."""
        if channel == "outrider_rollups":
            if payload.isdecimal():
                self._note(self._hours, int(payload) // HOUR_MS, at_ms)
            return
        kind, _, name = payload.partition(":")
        if kind == "device":
            self._note(self._last, ("device", name), at_ms)
            self._note(self._last, ("fleet", ""), at_ms)
        elif kind == "tenant":
            self._note(self._last, ("tenant", name), at_ms)

    def newest_ms(self, tenant: str, device: str | None, asked: Range | None) -> int:
        """What was made of this before then is not good any more."""
        keys = [("tenant", tenant), ("fleet", "") if device is None else ("device", device)]
        newest = max(self._since_ms or 0, self._floor_ms, *(self._last.get(key, 0) for key in keys))
        if asked is not None and self._hours:
            hours = range(asked.start_ms // HOUR_MS, (asked.end_ms - 1) // HOUR_MS + 1)
            if len(hours) < len(self._hours):
                newest = max(newest, *(self._hours.get(hour, 0) for hour in hours))
            else:
                newest = max(newest, *(at_ms for hour, at_ms in self._hours.items() if hour in hours), 0)
        return newest

    def _note(self, into: OrderedDict[K, int], key: K, at_ms: int) -> None:
        into[key] = at_ms
        into.move_to_end(key)
        if len(into) > REMEMBERED:
            _, forgotten_ms = into.popitem(last=False)
            self._floor_ms = max(self._floor_ms, forgotten_ms)


async def listen(database_url: str, application_name: str, changes: Changes) -> None:
    """Tell `changes` until cancelled."""
    backoff = Backoff()
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                database_url,
                autocommit=True,
                application_name=application_name,
                connect_timeout=5,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=15000,
            )
            async with connection:
                for statement in LISTEN:
                    await connection.execute(statement)
                changes.contact(await _now(connection))
                backoff.reset()
                while True:
                    notices = [one async for one in connection.notifies(timeout=HEARTBEAT_S, stop_after=1)]
                    # asked after they came, so that whatever was made before their commit is older
                    now_ms = await _now(connection)
                    for notice in notices:
                        changes.tell(notice.channel, notice.payload, now_ms)
                    changes.contact(now_ms)
        except psycopg.Error as error:
            log.warning("changes_not_heard", extra={"reason": str(error).strip().split("\n", 1)[0]})
        finally:
            changes.lost()
        await asyncio.sleep(backoff.next_s())


async def _now(connection: psycopg.AsyncConnection) -> int:
    row = await (await connection.execute(NOW)).fetchone()
    assert row is not None
    return int(row[0])
