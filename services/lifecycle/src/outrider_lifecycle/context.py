"""What every job of lifecycle works with: built once in `app.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime

import psycopg

from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider.runtime.session import Publisher
from outrider_lifecycle.settings import Settings

GROUP = "lifecycle"
# A replica that was frozen may come back after another one took over: it must do nothing more.
HOLDS = "SELECT FROM runtime.slot WHERE (group_name, slot, holder) = (%s, 0, %s)"


class NoLongerTheOne(Transient):
    """Another replica does the work of lifecycle now; nothing to do."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Rows about to be removed: of `table` (schema.table), from `start` until before `end` (days, UTC).

    `tenants`: only of these; None: of everybody who still has rows there, but not of `but_not`, who keep theirs longer.
    `start` may be date.min: everything older.
    """

    table: str
    start: date
    end: date
    tenants: tuple[str, ...] | None = None
    but_not: tuple[str, ...] = ()

    def condition(self) -> tuple[str, list[str]]:
        """SQL about a column `tenant` with one placeholder, and its value."""
        if self.tenants is not None:
            return "tenant = ANY (%s)", list(self.tenants)
        return "tenant <> ALL (%s)", list(self.but_not)


BeforeDrop = Callable[[Expiring], Awaitable[None]]
"""Called before rows are removed, and again after a crash: returns when they may go, raises Transient when not yet."""
LateRow = tuple[str, str, str, int, datetime, float]
"""(tenant, device, metric, series id, time, value)"""
OnLate = Callable[[psycopg.AsyncConnection, Sequence[LateRow]], Awaitable[None]]
"""Called with late samples in the transaction that merges and deletes them; the same rows may come again."""


@dataclass
class Lifecycle:
    """The running service."""

    settings: Settings
    database: Database
    publisher: Publisher
    before_drop: list[BeforeDrop] = field(default_factory=list)
    on_late: list[OnLate] = field(default_factory=list)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """A transaction of the one replica that works. Raises NoLongerTheOne if that is another one, or Transient."""
        async with self.database.transaction() as connection:
            cursor = await connection.execute(HOLDS, (GROUP, self.database.application_name))
            if await cursor.fetchone() is None:
                raise NoLongerTheOne("another replica does the work of lifecycle now")
            yield connection
