"""What expires is in the archive, whole and readable by everybody's tools, before it goes; and comes back as it was."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from outrider.runtime import horizons
from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.testing.fixtures import Database
from outrider.testing.waiting import eventually
from outrider_lifecycle.archive import Archive, cipher, tasks
from outrider_lifecycle.archive.files import Files
from outrider_lifecycle.context import Expiring, Lifecycle
from outrider_lifecycle.jobs import Progress
from outrider_lifecycle.retention import Retention
from outrider_lifecycle.rollups import Rollups

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILL = """
INSERT INTO telemetry.series (tenant, device, metric, kind)
SELECT t, t || '-' || n, m, k FROM unnest(ARRAY['acme', 'other']) t, generate_series(1, 3) n,
       (VALUES ('speed', 'number'), ('on', 'boolean'), ('note', 'string'), ('shape', 'json')) v(m, k);
INSERT INTO telemetry.sample SELECT id, %(day)s + n * interval '10 minutes', CASE kind WHEN 'number' THEN n / 7.0 ELSE n %% 2 END
FROM telemetry.series, generate_series(0, 143) n WHERE kind IN ('number', 'boolean');
INSERT INTO telemetry.sample SELECT id, %(day)s + interval '1 day', 99 FROM telemetry.series WHERE kind = 'number';
INSERT INTO telemetry.sample_text SELECT id, %(day)s + interval '3 hours', 'ä "quoted", \\ and ' || chr(10) || device
FROM telemetry.series WHERE kind = 'string';
INSERT INTO telemetry.sample_json SELECT id, %(day)s + interval '4 hours', '{"a": [1, 2.50, null]}' FROM telemetry.series
WHERE kind = 'json';
INSERT INTO telemetry.event SELECT tenant, device, %(day)s + interval '5 hours', 'button', 'pressed', '{"n": 1}',
       CASE WHEN n > 1 THEN 7 END, CASE WHEN n > 1 THEN n END, n, %(day)s + interval '6 hours'
FROM (SELECT DISTINCT tenant, device FROM telemetry.series) d, generate_series(1, 2) n;
INSERT INTO logs.line SELECT tenant, device, ts, 'info', message, fields, boot, seq, item, received_at FROM telemetry.event;
"""
SAMPLES = """
SELECT s.tenant, s.device, s.metric, s.kind, p.ts, p.value{cast}
FROM telemetry.{table} p JOIN telemetry.series s ON s.id = p.series_id
WHERE s.tenant = 'acme' AND p.ts < %s ORDER BY 1, 2, 3, 4, 5
"""
RECORDS = "SELECT * FROM {table} WHERE tenant = 'acme' ORDER BY tenant, device, ts, boot, seq, item"
TABLES = ("telemetry.sample", "telemetry.sample_text", "telemetry.sample_json", "telemetry.event", "logs.line")


@pytest.fixture
def filled(database: Database) -> Database:
    with psycopg.connect(database.admin_url, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(FILL.encode(), {"day": datetime(2026, 3, 1, tzinfo=UTC)})
    return database


@pytest.fixture
async def archive(lifecycle: Lifecycle, tmp_path: Path) -> Archive:
    return made(lifecycle, tmp_path)


def made(lifecycle: Lifecycle, folder: Path, **options: Any) -> Archive:
    """An archive in a folder, as a process that just started has it."""
    keys = cipher.load(None, folder / "keys" / "archive.age", encrypted=True)
    return Archive(lifecycle, Files(f"file://{folder}/archive"), keys, options.pop("part_rows", 100))


def stored(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Acme's rows of the day, by table."""
    end = datetime(2026, 3, 2, tzinfo=UTC)
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for table in ("sample", "sample_text", "sample_json"):
        cast = "::text" if table == "sample_json" else ""
        rows[table] = database.rows(SAMPLES.format(table=table, cast=cast), end)
    rows["event"] = database.rows(RECORDS.format(table="telemetry.event"))
    rows["line"] = database.rows(RECORDS.format(table="logs.line"))
    return rows


