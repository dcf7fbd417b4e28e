"""Log lines in PostgreSQL: one transaction takes the lines, their accounting and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import errors as pg

from outrider.contract.batch import Header, Range, Record, RecordBatch
from outrider.runtime import rejects
from outrider.runtime.accounting import Accounting, Key, ledger_id
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider.runtime.records import RecordTable
from outrider.runtime.tombstones import Tombstones, TombstonesChanged
from outrider.runtime.verdicts import Verdicts, count, judge


class LogStore:
    """Stores log batches exactly once for numbered messages."""

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._group = group
        self._accounting = Accounting("logs", group)
        self._lines = RecordTable("logs.line", "level", "log")
        self._ledger: str | None = None
        self._tombstones = Tombstones()

    async def store(self, batches: Sequence[tuple[str, RecordBatch]]) -> tuple[str, Verdicts, int]:
        """Commit lines and accounting; returns the ledger's id, the verdicts to acknowledge and the lines stored.

        Raises Transient when nothing was stored.
        """
        headers: list[Header] = [header for _, batch in batches for header in batch.headers]
        records: list[list[Record]] = [r for _, batch in batches for r in batch.records]
        while True:
            tombstones = self._tombstones.version
            kept, lines, erased = self._tombstones.sort(headers, records)
            try:
                ledger, verdicts, stored = await self._store(batches, kept, lines, tombstones)
            except TombstonesChanged:
                continue
            verdicts.erased = erased
            return ledger, verdicts, stored

    async def _store(
        self,
        batches: Sequence[tuple[str, RecordBatch]],
        headers: list[Header],
        records: list[list[Record]],
        tombstones: int | None,
    ) -> tuple[str, Verdicts, int]:
        await self._lines.prepare(self._database, records)
        try:
            async with self._database.transaction() as connection:
                self._ledger = await ledger_id(connection)
                await self._tombstones.check(connection, await self._tombstones.ask(connection), tombstones, headers)
                verdicts = await judge(connection, self._accounting, headers)
                stored = await self._lines.store(connection, verdicts, records)
                await self._accounting.count(connection, count(verdicts))
                await rejects.keep(connection, self._group, verdicts.rejections)
                await self._accounting.commit_numbers(connection, [(topic, b.number) for topic, b in batches])
        except pg.CheckViolation as error:  # a partition we knew was dropped meanwhile
            self._lines.forget()
            raise Transient("a partition is missing; it is created on the next try") from error
        return self._ledger, verdicts, stored

    async def needs(self) -> tuple[str | None, list[tuple[Key, list[Range]]]]:
        """The ledger's id and the gaps to ask devices for."""
        async with self._database.transaction() as connection:
            return self._ledger, await self._accounting.needs(connection)
