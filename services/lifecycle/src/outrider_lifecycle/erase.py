"""Erasing a device or a person from every store, again and again until a look after everything settled finds nothing.

The registry has put up the tombstone and forgotten device or account in the transaction that made the row of
`lifecycle.erasure`. A pass here calls every schema's `erase_device` or `erase_person`, clears what the broker retains and
writes the archive anew. Each part is committed with its count, and finds nothing the second time.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from prometheus_client import Counter, Gauge
from psycopg.types.json import Jsonb

from outrider.runtime.errors import Transient
from outrider_lifecycle import retained
from outrider_lifecycle.archive import Archive
from outrider_lifecycle.context import Lifecycle
from outrider_lifecycle.jobs import Job, Progress

log = logging.getLogger(__name__)

OPEN = Gauge("outrider_lifecycle_erasures_open", "Erasures that are not done", ["state"])
ERASED = Counter("outrider_lifecycle_erased_rows", "Rows that were erased, by store", ["store"])
INTERVAL_S = 5.0
LOOK_AGAIN_S = 600.0
"""An erasure that waits for a person is looked at so often."""

UNFINISHED = """
SELECT id, tenant, kind, subject, tombstone, state, passes,
       requested_at < now() - make_interval(secs => %s) AND lifecycle.have_ended(waits_for) AS settled
