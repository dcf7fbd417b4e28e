"""Takes rows into the archive before they go, file by file, and devices out of it again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import Counter, Gauge

from outrider.runtime.errors import Transient
from outrider_lifecycle.archive import cipher as ciphers
from outrider_lifecycle.archive import tables
from outrider_lifecycle.archive.cipher import Cipher, Unreadable
from outrider_lifecycle.archive.files import README, S3, Files
from outrider_lifecycle.archive.tables import SAMPLE, TABLES, Table
from outrider_lifecycle.context import Expiring, LateRow, Lifecycle
from outrider_lifecycle.settings import Settings

log = logging.getLogger(__name__)

ROWS = Counter("outrider_lifecycle_archived_rows", "Rows that were archived", ["table"])
BYTES = Gauge("outrider_lifecycle_archive_bytes", "Bytes of all files of the archive")
WAITING = Gauge("outrider_lifecycle_archive_waiting_files", "Files that are not complete or to be deleted")

ARCHIVING = "SELECT t FROM unnest(%s::text[]) t WHERE (lifecycle.policy_of(t)).archive"
BEGIN = """
INSERT INTO lifecycle.archive (id, tenant, day, table_name, file, late, rows, bytes, sha256, first_at, last_at, devices, recipients)
VALUES (%(id)s, %(tenant)s, %(day)s, %(table)s, %(file)s, %(late)s, %(rows)s, %(bytes)s, %(sha256)s, %(first)s, %(last)s,
        %(devices)s, %(recipients)s)
"""
END = "UPDATE lifecycle.archive SET state = 'complete', verified_at = now() WHERE id = ANY (%s) AND state = 'writing'"
DOOM = "UPDATE lifecycle.archive SET state = 'doomed' WHERE id = ANY (%s)"
COLUMNS = "SELECT id, tenant, day, table_name, file, sha256, recipients <> '{}' AS encrypted, late, rows FROM lifecycle.archive"
OF_DAY = COLUMNS + " WHERE (tenant, day, table_name, state) = (%s, %s, %s, 'complete') AND NOT late ORDER BY file"
KINDS = "SELECT id, kind FROM telemetry.series WHERE id = ANY (%s)"
HOLDING = COLUMNS + " WHERE tenant = %s AND state = 'complete' AND devices @> ARRAY[%s] ORDER BY file"
# While a file is written its transaction waits, however slow the archive is.
MAY_IDLE = "SET LOCAL idle_in_transaction_session_timeout = 0"
# A file that is just being completed has its row locked by who completes it.
ABANDON = """
UPDATE lifecycle.archive SET state = 'doomed' WHERE id IN (
    SELECT id FROM lifecycle.archive WHERE state = 'writing' AND id <> ALL (%s) FOR UPDATE SKIP LOCKED)
