"""Migrations on a real PostgreSQL: applied once, by whoever comes first, and told before."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from outrider.runtime import migrate
from outrider.testing.fixtures import Database

MIGRATE = "import sys; from outrider.runtime import migrate; print(len(migrate.migrate_all(sys.argv[1])))"


@pytest.fixture
def empty(migrated: Database) -> Iterator[str]:
    """An empty database in the server of the other tests, whose roles exist."""
    name = f"empty_{secrets.token_hex(6)}"
    base = migrated.admin_url.rpartition("/")[0]
    with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield f"{base}/{name}"
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_what_is_pending_is_named_applied_and_then_gone(empty: str) -> None:
    before = migrate.pending(empty)
    assert "outrider.runtime: 0001.runtime" in before
    assert any(name.startswith("outrider_writer_logs: ") for name in before)
    assert migrate.migrate_all(empty) == before
    assert migrate.pending(empty) == []
    assert migrate.migrate_all(empty) == []


def test_processes_that_migrate_at_once_apply_everything_once(empty: str) -> None:
    count = len(migrate.pending(empty))
    running = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, empty], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert sorted(int(out) for out, _ in said) == [0, 0, count]
    assert migrate.pending(empty) == []


def test_grants_are_given_again_every_time(database: Database) -> None:
    database.rows("REVOKE INSERT ON logs.line FROM outrider_writer_logs")
    url = database.service_urls["writer-logs"]
    may = b"SELECT has_table_privilege('logs.line', 'INSERT')"
    with psycopg.connect(url) as connection:
        assert connection.execute(may).fetchone() == (False,)
    assert migrate.migrate_all(database.admin_url) == []
    with psycopg.connect(url) as connection:
        assert connection.execute(may).fetchone() == (True,)


def test_a_failing_migration_leaves_nothing_and_names_itself(
    empty: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.migrate_all(empty)
    folder = tmp_path / "0001.broken.sql"  # type: ignore[operator]
    folder.write_text("CREATE TABLE runtime.half (a integer);\nSELECT nonsense;\n")
    with pytest.raises(migrate.MigrationFailed, match=r"broken_package: 0001.broken: .*nonsense"):
        migrate._apply(empty, {str(tmp_path): "broken_package"})
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT to_regclass('runtime.half')").fetchone() == (None,)


def partitions(database: Database, table: str) -> list[str]:
    return [
        name
        for (name,) in database.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1", table
        )
    ]


async def test_partitions_are_made_once_by_whoever_needs_them_first(database: Database) -> None:
    table, today = "logs.line", datetime.now(UTC).date()
    days = [today + timedelta(days=n) for n in range(-3, 4)]

    async def ensure(days: list[date]) -> None:
        url = database.service_urls["writer-logs"]
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("SELECT runtime.ensure_partitions(%s, %s)", (table, days))

    before = partitions(database, table)
    await asyncio.gather(*(ensure(days), ensure(days[::-1]), ensure(days[3:]), ensure(days[:4])))
    made = [name for name in partitions(database, table) if name not in before]
    assert made == [f"logs.line_{day:%Y%m%d}" for day in days]
    await ensure(days)
    assert [name for name in partitions(database, table) if name not in before] == made


async def test_old_days_share_one_partition_and_strangers_get_none(database: Database) -> None:
    table = "logs.line"
    before = partitions(database, table)
    database.rows("SELECT runtime.ensure_partitions(%s, %s)", table, [date(2001, 2, 3), date(1999, 1, 1)])
    assert partitions(database, table) == before
    with pytest.raises(psycopg.errors.NoDataFound):
        database.rows("SELECT runtime.ensure_partitions('logs.other', %s)", [date(2030, 1, 1)])
