"""Pytest fixtures for real servers, each found as the architecture says: environment, binary, private unpack, else skip.

`OUTRIDER_REQUIRE_SERVERS=1` turns the skips for Mosquitto and PostgreSQL into failures, a comma list those of the
servers it names: `1,timescaledb`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from psycopg import sql

from outrider.runtime import migrate
from outrider.servers import Mosquitto, Postgres, ServerError, TimescaleDB, Valkey

PASSWORD = "test"


@dataclass(frozen=True)
class Database:
    """A migrated database of one test: the administrator's URL, and one URL with its own role per service."""

    admin_url: str
    service_urls: dict[str, str]

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """All rows of a query, as the administrator."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *arguments: Any) -> Any:
        """The only value of a query."""
        return self.rows(query, *arguments)[0][0]


def required_servers(value: str) -> frozenset[str]:
    """Lower-case names of the servers that OUTRIDER_REQUIRE_SERVERS makes mandatory; `1` among them stands for Mosquitto
    and PostgreSQL, an empty value and `0` for none."""
    names = {name.strip().lower() for name in value.split(",")} - {"", "0"}
    return frozenset((names - {"1"}) | ({"mosquitto", "postgresql"} if "1" in names else set()))


def unavailable(what: str, error: Exception) -> NoReturn:
    """Skips the test, or fails it if the server is a required one."""
    if what.lower() in required_servers(os.environ.get("OUTRIDER_REQUIRE_SERVERS", "")):
        pytest.fail(f"{what} is required (OUTRIDER_REQUIRE_SERVERS) and cannot be had: {error}")
    pytest.skip(f"{what} cannot be had here: {error}")


def prepare_database(admin_url: str) -> Database:
    """Roles and migrations in this database."""
    urls = migrate.ensure_roles(admin_url, dict.fromkeys(migrate.packages(), PASSWORD))
    migrate.migrate_all(admin_url)
    return Database(admin_url, urls)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A short path for servers' files; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="outrider-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def migrated(server_folder: Path) -> Iterator[Database]:
    """The migrated template that `database` clones (in the server of OUTRIDER_TEST_DATABASE_URL, else a private one)."""
    given = os.environ.get("OUTRIDER_TEST_DATABASE_URL")
    with _template("PostgreSQL", given, lambda: Postgres(server_folder / "postgres")) as template:
        yield template


@pytest.fixture(scope="session")
def timescaledb(server_folder: Path) -> Iterator[Database]:
    """A migrated template with hypertables (in the server of OUTRIDER_TEST_TIMESCALEDB_URL, else a private one).

    For a module to override `migrated` with: its `database` then clones this one, which itself takes no connections.
    """
    given = os.environ.get("OUTRIDER_TEST_TIMESCALEDB_URL")
    with _template("TimescaleDB", given, lambda: TimescaleDB(server_folder / "timescaledb")) as template:
        assert template.value("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"), (
            "TimescaleDB is not in the server's shared_preload_libraries"
        )
        _close(template)
        yield template


@pytest.fixture
def database(migrated: Database) -> Iterator[Database]:
    """A migrated, empty database of this test's own."""
    with clone_of(migrated) as clone:
        yield clone


@contextlib.contextmanager
def clone_of(template: Database) -> Iterator[Database]:
    """A migrated, empty database until the block ends, for fixtures of a wider scope than `database`."""
    name = f"test_{secrets.token_hex(6)}"
    with _database_of(template.admin_url, name, template.admin_url.rpartition("/")[2].split("?")[0]) as url:
        yield Database(url, {service: _with_name(u, name) for service, u in template.service_urls.items()})


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of this test's own: persistent sessions of one test must not feed the next. It may be killed.

    Its `url` is an account that may do everything; `device_client` (`outrider.testing.devices`) makes a device's.
    """
    try:
        server = Mosquitto(tmp_path / "mosquitto", test_account=True)
    except ServerError as error:
        unavailable("Mosquitto", error)
    with server:
        yield server


@pytest.fixture(scope="module")
def valkey(server_folder: Path) -> Iterator[Valkey]:
    """An empty Valkey of this module's own; it may be killed and started again."""
    try:
        server = Valkey(server_folder / f"valkey-{secrets.token_hex(4)}")
    except ServerError as error:
        unavailable("Valkey", error)
    with server:
        yield server


@pytest.fixture
def own_postgres(server_folder: Path) -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, which it may stop and kill; not yet migrated (see `prepare_database`)."""
    try:
        server = Postgres(server_folder / f"own-{secrets.token_hex(4)}")
    except ServerError as error:
        unavailable("PostgreSQL", error)
    with server:
        yield server
    with contextlib.suppress(Exception):
        server.wipe()


@pytest.fixture
def own_database(own_postgres: Postgres) -> Database:
    """A migrated database in `own_postgres`."""
    return prepare_database(own_postgres.url)


def _with_name(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"


def _close(template: Database) -> None:
    """Keeps TimescaleDB's own workers out: a database that somebody is connected to cannot be cloned."""
    server, _, name = template.admin_url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        connection.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (name,))


@contextlib.contextmanager
def _template(what: str, given: str | None, make: Callable[[], Postgres]) -> Iterator[Database]:
    if given:
        with _database_of(given, f"outrider_template_{secrets.token_hex(4)}", None) as url:
            yield prepare_database(url)
        return
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(make())
        except ServerError as error:
            unavailable(what, error)
        yield prepare_database(server.url)
        with contextlib.suppress(Exception):
            server.stop()
            server.wipe()


@contextlib.contextmanager
def _database_of(server_url: str, name: str, template: str | None) -> Iterator[str]:
    admin = _with_name(server_url, "postgres")
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(statement)
    try:
        yield _with_name(server_url, name)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def repository_root(request: pytest.FixtureRequest) -> Path:
    """The checkout the running test belongs to (the folder that holds `contract/` and `libs/`)."""
    for folder in request.path.parents:
        if (folder / "contract").is_dir() and (folder / "libs").is_dir():
            return folder
    pytest.skip("not in a checkout of the project")
    raise AssertionError
