"""One short database session of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import typer
from psycopg.rows import dict_row

from outrider_cli.connect import database_url


@contextmanager
def session(given: str | None, data: Path) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A connection with rows as dicts, each statement its own transaction. Ends the command when the database fails."""
    url = database_url(given, data)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5, row_factory=dict_row) as connection:
            yield connection
    except psycopg.Error as error:
        typer.echo(f"The database says: {str(error).strip() or type(error).__name__}", err=True)
        raise typer.Exit(2) from None
