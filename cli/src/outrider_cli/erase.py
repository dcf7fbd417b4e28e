"""`outrider erase`: a device or a person out of every store, for good, with a report."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.registry.client import Api, command, show, show_one, when

app = typer.Typer(no_args_is_help=True, help="Erase a device or a person from every store, for good.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the report.")]
LOOK_S = 1.0


@command(app)
def device(api: Api, name: Name, yes: Yes = False, wait: Wait = True) -> None:
    """Erase a device: its samples, logs, trips, archive, credentials. Nobody gets its id again."""
    _confirm(
        f"All that is stored of device {name} is erased, in the archive too. It cannot be brought back.", name, yes
    )
    _begin(api, {"kind": "device", "name": name, "confirm": name}, wait)


@command(app)
def person(
    api: Api,
    name: Name,
    devices: Annotated[bool, typer.Option("--devices", help="Also the devices that they own.")] = False,
    yes: Yes = False,
    wait: Wait = True,
) -> None:
    """Erase a person: the account, sign-ins, tokens, and the name wherever it stands but in the audit."""
    also = " and all devices that they own" if devices else ""
    _confirm(f"The account of {name}{also} is erased. It cannot be brought back.", name, yes)
    _begin(api, {"kind": "person", "name": name, "confirm": name, "devices": devices}, wait)


@command(app, "list")
def list_(api: Api, limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50) -> None:
    """List erasures, the newest first."""
    columns = {
        "id": lambda row: row["id"],
        "kind": lambda row: row["kind"],
        "of": lambda row: row["subject"],
        "state": lambda row: row["state"],
        "asked for": lambda row: when(row["requested_at"]),
        "done": lambda row: when(row["finished_at"]),
        "": lambda row: row["problem"] or "",
    }
    show(api, list(api.pages("/erasures", limit)), columns)


@command(app)
def report(api: Api, erasure: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show what an erasure removed where, and what stays and why."""
    _print(api, api.get(f"/erasures/{erasure}"))


def _confirm(what: str, name: str, yes: bool) -> None:
    if not yes and typer.prompt(f"{what}\nType the name to go on") != name:
        typer.echo("Not the same name: nothing was erased.", err=True)
        raise typer.Exit(1)


def _begin(api: Api, body: dict[str, Any], wait: bool) -> None:
    made = api.post("/erasures", body)
    if wait:
        with terminal.console().status("erasing") as status:
            while made["state"] in ("erasing", "settling"):
                time.sleep(LOOK_S)
                made = api.get(f"/erasures/{made['id']}")
                status.update({"settling": "waiting for what was on its way"}.get(made["state"], "erasing"))
    _print(api, made)


def _print(api: Api, made: dict[str, Any]) -> None:
    if api.as_json:
        show_one(api, made)
        return
    console = terminal.console()
    console.print(f"{made['kind']} {escape(made['subject'])}: [bold]{made['state']}[/] ({made['id']})")
    if made["problem"]:
        console.print(f"[red]{escape(made['problem'])}[/]")
    table = Table("store", "part", "removed", box=None, pad_edge=False)
    for store, parts in sorted(made["erased"].items()):
        for part, rows in sorted(parts.items()):
            if rows:
                table.add_row(escape(store), escape(part), f"{rows:,}")
    console.print(table)
    if made["not_erased"]:
        console.print("\nNot erased:")
        for stays in made["not_erased"]:
            console.print(f"  {escape(stays['what'])}: [dim]{escape(stays['why'])}[/]")