FROM lifecycle.erasure WHERE state <> 'done' ORDER BY requested_at, id
"""
FIRST = "UPDATE lifecycle.erasure SET waits_for = lifecycle.running() WHERE id = %s AND passes = 0"
ERASERS = "SELECT lifecycle.erasers(%s)"
ERASE = "SELECT lifecycle.erase(%s, %s, %s, %s)"
REPORT = "SELECT report FROM lifecycle.erasure WHERE id = %s FOR UPDATE"
NOTE = "UPDATE lifecycle.erasure SET report = %s WHERE id = %s"
PASSED = "UPDATE lifecycle.erasure SET passes = passes + 1, state = %s, problem = %s WHERE id = %s"
DONE = "UPDATE lifecycle.erasure SET finished_at = now(), subject = %s WHERE id = %s"

AUDIT = {
    "what": "the audit",
    "why": "append-only and hash-chained: it keeps who did what to which device, and names of people who acted",
}
BACKUPS = {
    "what": "backups and copies of the database, the broker's files and the archive",
    "why": "lifecycle does not reach them: let them expire, and erase again after restoring one",
}
NOT_ERASED: dict[str, list[dict[str, str]]] = {
    "device": [
        AUDIT,
        BACKUPS,
        {"what": "the id itself, as a tombstone", "why": "so that nothing of the device is stored again"},
        {"what": "the number of its last credential", "why": "so that an old secret never works again"},
        {"what": "certificates' serial numbers, until they expire", "why": "so that they stay revoked"},
        {"what": "kept answers to retried requests, encrypted", "why": "they go by themselves within a day"},
        {"what": "messages queued at the broker for the device", "why": "nobody can fetch them; they expire"},
        {"what": "log files of the services", "why": "they may name the device; rotate them"},
    ],
    "person": [
        AUDIT,
        BACKUPS,
        {"what": "what others wrote about the person in free text", "why": "nobody but a person finds it"},
        {"what": "kept answers to retried requests, encrypted", "why": "they go by themselves within a day"},
        {"what": "log files of the services and of proxies", "why": "they may hold names and addresses; rotate them"},
    ],
}
"""What a report says was not erased, and why."""


@dataclass(frozen=True)
class Erasure:
    """One that is not done. `settled`: whatever was under way when it began has ended."""

    id: UUID
    tenant: str
    kind: str
    subject: str
    tombstone: bool
    state: str
    passes: int
    settled: bool


class Eraser:
    """Does what `lifecycle.erasure` asks for."""

    def __init__(self, lifecycle: Lifecycle, archive: Archive | None) -> None:
        self._lifecycle = lifecycle
        self._archive = archive
        self._waiting: dict[UUID, float] = {}

    async def run(self) -> bool:
        """A pass of every erasure that is due; True if one should go on at once. Raises Transient when one could not."""
        async with self._lifecycle.transaction() as connection:
            cursor = await connection.execute(UNFINISHED, (self._lifecycle.settings.erase_settle_s,))
            found = [Erasure(*row) for row in await cursor.fetchall()]
        for state in ("erasing", "settling", "waiting"):
            OPEN.labels(state).set(sum(erasure.state == state for erasure in found))
        problem: Transient | None = None
        more = False
        for erasure in found:
            try:
                if self._is_due(erasure):
                    more |= await self.once(erasure)
            except Transient as error:  # the others go on meanwhile
                problem = error
        if problem is not None:
            raise problem
        return more

    def _is_due(self, erasure: Erasure) -> bool:
        if erasure.state == "settling":
            return erasure.settled
        if erasure.state == "waiting":
            return time.monotonic() - self._waiting.get(erasure.id, -LOOK_AGAIN_S) >= LOOK_AGAIN_S
        return True

    async def once(self, erasure: Erasure) -> bool:
        """One pass; True if another one should follow at once. Raises Transient: what was done until then is done."""
        async with self._lifecycle.transaction() as connection:
            await connection.execute(FIRST, (erasure.id,))
            schemas = [schema for (schema,) in await (await connection.execute(ERASERS, (erasure.kind,))).fetchall()]
        found = 0
        for schema in schemas:
            async with self._lifecycle.transaction() as connection:
                await connection.execute("SET LOCAL statement_timeout = 0")
                arguments = (schema, erasure.kind, erasure.tenant, erasure.subject)
                row = await (await connection.execute(ERASE, arguments)).fetchone()
                found += await self._note(connection, erasure, schema, row[0] if row else {})
        problem = None
        if erasure.kind == "device":
            found += await self._clear_broker(erasure)
            removed, problem = await self._write_archive(erasure)
            found += removed
        settled = erasure.settled and erasure.passes > 0
        return await self._passed(erasure, found, problem, settled=settled)

    async def _clear_broker(self, erasure: Erasure) -> int:
        if not erasure.tombstone:
            return 0  # the topics are another tenant's device's by now
        cleared = await retained.clear(self._lifecycle, erasure.tenant, erasure.subject)
        async with self._lifecycle.transaction() as connection:
            return await self._note(connection, erasure, "broker", {"retained topics": cleared})

    async def _write_archive(self, erasure: Erasure) -> tuple[int, str | None]:
        if self._archive is None:
            return 0, None
        files, rows, unreadable = await self._archive.erase(erasure.tenant, erasure.subject)
        async with self._lifecycle.transaction() as connection:
            await self._note(connection, erasure, "archive", {"files written anew": files, "rows": rows})
        if not unreadable:
            return rows, None
        return rows, (
            f"{len(unreadable)} files of the archive still hold the device and cannot be read here, first {unreadable[0]}. "
            "Give lifecycle the archive's secret key (OUTRIDER_ARCHIVE_IDENTITY_FILE) and restart it; see "
            "`outrider archive verify` for damaged files."
        )

    async def _note(
        self, connection: psycopg.AsyncConnection, erasure: Erasure, store: str, counts: dict[str, int]
    ) -> int:
        """Add to the report, in the transaction that did it; how much was found."""
        row = await (await connection.execute(REPORT, (erasure.id,))).fetchone()
        report: dict[str, Any] = row[0] if row else {}
        before = report.get(store, {})
        report[store] = before | {part: before.get(part, 0) + rows for part, rows in counts.items()}
        await connection.execute(NOTE, (Jsonb(report), erasure.id))
        found = sum(counts.values())
        ERASED.labels(store).inc(found)
        return found

    async def _passed(self, erasure: Erasure, found: int, problem: str | None, *, settled: bool) -> bool:
        done = settled and not found and problem is None
        state = "done" if done else "waiting" if problem else "settling"
        if problem:
            self._waiting[erasure.id] = time.monotonic()
        async with self._lifecycle.transaction() as connection:
            await connection.execute(PASSED, (state, problem, erasure.id))
            if done:
                row = await (await connection.execute(REPORT, (erasure.id,))).fetchone()
                report = (row[0] if row else {}) | {"not_erased": NOT_ERASED[erasure.kind]}
                await connection.execute(NOTE, (Jsonb(report), erasure.id))
                subject = erasure.subject if erasure.kind == "device" else digest_of(erasure.subject)
                await connection.execute(DONE, (subject, erasure.id))
        log.info("erasure_passed", extra={"erasure": str(erasure.id), "state": state, "rows": found})
        return settled and not done and not problem


def digest_of(name: str) -> str:
    """What stays of a person's name in a finished erasure: enough to answer "was this name erased?", not to read it."""
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()[:16]


def jobs(lifecycle: Lifecycle, archive: Archive | None) -> list[Job]:
    """At once when somebody asks, and until all is done."""
    eraser = Eraser(lifecycle, archive)

    async def run(progress: Progress) -> bool:
        return await eraser.run()

    return [Job("erase", INTERVAL_S, run)]
