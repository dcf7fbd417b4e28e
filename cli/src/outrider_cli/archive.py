"""`outrider archive`: what has left the database, whether it is whole, and back again."""

from __future__ import annotations

import sys
import time
from datetime import date
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outrider_cli.registry.client import Api, command, show, show_one
from outrider_cli.sizes import size

app = typer.Typer(no_args_is_help=True, help="The archive: days that have left the database.")

First = Annotated[str | None, typer.Option("--from", help="First day (UTC), such as 2026-01-31.")]
Last = Annotated[str | None, typer.Option("--to", help="Last day.")]
LOOK_S = 0.3


@command(app, "list")
def list_(
    api: Api,
    first: First = None,
    last: Last = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 500,
) -> None:
    """List what is archived, day by day."""
    columns = {
        "day": lambda row: row["day"],
        "of": lambda row: row["table_name"],
        "rows": lambda row: f"{row['rows']:,}",
        "size": lambda row: size(row["bytes"]),
        "files": lambda row: row["files"],
        "devices": lambda row: row["devices"],
        "": lambda row: "" if row["encrypted"] else "NOT ENCRYPTED",
    }
    show(api, list(api.pages("/archive", limit, **_span(first, last))), columns)


@command(app)
def verify(api: Api, first: First = None, last: Last = None) -> None:
    """Read every file and compare it with what was written. Status 1 and the files if some are not whole."""
    _run(api, {"kind": "verify", **_span(first, last)}, "verifying")


@command(app)
def restore(
    api: Api,
    first: Annotated[str, typer.Option("--from", help="First day (UTC), such as 2026-01-31.")],
    last: Last = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this device; repeatable.")] = None,
    keep_days: Annotated[int, typer.Option(min=1, max=3650, help="How long the restored rows stay.")] = 7,
) -> None:
    """Put days back, into the schema `restored` of the database, apart from the ledger."""
    body: dict[str, Any] = {"kind": "restore", **_span(first, last or first), "keep_days": keep_days}
    if device:
        body["devices"] = device
    done = _run(api, body, "restoring")
    if not api.as_json:
        typer.echo(
            f"{done['rows']:,} rows are in restored.sample, sample_text, sample_json, event and line for {keep_days} days "
            "(restored.tenant_… where tenants share the database)."
        )


def _span(first: str | None, last: str | None) -> dict[str, str]:
    given = {"first_day": first, "last_day": last}
    for text in (first, last):
        try:
            date.fromisoformat(text or "2000-01-01")
        except ValueError:
            raise typer.BadParameter(f"{text!r} is no day: 2026-01-31") from None
    return {name: text for name, text in given.items() if text is not None}


def _run(api: Api, body: dict[str, Any], verb: str) -> dict[str, Any]:
    task: dict[str, Any] = api.post("/archive/tasks", body)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        shown = progress.add_task(verb, total=task["files"])
        while task["state"] in ("queued", "running"):
            time.sleep(LOOK_S)
            task = api.get(f"/archive/tasks/{task['id']}")
            progress.update(shown, completed=task["files_done"], total=task["files"])
    if api.as_json:
        show_one(api, task)
    elif task["state"] == "done" and task["kind"] == "verify":
        typer.echo(f"{task['files_done']:,} files, {task['rows']:,} rows: all as they were written")
    for problem in task["problems"] if not api.as_json else ():
        typer.echo(f"{problem['file']}: {problem['problem']}", err=True)
    if task["state"] != "done":
        raise typer.Exit(1)
    return task
