"""Verifying and restoring, as somebody asked for it: one file a step, so that progress is seen and nothing is done twice."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from psycopg.types.json import Jsonb

from outrider_lifecycle.archive import tables
from outrider_lifecycle.archive.cipher import Unreadable
from outrider_lifecycle.archive.keeper import Archive, Entry
from outrider_lifecycle.archive.tables import TABLES
from outrider_lifecycle.jobs import Job, Progress

INTERVAL_S = 3600.0

NEXT_TASK = """
UPDATE lifecycle.archive_task SET state = 'running' WHERE id = (
    SELECT id FROM lifecycle.archive_task WHERE state IN ('queued', 'running') ORDER BY requested_at, id LIMIT 1)
RETURNING id, tenant, kind, first_day, last_day, devices, keep_days, after
"""
NEXT_FILE = """
SELECT id, tenant, day, table_name, file, sha256, recipients <> '{}' AS encrypted, late, rows FROM lifecycle.archive
WHERE state = 'complete' AND %(tenant)s IN ('*', tenant) AND day BETWEEN %(first)s AND %(last)s
  AND (%(devices)s::text[] IS NULL OR devices && %(devices)s) AND file > %(after)s
ORDER BY file LIMIT 1
"""
NOTE = """
UPDATE lifecycle.archive_task SET files_done = files_done + 1, rows = rows + %(rows)s, after = %(file)s,
    files = greatest(files, files_done + 1), problems = problems || %(problem)s
WHERE id = %(id)s
"""
VERIFIED = "UPDATE lifecycle.archive SET verified_at = now() WHERE id = %s"
FINISH = """
UPDATE lifecycle.archive_task SET finished_at = now(), files = files_done,
    state = CASE WHEN problems = '[]' THEN 'done' ELSE 'failed' END WHERE id = %s
"""
RESTORED = "SELECT EXISTS (SELECT FROM restored.day WHERE archive = %s)"
ERASED = "SELECT device FROM runtime.tombstone WHERE tenant = %s"
NOTE_DAY = """
INSERT INTO restored.day (archive, tenant, day, table_name, rows, until)
VALUES (%s, %s, %s, %s, %s, now() + make_interval(days => %s))
"""
OVER = "SELECT archive, table_name FROM restored.day WHERE until < now() ORDER BY day, archive LIMIT 1"
REMOVE = "DELETE FROM restored.{} WHERE archive = %s"
FORGET_DAY = "DELETE FROM restored.day WHERE archive = %s"
FORGET_TASKS = "DELETE FROM lifecycle.archive_task WHERE finished_at < now() - interval '30 days'"


def jobs(archive: Archive) -> list[Job]:
    """Tidy up, do what was asked for, remove what was restored long enough ago."""

    async def run(progress: Progress) -> bool:
        await archive.tidy()
        return await work(archive) or await expire(archive)

    return [Job("archive", INTERVAL_S, run)]


async def work(archive: Archive) -> bool:
    """One file of the oldest task; False when nothing is asked for. Raises Transient."""
    async with archive.lifecycle.transaction() as connection:
        row = await (await connection.execute(NEXT_TASK)).fetchone()
        if row is None:
            await connection.execute(FORGET_TASKS)
            return False
        id_, tenant, kind, first, last, devices, keep_days, after = row
        span = {"tenant": tenant, "first": first, "last": last, "devices": devices, "after": after}
        found = await (await connection.execute(NEXT_FILE, span)).fetchone()
        if found is None:
            await connection.execute(FINISH, (id_,))
            return True
    entry = Entry(*found)
    note: dict[str, Any] = {"id": id_, "rows": 0, "file": entry.file, "problem": Jsonb([])}
    try:
        if kind == "verify":
            note["rows"] = await asyncio.to_thread(verify, archive, entry)
            async with archive.lifecycle.transaction() as connection:
                await connection.execute(VERIFIED, (entry.id,))
                await connection.execute(NOTE, note)
        else:
            await restore(archive, entry, devices, keep_days, note)
    except Unreadable as error:
        note["problem"] = Jsonb([{"file": entry.file, "problem": str(error)}])
        async with archive.lifecycle.transaction() as connection:
            await connection.execute(NOTE, note)
    return True


def verify(archive: Archive, entry: Entry) -> int:
    """Read a file and compare it with what the database knows of it; its rows. Without a secret key only its checksum.

    Blocks. Raises Unreadable with what is wrong, or Transient.
    """
    if entry.encrypted and not archive.cipher.can_read:
        try:
            data = archive.files.read(entry.file)
        except FileNotFoundError:
            raise Unreadable("the file is not there") from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise Unreadable("the file is not what was written: its SHA-256 differs")
        return entry.rows
    found = archive.load(entry)
    if found.num_rows != entry.rows:
        raise Unreadable(f"the file has {found.num_rows} rows instead of {entry.rows}")
    if not found.schema.equals(TABLES[entry.table].schema):
        raise Unreadable(f"the file's columns are not those of {entry.table}")
    return entry.rows


async def restore(
    archive: Archive, entry: Entry, devices: list[str] | None, keep_days: int, note: dict[str, Any]
) -> None:
    """The rows of a file into the schema `restored`, once. Raises Unreadable, Transient."""
    rows = await asyncio.to_thread(archive.load, entry)
    async with archive.lifecycle.transaction() as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        (there,) = await (await connection.execute(RESTORED, (entry.id,))).fetchone() or (False,)
        if there:  # of another selection of devices, maybe: the whole file is put there once more
            await connection.execute(REMOVE.format(TABLES[entry.table].restored).encode(), (entry.id,))
            await connection.execute(FORGET_DAY, (entry.id,))
        erased = [device for (device,) in await (await connection.execute(ERASED, (entry.tenant,))).fetchall()]
        if erased:  # a file that could not be written anew yet
            rows = tables.without(rows, erased)
        if devices is not None and not there:
            rows = tables.only(rows, devices)
        await TABLES[entry.table].restore(connection, rows, entry.tenant, str(entry.id))
        day = (entry.id, entry.tenant, entry.day, entry.table, rows.num_rows, keep_days)
        await connection.execute(NOTE_DAY, day)
        note["rows"] = rows.num_rows
        await connection.execute(NOTE, note)


async def expire(archive: Archive) -> bool:
    """Remove the rows of one file whose time in `restored` is over; False when there is none. Raises Transient."""
    async with archive.lifecycle.transaction() as connection:
        row = await (await connection.execute(OVER)).fetchone()
        if row is None:
            return False
        await connection.execute(REMOVE.format(TABLES[row[1]].restored).encode(), (row[0],))
        await connection.execute(FORGET_DAY, (row[0],))
    return True
