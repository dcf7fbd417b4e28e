"""`outrider trips profile`: the rules by which trips are recognised, for a tenant or one type of device."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.registry.client import Api, command, parse_values, show_one

app = typer.Typer(
    no_args_is_help=True,
    help="""The rules of trips: thresholds for all devices of the tenant, or for those of one type.

Examples:

  outrider trips profile show

  outrider trips profile set still_resume_s=600

  outrider trips profile set --type truck engine_resume_s=600

  outrider trips profile reset --type truck
""",
)
TypeOption = Annotated[str, typer.Option("--type", help="A type of device; `*`: all.")]


@command(app, "show")
def show_(api: Api) -> None:
    """Show the rules in force: the defaults, and what differs by profile. The most specific one that fits a device holds."""
    found = api.get("/trip-rules")
    if api.as_json:
        show_one(api, found)
        return
    profiles = found["items"]
    names = [f"{'platform' if one['platform'] else 'tenant'} {one['type']}" for one in profiles]
    table = Table("rule", "default", *map(escape, names), box=None, pad_edge=False)
    for rule, default in found["defaults"].items():
        table.add_row(escape(rule), _text(default), *(_text(one["rules"].get(rule)) for one in profiles))
    terminal.console().print(table)
    if not profiles:
        typer.echo("All devices follow the defaults. `outrider trips profile set KEY=VALUE` changes some.")


@command(app, "set")
def set_(
    api: Api,
    pairs: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE...", help="Rules, as `show` names them; null: as more general.")
    ],
    type_: TypeOption = "*",
) -> None:
    """Change some rules of a profile; the others stay. Trips that begin or change from now on follow them."""
    before: dict[str, Any] = next(
        (one["rules"] for one in api.get("/trip-rules")["items"] if one["type"] == type_ and not one["platform"]), {}
    )
    rules = {key: value for key, value in {**before, **parse_values(pairs)}.items() if value is not None}
    show_one(api, api.put(f"/trip-rules/{quote(type_, safe='')}", {"rules": rules}), leave_out=("platform",))


@command(app)
def reset(api: Api, type_: TypeOption = "*") -> None:
    """Take the tenant's profile away: what is more general holds again."""
    api.delete(f"/trip-rules/{quote(type_, safe='')}")
    typer.echo("Reset.")


def _text(value: Any) -> str:
    return "" if value is None else escape(value if isinstance(value, str) else orjson.dumps(value).decode())
