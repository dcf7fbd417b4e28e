"""A private PostgreSQL with TimescaleDB: hypertables survive kill -9, and nothing is reported to anybody."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from outrider.servers import ServerError, TimescaleDB, base, postgres, timescaledb
from outrider.testing.fixtures import unavailable

pytestmark = pytest.mark.servers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TimescaleDB]:
    try:
        running = TimescaleDB(tmp_path / "timescaledb")
    except ServerError as error:
        unavailable("TimescaleDB", error)
    with running:
        yield running
    running.wipe()


def execute(server: TimescaleDB, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_committed_rows_of_a_hypertable_survive_kill(server: TimescaleDB) -> None:
    execute(server, "CREATE EXTENSION timescaledb")
    execute(server, "CREATE TABLE t (ts timestamptz NOT NULL)")
    execute(server, "SELECT create_hypertable('t', 'ts')")
    execute(server, "INSERT INTO t SELECT now() - n * interval '30 days' FROM generate_series(1, 3) n")
    port, children = server.port, base.children_of(server.pid)
    server.kill()
    assert not [pid for pid in children if base.is_alive(pid)]
    server.start()
    assert server.port == port
    assert execute(server, "SELECT count(*) FROM t") == [(3,)]
    assert execute(server, "SELECT count(*) FROM timescaledb_information.chunks") == [(3,)]


def test_telemetry_is_off_or_not_built_in(server: TimescaleDB) -> None:
    execute(server, "CREATE EXTENSION timescaledb")
    assert execute(server, "SELECT coalesce(current_setting('timescaledb.telemetry_level', true), 'off')") == [("off",)]


def test_wipe_removes_the_cluster(tmp_path: Path) -> None:
    try:
        server = TimescaleDB(tmp_path / "timescaledb")
    except ServerError as error:
        unavailable("TimescaleDB", error)
    with server:
        assert server.cluster.exists()
    server.wipe()
    assert not server.cluster.exists()


def test_without_any_source_the_message_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_all", list)
    monkeypatch.setattr(timescaledb, "SUITES", {})
    with pytest.raises(ServerError, match=r"Tried:\n  1\. no PostgreSQL of this machine has the extension"):
        timescaledb.find(tmp_path)


@pytest.mark.parametrize(
    "share", ["usr/lib/postgresql/17/share", "usr/lib/postgresql/17/share/postgresql", "usr/share/postgresql/17"]
)
def test_the_extension_is_found_in_every_layout(tmp_path: Path, share: str) -> None:
    folder = tmp_path / "usr/lib/postgresql/17/bin"
    programs = postgres.Programs(folder, "17.11", "made up")
    assert not timescaledb.has_extension(programs)
    control = tmp_path / share / "extension/timescaledb.control"
    control.parent.mkdir(parents=True)
    control.touch()
    assert timescaledb.has_extension(programs)
