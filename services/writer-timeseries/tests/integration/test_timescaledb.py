"""What is special about the ledger on TimescaleDB: its chunks, and who may touch them (test_ledger.py runs there too)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from outrider.contract import limits
from outrider.contract.batch import BatchNumber, Header, Record, RecordBatch, Samples, decode_samples, encode_samples
from outrider.runtime import migrate
from outrider.runtime.database import Database as Pool
from outrider.testing.fixtures import Database
from outrider_writer_timeseries.store import Ledger, Work

T0 = 1_790_000_000_000
DAY_MS = 86_400_000
CHUNKS = """
SELECT format('%%I.%%I', chunk_schema, chunk_name), range_end - range_start > interval '1 day'
FROM timescaledb_information.chunks WHERE hypertable_schema || '.' || hypertable_name = %s ORDER BY range_start
"""
NOW_MS = "SELECT (extract(epoch FROM now()) * 1000)::bigint"


@pytest.fixture(scope="session")
def migrated(timescaledb: Database) -> Database:
    return timescaledb


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    opened = Pool(database.service_urls["writer-timeseries"], "timescaledb-test")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    return Ledger(pool, "writer-timeseries", 10_000)


def work(seq: int, times: list[int], device: str = "van-1") -> Work:
    header = Header("demo", device, "telemetry", 7, seq, T0)
    payload = encode_samples(
        BatchNumber(0, 1, seq), [(header, Samples.of([("n", "number", ts, float(ts)) for ts in times]))]
    )
    return Work(samples=[("outrider/v1/samples/0", decode_samples(payload))])


def test_migrations_make_hypertables_of_whole_days(database: Database) -> None:
    registered = database.rows("SELECT name, hypertable, days FROM runtime.partitioned ORDER BY 1")
    assert ("telemetry.sample", True, 1) in registered
    assert all(hypertable for _, hypertable, _ in registered)
    made = database.rows(
        "SELECT hypertable_schema || '.' || hypertable_name, column_name::text, extract(day FROM time_interval)::integer"
        " FROM timescaledb_information.dimensions ORDER BY 1"
    )
    assert made == [(name, "ts", days) for name, _, days in registered]
    for name, *_ in registered:
        assert [shared for _, shared in database.rows(CHUNKS, name)] == [True]
        assert database.value(f"SELECT count(*) FROM {name}") == 0


async def test_migrations_roll_back(ledger: Ledger, database: Database) -> None:
    await ledger.store(work(1, [database.value(NOW_MS)]))
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        folders = [Path(str(resources.files(package))) for package in (migrate.BASE, *migrate.packages().values())]
        steps = {step.name: step for folder in folders for step in (folder / "migrations").glob("*.rollback.sql")}
        applied = connection.execute("SELECT migration_id FROM _yoyo_migration ORDER BY applied_at_utc DESC").fetchall()
        assert len(applied) == len(steps)
        for (name,) in applied:
            connection.execute(steps[f"{name}.rollback.sql"].read_bytes())
    assert database.value("SELECT count(*) FROM timescaledb_information.hypertables") == 0


async def test_recent_days_get_their_chunks_and_all_older_ones_share_one(ledger: Ledger, database: Database) -> None:
    """A device may send thousands of old days in one message: a chunk for each would exhaust the server's locks."""
    now = database.value(NOW_MS)
    old = [limits.TIME_MIN_MS + day * DAY_MS for day in range(7000)]
    recent = [now - 29 * DAY_MS, now - 2 * DAY_MS, now]
    await ledger.store(work(1, old + recent))
    assert [shared for _, shared in database.rows(CHUNKS, "telemetry.sample")] == [True, False, False, False]
    stored = database.rows("SELECT value::bigint FROM telemetry.sample ORDER BY ts")
    assert stored == [(ts,) for ts in old + recent]
    assert database.rows("SELECT value::bigint FROM telemetry.latest") == [(now,)]


async def test_the_latest_sample_is_found_in_any_chunk(ledger: Ledger, database: Database) -> None:
    now = database.value(NOW_MS)
    for device, newest in (("van-1", now), ("van-2", now - 20 * DAY_MS), ("van-3", now - 900 * DAY_MS)):
        await ledger.store(work(1, [newest - day * DAY_MS for day in range(3)], device))
        latest = database.value("SELECT value::bigint FROM telemetry.latest WHERE device = %s", device)
        assert latest == newest


async def test_a_chunk_dropped_meanwhile_is_made_again(ledger: Ledger, database: Database) -> None:
    now = database.value(NOW_MS)
    await ledger.store(work(1, [now - 3 * DAY_MS, now]))
    dropped = database.rows(
        "SELECT drop_chunks('telemetry.sample', older_than => now() - interval '1 day', newer_than => now() - interval '9 days')"
    )
    assert len(dropped) == 1
    await ledger.store(work(2, [now - 3 * DAY_MS + 1]))
    assert database.value("SELECT count(*) FROM telemetry.sample") == 2


async def test_two_writers_that_need_the_same_new_chunks_both_store(pool: Pool, database: Database) -> None:
    now = database.value(NOW_MS)
    days = [now - day * DAY_MS for day in range(10)]
    lanes = [Ledger(pool, "writer-timeseries", 10_000) for _ in range(4)]
    times = [days if lane % 2 else days[::-1] for lane in range(4)]
    await asyncio.gather(
        *(ledger.store(work(1, times[lane], f"van-{lane}")) for lane, ledger in enumerate(lanes)),
    )
    assert database.value("SELECT count(*) FROM telemetry.sample") == 40
    assert len(database.rows(CHUNKS, "telemetry.sample")) == 11


async def test_rights_are_the_same_on_chunks(ledger: Ledger, database: Database) -> None:
    now = database.value(NOW_MS)
    await ledger.store(work(1, [now, now - 400 * DAY_MS]))
    event = RecordBatch(
        BatchNumber(0, 1, 2), [Header("demo", "van-1", "event", 7, 1, T0)], [[Record(now, "crash", "hard", {})]]
    )
    await ledger.store(Work(events=[("outrider/v1/events/0", event)]))
    tables = ("telemetry.sample", "telemetry.event")
    chunks = [chunk for table in tables for chunk, _ in database.rows(CHUNKS, table)]
    assert len(chunks) == 4
    attempts = {
        "writer-timeseries": [
            *(f"UPDATE {chunk} SET ts = now()" for chunk in chunks),
            *(f"DELETE FROM {chunk}" for chunk in chunks),
            *(f"TRUNCATE {chunk}" for chunk in chunks),
            *(f"DROP TABLE {chunk}" for chunk in chunks),
            *(f"SELECT drop_chunks('{table}', older_than => now())" for table in tables),
            *(f"SELECT set_chunk_time_interval('{table}', interval '1 year')" for table in tables),
            "CREATE TABLE _timescaledb_internal.mine (i integer)",
        ],
        "writer-logs": [*(f"SELECT FROM {relation}" for relation in (*tables, *chunks))],
    }
    for service, statements in attempts.items():
        with psycopg.connect(database.service_urls[service], autocommit=True) as connection:
            for statement in statements:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
    assert database.value("SELECT count(*) FROM telemetry.sample") == 2
