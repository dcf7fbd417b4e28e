"""Stores log lines and events: whole messages, in the accounting's transaction, so that a numbered one is stored once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from math import inf
from typing import Any

import orjson
import psycopg
from psycopg import sql

from outrider.contract.batch import Header, Record
from outrider.contract.limits import TIME_MAX_MS, TIME_MIN_MS
from outrider.contract.reasons import EXPLANATION, Reason
from outrider.runtime import horizons
from outrider.runtime.copying import Row, copy_rows
from outrider.runtime.database import Database
from outrider.runtime.rejects import Rejection, as_payload
from outrider.runtime.verdicts import Verdicts

COPY = "COPY {table} (tenant, device, ts, {label}, message, fields, boot, seq, item, received_at) FROM STDIN"
STAGING = """
CREATE TEMP TABLE IF NOT EXISTS {staging} (
    n integer, tenant text, device text, ts timestamptz, label text, message text, fields jsonb, boot bigint, seq bigint,
    item integer
) ON COMMIT DELETE ROWS
"""
COPY_STAGING = "COPY pg_temp.{staging} FROM STDIN"
NOT_STORED = """
SELECT s.n FROM pg_temp.{staging} s
LEFT JOIN {table} t ON (t.tenant, t.device, t.ts, t.boot, t.seq, t.item) = (s.tenant, s.device, s.ts, s.boot, s.seq, s.item)
     AND (t.{label}, t.message, t.fields) = (s.label, s.message, s.fields)
WHERE t.tenant IS NULL
"""
PARTITIONS = "SELECT runtime.ensure_partitions(%s, %s)"


class RecordTable:
    """One table of records: `name` is `schema.table`, `label` its column for the level or type."""

    def __init__(self, name: str, label: str, stream: str) -> None:
        self._name = name
        self._stream = stream
        self._staging = "staging_" + name.replace(".", "_")
        names = {
            "table": sql.Identifier(*name.split(".")),
            "label": sql.Identifier(label),
            "staging": sql.Identifier(self._staging),
        }
        self._copy, self._create, self._copy_staging, self._not_stored = (
            sql.SQL(statement).format(**names).as_string(None)
            for statement in (COPY, STAGING, COPY_STAGING, NOT_STORED)
        )
        self._days: set[date] = set()

    def forget(self) -> None:
        """Forget which partitions exist (they were dropped, or the database is another one)."""
        self._days.clear()

    async def prepare(self, database: Database, messages: Sequence[Sequence[Record]]) -> None:
        """Create missing partitions; in a transaction of its own, because it locks the table. Raises Transient."""
        days = {_time(r.ts).date() for records in messages for r in records if _plausible(r.ts)}
        missing = days - self._days
        if missing:
            async with database.transaction() as connection:
                await connection.execute(PARTITIONS, (self._name, sorted(missing)))
            self._days |= missing

    async def store(
        self, connection: psycopg.AsyncConnection, verdicts: Verdicts, messages: Sequence[Sequence[Record]]
    ) -> int:
        """Store the fresh messages' records, compare those of stale ones; returns the number of rows stored."""
        fresh: list[Row] = []  # numbered by message
        stale: list[Row] = []
        # One rejection per message and reason, as they are unique on it.
        refused: dict[tuple[int, Reason], tuple[list[Record], str]] = {}

        expired: set[horizons.Expired] = set()
        gone = None
        if min((r.ts for records in messages for r in records), default=inf) < time.time() * 1000 - horizons.RECENT_MS:
            gone = await horizons.ask(connection, [self._name])

        def refuse(i: int, record: Record, reason: Reason, why: str) -> None:
            refused.setdefault((i, reason), ([], why))[0].append(record)

        for i, (header, records) in enumerate(zip(verdicts.headers, messages, strict=True)):
            if i in verdicts.full:
                self._refuse(verdicts, i, records, Reason.TOO_MANY_GAPS, "")
                continue
            for item, record in enumerate(records):
                if not _plausible(record.ts):
                    refuse(i, record, Reason.CLOCK_INVALID, EXPLANATION[Reason.CLOCK_INVALID])
                    continue
                if gone and record.ts < gone.before_ms(self._name, header.tenant):
                    if i in verdicts.stale:  # a duplicate, whose stored row may be gone
                        continue
                    expired.add((self._name, header.tenant, _time(record.ts).date()))
                row = self._row(header, item, record)
                if i in verdicts.stale:
                    stale.append((i, (i, *row[:-1])))
                else:
                    fresh.append((i, row))
        bad = 0

        def on_bad(row: Row, why: str) -> None:
            nonlocal bad
            bad += 1
            refuse(row[0], messages[row[0]][row[1][8]], Reason.BAD_VALUE, why)

        await horizons.note(connection, expired)
        await copy_rows(connection, self._copy, fresh, on_bad)
        if stale:
            await self._compare(
                connection,
                verdicts,
                stale,
                messages,
                lambda row, why: refuse(row[0], messages[row[0]][row[1][-1]], Reason.BAD_VALUE, why),
            )
        for (i, reason), (parts, why) in refused.items():
            self._refuse(verdicts, i, parts, reason, why)
        return len(fresh) - bad

    async def _compare(
        self,
        connection: psycopg.AsyncConnection,
        verdicts: Verdicts,
        rows: list[Row],
        messages: Sequence[Sequence[Record]],
        on_bad: Callable[[Row, str], None],
    ) -> None:
        await connection.execute(self._create)
        await copy_rows(connection, self._copy_staging, rows, on_bad)
        await connection.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
        cursor = await connection.execute(self._not_stored)
        different = {row[0] for row in await cursor.fetchall()}
        for i in sorted(different):
            detail = "this boot and seq are stored with other content; two devices may share one identity"
            self._refuse(verdicts, i, messages[i], Reason.CONFLICT, detail)

    def _row(self, header: Header, item: int, record: Record) -> tuple[Any, ...]:
        return (
            header.tenant,
            header.device,
            _time(record.ts),
            record.label,
            record.text,
            _fields(record.fields),
            header.boot,
            header.seq,
            item,
            _time(header.received_ms),
        )

    def _refuse(self, verdicts: Verdicts, i: int, records: Sequence[Record], reason: Reason, detail: str) -> None:
        header = verdicts.headers[i]
        verdicts.refuse(
            i,
            reason,
            Rejection(
                header.tenant,
                header.device,
                self._stream,
                header.boot,
                header.seq,
                reason,
                detail,
                f"fleet/v1/{header.tenant}/{header.device}/{self._stream}",
                as_payload([self._as_sent(record) for record in records]),
                header.received_ms,
            ),
        )

    def _as_sent(self, record: Record) -> dict[str, object]:
        names = ("level", "msg") if self._stream == "log" else ("type", "msg")
        return {**asdict(record)["fields"], "ts": record.ts, names[0]: record.label, names[1]: record.text}


def _plausible(ts: int) -> bool:
    return TIME_MIN_MS <= ts <= TIME_MAX_MS


def _time(ts: int) -> datetime:
    return datetime.fromtimestamp(ts / 1000, UTC)


def _fields(fields: dict[str, Any]) -> str:
    try:
        return orjson.dumps(fields).decode()
    except TypeError:  # a lone surrogate: escaped, so that PostgreSQL refuses this row and not the whole batch
        return as_payload(fields).decode()
