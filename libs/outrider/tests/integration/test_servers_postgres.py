"""A private PostgreSQL: starts as root too, keeps what was committed over kill -9, ends with its parent."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from outrider.servers import Postgres, ServerError, base, postgres
from outrider.testing.fixtures import unavailable

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def programs() -> postgres.Programs:
    try:
        return postgres.find()
    except ServerError as error:
        unavailable("PostgreSQL", error)


@pytest.fixture
def server(tmp_path: Path, programs: postgres.Programs) -> Iterator[Postgres]:
    running = Postgres(tmp_path / "postgres", programs=programs)
    with running:
        yield running
    running.wipe()


def rows(server: Postgres) -> list[tuple[int]]:
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT i FROM t ORDER BY i").fetchall()


def commit(server: Postgres, *values: int) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (i integer)")
        connection.cursor().executemany("INSERT INTO t VALUES (%s)", [(value,) for value in values])


def setting(server: Postgres, name: str) -> str:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        assert row
        return str(row[0])


def test_committed_rows_survive_kill(server: Postgres) -> None:
    commit(server, 1, 2, 3)
    port = server.port
    server.kill()
    server.start()
    assert server.port == port
    assert rows(server) == [(1,), (2,), (3,)]


def test_kill_leaves_no_child(server: Postgres) -> None:
    children = base.children_of(server.pid)
    assert children
    server.kill()
    assert not [pid for pid in children if base.is_alive(pid)]


def test_restart_and_next_object_keep_data_port_and_password(server: Postgres, programs: postgres.Programs) -> None:
    commit(server, 1)
    url = server.url
    server.restart()
    assert rows(server) == [(1,)]
    server.stop()
    with Postgres(server.data_dir, programs=programs) as second:
        assert second.url == url
        assert rows(second) == [(1,)]


def test_nothing_is_acknowledged_before_it_is_on_disk(server: Postgres) -> None:
    assert [setting(server, name) for name in ("fsync", "synchronous_commit", "full_page_writes")] == ["on"] * 3


def test_only_loopback_and_only_with_the_password(server: Postgres) -> None:
    assert setting(server, "listen_addresses") == "127.0.0.1"
    assert setting(server, "unix_socket_directories") == ""
    wrong = server.url.replace(server.url.split(":")[2].split("@")[0], "guess")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    mode = stat.S_IMODE((server.data_dir / "superuser_password").stat().st_mode)
    assert mode == 0o600


def test_root_runs_it_as_somebody_else(server: Postgres) -> None:
    owner = Path(f"/proc/{server.pid}").stat().st_uid
    assert owner == (server.account.uid if server.account else os.geteuid())
    assert owner != 0


def test_data_folder_that_the_account_cannot_enter(tmp_path: Path, programs: postgres.Programs) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "postgres", programs=programs)
    try:
        assert bool(server.note) == (os.geteuid() == 0)
        with server:
            commit(server, 1)
            assert rows(server) == [(1,)]
    finally:
        server.wipe()
    assert not server.cluster.exists()


def test_extra_settings_apply(tmp_path: Path, programs: postgres.Programs) -> None:
    server = Postgres(tmp_path / "postgres", programs=programs, settings={"work_mem": "7MB"})
    with server:
        assert setting(server, "work_mem") == "7MB"
    server.wipe()


def test_a_lost_password_is_said(server: Postgres) -> None:
    server.stop()
    (server.data_dir / "superuser_password").write_text("guess\n")
    with pytest.raises(ServerError, match="is not the password of the cluster"):
        server.start()


def test_end_leftovers_finds_a_server_nobody_owns(server: Postgres, programs: postgres.Programs) -> None:
    pid = server.pid
    assert pid in Postgres(server.data_dir, programs=programs).end_leftovers()
    assert not base.is_alive(pid)