def restored(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """The same from the schema `restored`."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for table in ("sample", "sample_text", "sample_json"):
        cast = "::text" if table == "sample_json" else ""
        rows[table] = database.rows(
            f"SELECT tenant, device, metric, kind, ts, value{cast} FROM restored.{table}"
            " WHERE tenant = 'acme' ORDER BY 1, 2, 3, 4, 5"
        )
    for table in ("event", "line"):
        rows[table] = [row[:-1] for row in database.rows(RECORDS.format(table=f"restored.{table}"))]
    return rows


async def take(archive: Archive, *tables: str) -> None:
    for table in tables or TABLES:
        await archive.before_drop(Expiring(table, DAY, DAY + timedelta(days=1)))


async def task(archive: Archive, database: Database, kind: str, devices: list[str] | None = None) -> tuple[Any, ...]:
    """(state, files, rows, problems) of a task when it is over."""
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("SELECT set_config('outrider.tenant', 'acme', true)")
        ask = "SELECT lifecycle.tenant_request_archive_task(%s, %s, %s, %s, 7)"
        (id_,) = connection.execute(ask, (kind, DAY, DAY, devices)).fetchone() or ("",)
    while await tasks.work(archive):
        pass
    columns = "state, files_done, rows, problems"
    return database.rows(f"SELECT {columns} FROM lifecycle.archive_task WHERE id = %s", id_)[0]


def files(folder: Path) -> set[str]:
    """Everything below the archive's root but its README."""
    root = folder / "archive"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {"README.txt"}


def manifest(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT table_name, tenant, rows, late FROM lifecycle.archive ORDER BY file")


async def test_a_day_leaves_and_comes_back_as_it_was(archive: Archive, filled: Database, tmp_path: Path) -> None:
    before = stored(filled)
    assert len(before["sample"]) == 3 * 2 * 144
    filled.rows("SELECT lifecycle.set_policy('other', '{\"archive\": false}')")
    await take(archive)
    assert {tenant for _, tenant, _, _ in manifest(filled)} == {"acme"}
    assert sum(rows for table, _, rows, _ in manifest(filled) if table == "telemetry.sample") == 3 * 2 * 144
    for table in TABLES:
        filled.rows(f"DELETE FROM {table} WHERE ts < '2026-03-02'")
    assert await task(archive, filled, "restore") == ("done", 13, sum(map(len, before.values())), [])
    assert restored(filled) == before
    assert await task(archive, filled, "restore") == ("done", 13, sum(map(len, before.values())), [])
    assert restored(filled) == before, "restoring again doubles nothing"
    assert filled.value("SELECT count(*) FROM telemetry.sample") == 6, "the ledger is left alone"
    filled.rows("UPDATE restored.day SET until = now() - interval '1 second'")
    while await tasks.expire(archive):
        pass
    assert all(not rows for rows in restored(filled).values())


async def test_one_device_of_a_day_can_be_restored(archive: Archive, filled: Database) -> None:
    before = stored(filled)
    await take(archive)
    assert (await task(archive, filled, "restore", ["acme-2"]))[0] == "done"
    for table, rows in before.items():
        assert restored(filled)[table] == [row for row in rows if row[1] == "acme-2"], table


async def test_what_is_damaged_or_gone_is_found(archive: Archive, filled: Database, tmp_path: Path) -> None:
    await take(archive)
    assert await task(archive, filled, "verify") == ("done", 13, sum(map(len, stored(filled).values())), [])
    names = [file for (file,) in filled.rows("SELECT file FROM lifecycle.archive WHERE tenant = 'acme' ORDER BY file")]
    path = tmp_path / "archive" / names[3]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (tmp_path / "archive" / names[5]).unlink()
    state, _, _, problems = await task(archive, filled, "verify")
    assert state == "failed"
    assert [problem["file"] for problem in problems] == [names[3], names[5]]
    assert "SHA-256" in problems[0]["problem"]
    assert "not there" in problems[1]["problem"]


async def test_a_crash_at_any_step_leaves_every_row_once(
    lifecycle: Lifecycle, filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at its n-th step, for all n; the next one finds the days as they are, some rows removed already."""
    steps = 0

    class Crash(BaseException):
        """As kill -9: nothing of the process runs any more."""

    def dying(method: Any) -> Any:
        def step(self: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Crash
            return method(self, *arguments, **options)

        return step

    for name in ("write", "read", "delete"):
        monkeypatch.setattr(Files, name, dying(getattr(Files, name)))
    monkeypatch.setattr(Lifecycle, "transaction", dying(Lifecycle.transaction))
    before = stored(filled)
    crashes, done = 0, False
    while not done:
        crashes += 1
        steps = crashes
        try:
            archive = made(lifecycle, tmp_path, part_rows=300)
            await archive.tidy()
            await take(archive, "telemetry.sample", "telemetry.event")
            filled.rows("DELETE FROM telemetry.event WHERE tenant = 'acme' AND device = 'acme-1'")
            await archive.tidy()
            done = True
        except (Crash, Transient):
            pass
    steps = 10**9
    assert crashes > 25
    assert files(tmp_path) == {
        name for (file,) in filled.rows("SELECT file FROM lifecycle.archive") for name in (file, f"{file}.json")
    }
    assert (await task(made(lifecycle, tmp_path), filled, "restore"))[0] == "done"
    assert restored(filled)["sample"] == before["sample"]
    assert restored(filled)["event"] == before["event"]


async def test_rows_of_an_archived_day_that_come_later_get_a_file_of_their_own(
    archive: Archive, filled: Database, lifecycle: Lifecycle
) -> None:
    before = stored(filled)
    await take(archive)
    again = manifest(filled)
    await take(archive)
    assert manifest(filled) == again, "nothing is archived twice"
    filled.rows("DELETE FROM telemetry.event WHERE device = 'acme-1'")  # removed in part when the service died
    filled.rows(
        "INSERT INTO telemetry.event SELECT tenant, device, ts, 'late', message, fields, boot, seq, item, received_at"
        " FROM telemetry.event WHERE device = 'acme-2' LIMIT 1"
    )
    await take(archive, "telemetry.event")
    assert sorted(set(manifest(filled)) - set(again)) == [("telemetry.event", "acme", 1, False)]
    (series,) = filled.rows("SELECT id FROM telemetry.series WHERE device = 'acme-3' AND metric = 'speed'")[0]
    late = [("acme", "acme-3", "speed", series, NOON + timedelta(seconds=n), 5.0 + n) for n in range(3)]
    async with lifecycle.transaction() as connection:
        await archive.on_late(connection, late)
    assert ("telemetry.sample", "acme", 3, True) in manifest(filled)
    async with lifecycle.transaction() as connection:
        await archive.on_late(connection, late)
        await connection.rollback()  # the merge failed after all
    await archive.tidy()
    assert [late for *_, late in manifest(filled)].count(True) == 1
    await task(archive, filled, "restore")
    assert len(restored(filled)["event"]) == len(before["event"]) + 1
    assert len(restored(filled)["sample"]) == len(before["sample"]) + 3


async def test_a_device_is_taken_out_of_every_file(archive: Archive, filled: Database, tmp_path: Path) -> None:
    before = stored(filled)
    await take(archive)
    locked = Archive(archive.lifecycle, archive.files, cipher.Cipher(archive.cipher.recipients, []), 100)
    _, _, unreadable = await locked.erase("acme", "acme-2")
    holding = "SELECT file FROM lifecycle.archive WHERE tenant = 'acme' AND 'acme-2' = ANY (devices) ORDER BY file"
    assert unreadable == [file for (file,) in filled.rows(holding)]
    changed, rows, unreadable = await archive.erase("acme", "acme-2")
    assert (changed, rows) == (8, 2 * 144 + 1 + 1 + 2 + 2)
    assert unreadable == []
    assert await archive.erase("acme", "acme-2") == (0, 0, [])
    assert files(tmp_path) == {
        name for (file,) in filled.rows("SELECT file FROM lifecycle.archive") for name in (file, f"{file}.json")
    }
    assert (await task(archive, filled, "verify"))[0] == "done"
    await task(archive, filled, "restore")
    for table, found in restored(filled).items():
        assert found == [row for row in before[table] if row[1] != "acme-2"], table


def decrypted(program: str, key: Path, path: Path) -> bytes:
    return subprocess.run([program, "--decrypt", "-i", str(key), str(path)], stdout=subprocess.PIPE, check=True).stdout


async def test_without_the_platform_age_and_any_parquet_reader_do(
    archive: Archive, filled: Database, tmp_path: Path
) -> None:
    await take(archive, "telemetry.event")
    (file,) = filled.rows("SELECT file FROM lifecycle.archive WHERE tenant = 'acme'")[0]
    path = tmp_path / "archive" / file
    beside = json.loads(path.with_name(path.name + ".json").read_text())
    assert (beside["rows"], beside["tenant"], beside["day"]) == (6, "acme", "2026-03-01")
    program = shutil.which("age")
    if program is None:
        pytest.skip("the program age is not here (apt-get install age)")
    rows = pq.read_table(io.BytesIO(decrypted(program, tmp_path / "keys" / "archive.age", path))).to_pylist()
    assert [row["device"] for row in rows] == ["acme-1"] * 2 + ["acme-2"] * 2 + ["acme-3"] * 2
    assert rows[0]["ts"] == datetime(2026, 3, 1, 5, tzinfo=UTC)


async def test_a_store_that_gives_back_something_else_keeps_the_day(
    archive: Archive, filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Files.read
    monkeypatch.setattr(Files, "read", lambda self, name: read(self, name)[:-1])
    with pytest.raises(Transient, match="read back"):
        await take(archive, "telemetry.event")
    assert filled.value("SELECT count(*) FROM lifecycle.archive WHERE state = 'complete'") == 0


async def test_what_comes_between_archive_and_removal_is_archived_too(
    archive: Archive, filled: Database, lifecycle: Lifecycle
) -> None:
    """The whole run of retention, with a writer that stores one more event of the day just after it was archived."""
    before = stored(filled)
    came: list[Expiring] = []

    async def one_more(expiring: Expiring) -> None:
        if expiring.table == "telemetry.event" and not came:
            came.append(expiring)
            filled.rows(
                "INSERT INTO telemetry.event SELECT tenant, device, ts, 'late', message, fields, boot, seq, item, received_at"
                " FROM telemetry.event WHERE device = 'acme-2' LIMIT 1"
            )
            filled.rows("INSERT INTO runtime.expired VALUES ('telemetry.event', 'acme', %s)", DAY)

    filled.rows("SELECT lifecycle.set_policy('*', '{\"event_days\": 10}')")
    lifecycle.before_drop += [archive.before_drop, one_more]
    await Retention(lifecycle, Rollups(lifecycle)).run(Progress(lifecycle, "retention", {}))
    assert came
    for table in TABLES:
        assert filled.value(f"SELECT count(*) FROM {table} WHERE ts < '2026-03-02'") == 0
    await task(archive, filled, "restore")
    assert len(restored(filled)["event"]) == len(before["event"]) + 1
    assert restored(filled)["sample"] == before["sample"]
    assert restored(filled)["line"] == before["line"]


async def test_a_writer_that_is_still_storing_late_rows_loses_none(
    archive: Archive, filled: Database, lifecycle: Lifecycle
) -> None:
    """It found its day marked already; its transaction ends only when retention has come for that mark."""
    filled.rows("SELECT lifecycle.set_policy('*', '{\"event_days\": 10}')")
    lifecycle.before_drop.append(archive.before_drop)
    retention = Retention(lifecycle, Rollups(lifecycle))
    await retention.run(Progress(lifecycle, "retention", {}))
    before = sum(rows for table, tenant, rows, _ in manifest(filled) if (table, tenant) == ("telemetry.event", "acme"))
    expired = {("telemetry.event", "acme", DAY)}
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    pool = Pool(filled.service_urls["writer-timeseries"], "writer")
    await pool.open()
    try:
        async with pool.transaction() as earlier:
            await horizons.note(earlier, expired)
        async with pool.transaction() as storing:
            await horizons.ask(storing, ["telemetry.event"])
            await storing.execute(
                "INSERT INTO telemetry.event VALUES ('acme', 'acme-2', %s, 'late', '', '{}', NULL, NULL, 0, now())",
                (NOON,),
            )
            await horizons.note(storing, expired)
            run = asyncio.create_task(retention.run(Progress(lifecycle, "retention", {})))
            await eventually(lambda: filled.value(waiting) == 1)
        await run
    finally:
        await pool.close()
    assert filled.value("SELECT count(*) FROM telemetry.event WHERE ts < '2026-03-02'") == 0
    kept = sum(rows for table, tenant, rows, _ in manifest(filled) if (table, tenant) == ("telemetry.event", "acme"))
    assert kept == before + 1


@pytest.mark.parametrize("damage", ["gone", "damaged", "another key"])
async def test_a_file_nobody_can_read_does_not_keep_later_rows_of_its_day(
    archive: Archive, filled: Database, lifecycle: Lifecycle, tmp_path: Path, damage: str
) -> None:
    await take(archive, "telemetry.event")
    (before,) = filled.rows("SELECT file, rows FROM lifecycle.archive WHERE tenant = 'acme'")
    path = tmp_path / "archive" / before[0]
    if damage == "gone":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (tmp_path / "keys" / "archive.age").unlink()
        archive = made(lifecycle, tmp_path)
    await take(archive, "telemetry.event")
    (after,) = filled.rows("SELECT rows FROM lifecycle.archive WHERE tenant = 'acme' AND file <> %s", before[0])
    assert after == (6,), "what may not be there any more is archived again while it can be"


async def test_a_slow_archive_takes_what_it_is_given(
    archive: Archive, filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database ends transactions that idle for a minute, here for half a second."""
    pool = Pool(filled.service_urls["lifecycle"], "lifecycle-test")
    kwargs: Any = pool._pool.kwargs
    kwargs["options"] += " -c idle_in_transaction_session_timeout=500ms"
    monkeypatch.setattr(archive.lifecycle, "database", pool)
    write = Files.write

    def slow(files: Files, name: str, data: bytes) -> None:
        time.sleep(0.3)
        write(files, name, data)

    monkeypatch.setattr(Files, "write", slow)
    (series,) = filled.rows("SELECT id FROM telemetry.series WHERE device = 'acme-3' AND metric = 'speed'")[0]
    await pool.open()
    try:
        await take(archive, "telemetry.event")
        async with archive.lifecycle.transaction() as connection:
            await archive.on_late(connection, [("acme", "acme-3", "speed", series, NOON, 5.0)])
    finally:
        await pool.close()
    assert ("telemetry.sample", "acme", 1, True) in manifest(filled)
    assert ("telemetry.event", "acme", 6, False) in manifest(filled)
