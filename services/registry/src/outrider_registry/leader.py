"""The one replica that does what must be done once: it holds a lock in PostgreSQL and hears every change of the registry.

The lock lives in a database session of its own, of the replica that attends the registry's slot. Whoever takes the slot
over ends the old holder's sessions, and with them this lock (delivery rule 12), so a frozen replica does not stay the leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg import sql

from outrider.runtime import cancelling
from outrider.runtime.backoff import Backoff
from outrider.runtime.database import POISON
from outrider.runtime.errors import Transient

log = logging.getLogger(__name__)

CHANNEL = "outrider_registry"
EVERYTHING = "*"
"""Anything may have changed: read it all again."""
_LOCK = 7_305_412
_LOOK_S = 2.0
_SETTLED_S = 2.0
"""A duty that was interrupted and works for so long again has no problem any more."""


class Changes:
    """What changed and has not been looked at yet, of some kinds: `device:van-7`, `command:…`, or EVERYTHING."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = frozenset(kinds)
        self._changed: set[str] = {EVERYTHING}
        self._any = asyncio.Event()
        self._any.set()

    def tell(self, change: str) -> None:
        """Note a change, if it is of one of the kinds."""
        if change == EVERYTHING or change.partition(":")[0] in self._kinds:
            self._changed.add(change)
            self._any.set()

    async def take(self, timeout_s: float, settle_s: float = 0.02) -> set[str]:
        """Wait for a change, then `settle_s` for its companions; the empty set after `timeout_s` without one.

        The first call returns EVERYTHING at once.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._any.wait()
        if self._any.is_set() and settle_s:
            await asyncio.sleep(settle_s)
        taken, self._changed = self._changed, set()
        self._any.clear()
        return taken


Duty = tuple[str, Sequence[str], Callable[[Changes], Awaitable[None]]]
"""Name, the kinds of changes it wants to hear of, and what runs until cancelled; it raises Transient to be run again."""


class Leader:
    """Runs duties while this replica is the one."""

    def __init__(
        self,
        database_url: str,
        application_name: str,
        duties: Sequence[Duty],
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_lead`: whether this replica attends the slot."""
        self._database_url = database_url
        self._application_name = application_name
        self._duties = duties
        self._may_lead = may_lead
        self._problems: dict[str, str] = {}
        self.leads = False
        """True while this replica does the duties."""

    def problem(self) -> str | None:
        """What keeps a duty of the leader from being done; a replica that stands by has none."""
        return "; ".join(f"{name}: {problem}" for name, problem in self._problems.items()) or None

    async def run(self) -> None:
        """Stand by, lead, and stand by again, until cancelled."""
        backoff = Backoff()
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._database_url,
                    autocommit=True,
                    application_name=self._application_name,
                    connect_timeout=5,
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=3,
                    tcp_user_timeout=15000,
                )
                async with connection:
                    # Asked again and again instead of waiting inside the server: a cancelled wait would hold it up.
                    while not (self._may_lead() and await self._locked(connection)):
                        cancelling.heed()
                        backoff.reset()
                        await asyncio.sleep(1)
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    backoff.reset()
                    await self._lead(connection)
            except psycopg.Error as error:
                log.warning("leadership_lost", extra={"reason": str(error).strip().split("\n", 1)[0]})
            self._problems.clear()
            await asyncio.sleep(backoff.next_s())

    async def _locked(self, connection: psycopg.AsyncConnection) -> bool:
        row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))).fetchone()
        return bool(row and row[0])

    async def _lead(self, connection: psycopg.AsyncConnection) -> None:
        heard = [(name, Changes(kinds), work) for name, kinds, work in self._duties]
        log.info("leads", extra={"duties": [name for name, *_ in heard]})
        self.leads = True
        tasks = [asyncio.create_task(self._do(name, changes, work), name=name) for name, changes, work in heard]
        try:
            while self._may_lead():
                async for notice in connection.notifies(timeout=_LOOK_S):
                    for _, changes, _ in heard:
                        changes.tell(notice.payload)
                await connection.execute("SELECT 1")  # a connection that died without a word is noticed
                cancelling.heed()
                for task in tasks:
                    if task.done():
                        task.result()  # a mistake of ours: ends the service with its traceback
            log.warning("leadership_lost", extra={"reason": "the slot is another replica's now"})
        finally:
            self.leads = False
            await cancelling.end(tasks, 1.0)

    async def _do(self, name: str, changes: Changes, work: Callable[[Changes], Awaitable[None]]) -> None:
        backoff = Backoff()

        def settled() -> None:
            self._problems.pop(name, None)
            backoff.reset()

        while True:
            timer = asyncio.get_running_loop().call_later(_SETTLED_S, settled)
            try:
                await work(changes)
                return
            except Transient as error:
                self._problems[name] = str(error)
                log.warning("duty_interrupted", extra={"duty": name, "reason": str(error)})
            except POISON as error:  # a row that cannot be: the other duties go on, and a restart would find it again
                self._problems[name] = str(error).strip().split("\n", 1)[0]
                log.exception("duty_failed", extra={"duty": name})
            finally:
                timer.cancel()
            await asyncio.sleep(backoff.next_s())
            changes.tell(EVERYTHING)
