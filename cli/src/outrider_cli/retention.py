"""`outrider retention`: for how long what is kept."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outrider_cli.registry.client import Api, command, parse_values, show, show_one
from outrider_cli.storage import AllOption

app = typer.Typer(no_args_is_help=True, help="For how long what is kept, and whether it is archived then.")

NAMES = {
    "raw_days": "samples as they came",
    "rollup_1m_days": "a value a minute",
    "rollup_5m_days": "a value in five minutes",
    "rollup_1h_days": "a value an hour",
    "text_days": "texts and JSON",
    "event_days": "events",
    "log_days": "logs",
    "position_days": "positions, for trips",
    "trip_days": "trips",
    "archive": "archived before they go",
}


@command(app, "show")
def show_policy(api: Api, everybody: AllOption = False) -> None:
    """Show what holds, and what of it the tenant set itself."""
    _print(api, (api.of_platform() if everybody else api).get("/retention"))


@command(app, "set")
def set_policy(
    api: Api,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=DAYS...", help="Such as raw_days=30; 0: for ever; null: as for everybody."),
    ],
    everybody: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Change it. What is kept shorter is archived, where there is an archive, and removed within an hour."""
    target = api.of_platform() if everybody else api
    changes: dict[str, Any] = parse_values(values)
    before = target.get("/retention")["effective"]
    shorter = [
        name
        for name, days in changes.items()
        if isinstance(days, int)
        and not isinstance(days, bool)
        and days
        and (before.get(name) == 0 or days < (before.get(name) or 0))
    ]
    if shorter and not yes:
        typer.confirm(f"Older rows are removed ({', '.join(shorter)}), which cannot be taken back. Go on?", abort=True)
    _print(api, target.edit("/retention", changes))


def _print(api: Api, policy: dict[str, Any]) -> None:
    if api.as_json:
        show_one(api, policy)
        return
    rows = [
        {"name": name, "what": what, "keep": policy["effective"][name], "own": policy["own"][name]}
        for name, what in NAMES.items()
    ]
    columns = {
        "setting": lambda row: row["name"],
        "days": lambda row: _in_words(row["keep"]),
        "of": lambda row: row["what"],
        "": lambda row: "set here" if row["own"] is not None and policy["tenant"] else "",
    }
    show(api, rows, columns)


def _in_words(value: int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value else "for ever"