"""
DOOMED = "SELECT id, file FROM lifecycle.archive WHERE state = 'doomed' ORDER BY file LIMIT 1000"
FORGET = "DELETE FROM lifecycle.archive WHERE id = %s AND state = 'doomed'"
SIZE = """
SELECT coalesce(sum(bytes) FILTER (WHERE state = 'complete'), 0), count(*) FILTER (WHERE state IN ('writing', 'doomed'))
FROM lifecycle.archive
"""


@dataclass(frozen=True)
class Entry:
    """A complete file of the archive."""

    id: UUID
    tenant: str
    day: date
    table: str
    file: str
    sha256: str
    encrypted: bool
    late: bool
    rows: int


class Archive:
    """The archive of this platform."""

    def __init__(self, lifecycle: Lifecycle, files: Files, cipher: Cipher, part_rows: int) -> None:
        self.lifecycle = lifecycle
        self.files = files
        self.cipher = cipher
        self._part_rows = part_rows
        self._busy: set[UUID] = set()
        self._described = False
        self.lock = asyncio.Lock()
        """Held while a day is taken in, and while devices are taken out."""

    @classmethod
    def of(cls, lifecycle: Lifecycle) -> Archive | None:
        """The archive of the settings, None where there is none. Raises BadArchive and BadKeys."""
        settings: Settings = lifecycle.settings
        if not settings.archive_url:
            return None
        secret = settings.archive_s3_secret_key_file
        try:
            secret_key = secret.read_text().strip() if secret else ""
        except OSError as error:
            raise ciphers.BadKeys(f"{secret} cannot be read: {error.strerror}.") from error
        s3 = S3(settings.archive_s3_endpoint, settings.archive_s3_region, settings.archive_s3_access_key, secret_key)
        cipher = ciphers.load(
            settings.archive_recipients_file,
            settings.archive_identity_file,
            encrypted=settings.archive_encryption == "age",
        )
        return cls(lifecycle, Files(settings.archive_url, s3), cipher, settings.archive_part_rows)

    # -------------------------------------------------------------------------------------------- what expires
    async def before_drop(self, expiring: Expiring) -> None:
        """Archive what is about to be removed. Raises Transient: it must stay."""
        table = TABLES.get(expiring.table)
        if table is None:
            return
        async with self.lifecycle.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            found = await table.days(connection, expiring)
            tenants = sorted({tenant for tenant, _, _ in found})
            wanted = {tenant for (tenant,) in await (await connection.execute(ARCHIVING, (tenants,))).fetchall()}
        for tenant, day, rows in found:
            if tenant in wanted:
                await self.keep(table, tenant, day, rows)

    async def keep(self, table: Table, tenant: str, day: date, rows: int) -> None:
        """Have in the archive what the database holds of this day (so many rows). Once that returns they may go."""
        async with self.lock:
            async with self.lifecycle.transaction() as connection:
                cursor = await connection.execute(OF_DAY, (tenant, day, table.name))
                before = [Entry(*row) for row in await cursor.fetchall()]
            if before and table is SAMPLE and rows <= sum(entry.rows for entry in before):
                return  # a day begun before: numbers below the horizon get no more, and some may be removed already
            there = tables.counted([part for entry in before if (part := await self._readable(entry)) is not None])
            written: list[UUID] = []
            try:
                async with self.lifecycle.database.transaction() as connection:
                    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    await connection.execute("SET LOCAL statement_timeout = 0")
                    await connection.execute(MAY_IDLE)
                    async for part in table.parts(connection, tenant, day, self._part_rows):
                        new = tables.beyond(part, there) if there else part
                        if new.num_rows:
                            written.append(await self._write(table.name, tenant, day, new))
                async with self.lifecycle.transaction() as connection:
                    await self._complete(connection, written)
            finally:
                self._busy.difference_update(written)
            log.info("day_archived", extra={"tenant": tenant, "day": str(day), "table": table.name, "rows": rows})

    async def _readable(self, entry: Entry) -> pa.Table | None:
        """The rows of a file; None where nobody here can tell: rather twice in the archive than not at all."""
        if entry.encrypted and not self.cipher.can_read:
            return None
        try:
            return await asyncio.to_thread(self.load, entry)
        except Unreadable as error:
            log.error("archive_unreadable", extra={"file": entry.file, "reason": str(error)})
            return None

    async def on_late(self, connection: psycopg.AsyncConnection, rows: Sequence[LateRow]) -> None:
        """Archive late samples of days that were removed, in the transaction that merges and deletes them."""
        tenants = sorted({row[0] for row in rows})
        wanted = {tenant for (tenant,) in await (await connection.execute(ARCHIVING, (tenants,))).fetchall()}
        if not wanted:
            return
        await connection.execute(MAY_IDLE)
        kinds: dict[int, str] = dict(await (await connection.execute(KINDS, ([row[3] for row in rows],))).fetchall())
        of_day: dict[tuple[str, date], list[tuple[Any, ...]]] = defaultdict(list)
        for tenant, device, metric, series, ts, value in rows:
            if tenant in wanted and series in kinds:
                of_day[tenant, ts.astimezone(UTC).date()].append((device, metric, kinds[series], ts, value))
        written: list[UUID] = []
        try:
            for (tenant, day), found in sorted(of_day.items()):
                for start in range(0, len(found), self._part_rows):
                    part = SAMPLE.table(found[start : start + self._part_rows])
                    written.append(await self._write(SAMPLE.name, tenant, day, part, late=True))
            await self._complete(connection, written)
        finally:
            self._busy.difference_update(written)

    async def _write(self, table: str, tenant: str, day: date, rows: pa.Table, *, late: bool = False) -> UUID:
        """One file, written, read back and compared; its row says `writing` until somebody completes it."""
        id_ = uuid4()
        self._busy.add(id_)
        try:
            ending = ".parquet.age" if self.cipher.recipients else ".parquet"
            file = f"v1/tenant={tenant}/day={day}/{table.replace('.', '-')}-{id_.hex[:16]}{ending}"
            sealed = await asyncio.to_thread(self._seal, rows, tenant, day, table)
            entry = {
                "id": id_,
                "tenant": tenant,
                "day": day,
                "table": table,
                "file": file,
                "late": late,
                "rows": rows.num_rows,
                "bytes": len(sealed),
                "sha256": hashlib.sha256(sealed).hexdigest(),
                "first": _time(pc.min(rows["ts"])),
                "last": _time(pc.max(rows["ts"])),
                "devices": sorted(pc.unique(rows["device"]).to_pylist()),
                "recipients": self.cipher.recipients,
            }
            async with self.lifecycle.transaction() as connection:
                await connection.execute(BEGIN, entry)
            await asyncio.to_thread(self._store, file, sealed, entry, rows)
        except BaseException:
            self._busy.discard(id_)
            raise
        ROWS.labels(table).inc(rows.num_rows)
        return id_

    def _seal(self, rows: pa.Table, tenant: str, day: date, table: str) -> bytes:
        data = tables.encode(rows, tenant, day, table)
        if not tables.decode(data).equals(rows):  # without a secret key it cannot be read any more later
            raise Transient(f"the Parquet file of {table} of {tenant} on {day} does not hold the rows it should")
        return self.cipher.seal(data)

    def _store(self, file: str, sealed: bytes, entry: dict[str, Any], rows: pa.Table) -> None:
        if not self._described:
            self.files.write("README.txt", README.encode())
            self._described = True
        beside = {name: value for name, value in entry.items() if name not in ("id", "devices", "file")}
        self.files.write(f"{file}.json", json.dumps(beside, indent=1, default=str).encode() + b"\n")
        self.files.write(file, sealed)
        try:
            found = self.files.read(file)
        except FileNotFoundError:
            found = b""
        if hashlib.sha256(found).hexdigest() != entry["sha256"]:
            raise Transient(f"{file} does not read back from the archive as it was written")
        if self.cipher.can_read and not tables.decode(
            self.cipher.open(found, encrypted=bool(self.cipher.recipients))
        ).equals(rows):
            raise Transient(f"{file} does not decrypt to what was written")

    async def _complete(self, connection: psycopg.AsyncConnection, ids: Sequence[UUID]) -> None:
        cursor = await connection.execute(END, (list(ids),))
        if cursor.rowcount != len(ids):
            raise Transient("files of the archive were given up meanwhile; they are written again")

    # -------------------------------------------------------------------------------------------- what is erased
    async def erase(self, tenant: str, device: str) -> tuple[int, int, list[str]]:
        """Write every file that has rows of a device anew without them: (files, rows, files nobody here can read).

        Files are written anew one by one; a kill between leaves each either old or new. Raises Transient.
        """
        changed, removed, unreadable = 0, 0, []
        async with self.lock:
            async with self.lifecycle.transaction() as connection:
                rows = await (await connection.execute(HOLDING, (tenant, device))).fetchall()
            for entry in [Entry(*row) for row in rows]:
                if entry.encrypted and not self.cipher.can_read:
                    unreadable.append(entry.file)
                    continue
                try:
                    removed += await self._rewrite(entry, device)
                    changed += 1
                except Unreadable:
                    unreadable.append(entry.file)
        await self.tidy()
        return changed, removed, unreadable

    async def _rewrite(self, entry: Entry, device: str) -> int:
        before = await asyncio.to_thread(self.load, entry)
        after = tables.without(before, [device])
        written: list[UUID] = []
        try:
            if after.num_rows:
                written.append(await self._write(entry.table, entry.tenant, entry.day, after, late=entry.late))
            async with self.lifecycle.transaction() as connection:
                await self._complete(connection, written)
                await connection.execute(DOOM, ([entry.id],))
        finally:
            self._busy.difference_update(written)
        return int(before.num_rows - after.num_rows)

    def load(self, entry: Entry) -> pa.Table:
        """The rows of a file, after comparing its checksum. Blocks. Raises Unreadable with what is wrong, or Transient."""
        try:
            data = self.files.read(entry.file)
        except FileNotFoundError:
            raise Unreadable("the file is not there") from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise Unreadable("the file is not what was written: its SHA-256 differs")
        try:
            return tables.decode(self.cipher.open(data, encrypted=entry.encrypted))
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(f"the file is no Parquet file: {error}") from error

    async def tidy(self) -> None:
        """Remove what was left half written, and what was written anew. Raises Transient."""
        async with self.lifecycle.transaction() as connection:
            await connection.execute(ABANDON, (list(self._busy),))
        while True:
            async with self.lifecycle.transaction() as connection:
                doomed = await (await connection.execute(DOOMED)).fetchall()
            for id_, file in doomed:
                await asyncio.to_thread(self._remove, file)
                async with self.lifecycle.transaction() as connection:
                    await connection.execute(FORGET, (id_,))
            if not doomed:
                break
        async with self.lifecycle.transaction() as connection:
            size, waiting = await (await connection.execute(SIZE)).fetchone() or (0, 0)
        BYTES.set(size)
        WAITING.set(waiting)

    def _remove(self, file: str) -> None:
        self.files.delete(file)
        self.files.delete(f"{file}.json")


def _time(scalar: pa.Scalar) -> datetime:
    found: datetime = scalar.as_py()
    return found.astimezone(UTC)
