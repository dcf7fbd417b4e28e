"""`outrider migrate`: brings a database up to date, and makes the services' roles where asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from outrider.runtime import migrate
from outrider_cli.connect import DatabaseUrlOption, DataOption, database_url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(run)


def run(
    data: DataOption = Path(".outrider"),
    url: DatabaseUrlOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only list what is missing; exit code 1 if anything is.")
    ] = False,
    roles: Annotated[
        Path | None,
        typer.Option(
            "--roles",
            metavar="FILE",
            help='JSON file {"ingest": "password", …}: create or update the role of each service first.',
        ),
    ] = None,
) -> None:
    """Apply the migrations a database lacks, in order, and each service's grants.

    `outrider up` and `outrider demo` do this by themselves; run it by hand before you update services that use a
    database of your own. It may run while the services run, and twice changes nothing.

    Examples:

      outrider migrate --check

      outrider migrate --database-url postgresql://postgres:secret@db/outrider --roles passwords.json
    """
    admin_url = database_url(url, data)
    try:
        if check:
            missing = migrate.pending(admin_url)
            typer.echo("\n".join(missing) if missing else "The database is up to date.")
            raise typer.Exit(1 if missing else 0)
        if roles is not None:
            for service in migrate.ensure_roles(admin_url, json.loads(roles.read_text())):
                typer.echo(f"role {migrate.role_of(service)}")
        applied = migrate.migrate_all(admin_url)
    except (psycopg.Error, migrate.MigrationFailed, OSError, ValueError) as error:
        typer.echo(f"Could not migrate: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(f"applied {name}" for name in applied) if applied else "The database was up to date.")
