"""Applies every package's plain-SQL migrations and gives each service its own least-privilege role.

A service's package has a folder `migrations/` of `NNNN.name.sql` files (run once, in order, by yoyo;
the part after the number is unique over all services) and a `grants.sql`
that runs after them every time, with `{role}` replaced by the service's role. A migration that needs another
package's begins with `-- depends: 0001.telemetry`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from outrider.runtime.errors import OutriderError

BASE = "outrider.runtime"
_LOCK = 7_305_411
# Temporary objects come first in a path that does not name them, and every role may make some: a function that runs with
# its owner's rights would take a caller's type `text` for the real one, and run the caller's code.
CLOSE_PATHS = """
DO $$
DECLARE
    open_ regprocedure;
BEGIN
    FOR open_ IN
        SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.proowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) AND p.prokind IN ('f', 'p')
          AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE (d.classid, d.objid, d.deptype) = ('pg_proc'::regclass, p.oid, 'e'))
          AND (p.prosecdef AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=')
               OR EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=' AND c !~ ', pg_temp$'))
    LOOP
        EXECUTE format('ALTER ROUTINE %s SET search_path = pg_catalog, pg_temp', open_);
    END LOOP;
END $$
"""


class MigrationFailed(OutriderError):
    """A migration could not be applied; nothing of it remains. Mend what the message names and run `outrider migrate` again."""


def packages() -> dict[str, str]:
    """Service name → import package of every installed service (entry points `outrider.services`)."""
    return {entry.name: entry.value.split(".", 1)[0] for entry in sorted(entry_points(group="outrider.services"))}


def role_of(service: str) -> str:
    """The PostgreSQL role a service connects with."""
    return "outrider_" + service.replace("-", "_")


def migrate_all(admin_url: str, services: dict[str, str] | None = None) -> list[str]:
    """Apply what is missing: the shared migrations first, then each service's. Returns what was applied.

    Safe to run from several places at once: an advisory lock lets one through at a time.
    """
    services = packages() if services is None else services
    with _locked(admin_url) as connection:
        _create_timescale(connection)
        with _folders(services) as folders:
            applied = _apply(admin_url, folders)
        connection.execute(CLOSE_PATHS)
        for service, package in services.items():
            _grant(connection, role_of(service), package)
    return applied


def pending(admin_url: str, services: dict[str, str] | None = None) -> list[str]:
    """Names of migrations not yet applied (empty when the database is up to date)."""
    services = packages() if services is None else services
    with _folders(services) as folders, _backend(admin_url) as (backend, read):
        return [_named(migration, folders) for migration in backend.to_apply(read(*folders))]


def ensure_roles(admin_url: str, passwords: dict[str, str]) -> dict[str, str]:
    """Create or update one login role per service with its password; returns service → database URL.

    Call it before `migrate_all`, whose grants need the roles.
    """
    urls: dict[str, str] = {}
    with _locked(admin_url) as connection:
        for service, password in passwords.items():
            role = role_of(service)
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = sql.SQL("ALTER" if exists else "CREATE")
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.Literal(password)
                )
            )
            parts = urlsplit(admin_url)
            host = parts.netloc.rsplit("@", 1)[-1]
            urls[service] = urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{host}"))
    return urls


@contextlib.contextmanager
def _locked(admin_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        yield connection


@contextlib.contextmanager
def _folders(services: dict[str, str]) -> Iterator[dict[str, str]]:
    """Folder with migrations → its package, the shared ones first."""
    with contextlib.ExitStack() as stack:
        packages = [package for package in (BASE, *services.values()) if (files(package) / "migrations").is_dir()]
        yield {str(stack.enter_context(as_file(files(package) / "migrations"))): package for package in packages}


def _named(migration: Any, folders: dict[str, str]) -> str:
    return f"{folders[str(Path(migration.path).parent)]}: {migration.id}"


@contextlib.contextmanager
def _backend(admin_url: str) -> Iterator[tuple[Any, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from yoyo import get_backend, read_migrations

        parts = urlsplit(admin_url)
        backend = get_backend(urlunsplit(parts._replace(scheme="postgresql+psycopg")))
        try:
            yield backend, read_migrations
        finally:
            backend.connection.close()


def _apply(admin_url: str, folders: dict[str, str]) -> list[str]:
    applied: list[str] = []
    with _backend(admin_url) as (backend, read), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for migration in backend.to_apply(read(*folders)):
            name = _named(migration, folders)
            try:
                backend.apply_one(migration)
            except Exception as error:
                raise MigrationFailed(f"{name}: {error}") from error
            applied.append(name)
    return applied


def _grant(connection: psycopg.Connection, role: str, package: str) -> None:
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        return  # a database whose roles somebody else manages
    for source in (BASE, package):
        grants = files(source) / "grants.sql"
        if grants.is_file():
            connection.execute(grants.read_text().replace("{role}", role).encode())


def _create_timescale(connection: psycopg.Connection) -> None:
    preloaded = connection.execute("SHOW shared_preload_libraries").fetchone()
    if preloaded and "timescaledb" in preloaded[0]:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
