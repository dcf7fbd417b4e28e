"""`outrider slots`: who attends which consumer slot and how deep its queue is; more slots, or fewer, while all runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from outrider_cli.connect import DatabaseUrlOption, DataOption
from outrider_cli.database import session

SLOTS = """
SELECT s.group_name, s.slot, s.replica, s.epoch, s.retiring,
       extract(epoch FROM now() - s.heartbeat_at)::float8 AS heartbeat_age_s,
       d.batches AS depth_batches, c.committed
FROM runtime.slot s
LEFT JOIN (SELECT group_name, substring(topic FROM '[0-9]+$')::int AS slot, sum(batches)::bigint AS batches
           FROM runtime.depth GROUP BY 1, 2) d USING (group_name, slot)
LEFT JOIN (SELECT group_name, substring(topic FROM '[0-9]+$')::int AS slot, sum(number)::bigint AS committed
           FROM runtime.committed GROUP BY 1, 2) c USING (group_name, slot)
ORDER BY s.group_name, s.slot
"""
COUNT = "SELECT count(*) AS slots, max(slot) AS last FROM runtime.slot WHERE group_name = %s AND NOT retiring"
RAISE = "SELECT runtime.declare_slots(%s, %s, true)"
RETIRE = "UPDATE runtime.slot SET retiring = true WHERE group_name = %s AND slot = %s"
STILL_THERE = "SELECT holder FROM runtime.slot WHERE group_name = %s AND slot = %s"

RATE_INTERVAL_S = 1.0
MAX_SLOTS = 256

commands = typer.Typer(invoke_without_command=True, no_args_is_help=False)

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="ingest, writer-timeseries, writer-logs …")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.add_typer(commands, name="slots", help="Show the consumer slots, who holds them and how deep they are.")


@commands.callback()
def slots(
    context: typer.Context,
    data: DataOption = Path(".outrider"),
    url: DatabaseUrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show each slot: holder, age of its heartbeat, depth (bus batches published and not committed) and rate.

    Depth is known for the writers' slots; ingest's age is in `outrider doctor`.

    Examples:

      outrider slots

      outrider slots raise writer-timeseries 6

      outrider slots retire writer-timeseries
    """
    if context.invoked_subcommand is not None:
        return
    with session(url, data) as connection:
        before = {(row["group_name"], row["slot"]): row["committed"] for row in connection.execute(SLOTS).fetchall()}
        started = time.monotonic()
        time.sleep(RATE_INTERVAL_S)
        rows = connection.execute(SLOTS).fetchall()
        elapsed_s = time.monotonic() - started
    for row in rows:
        first, last = before.get((row["group_name"], row["slot"])), row.pop("committed")
        row["batches_per_s"] = None if first is None or last is None else max(0, last - first) / elapsed_s
    if as_json:
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        Console().print(_table(rows))


@commands.command("raise")
def raise_(
    group: GroupArgument,
    count: Annotated[int, typer.Argument(min=1, max=MAX_SLOTS, help="Slots the group shall have.")],
    data: DataOption = Path(".outrider"),
    url: DatabaseUrlOption = None,
) -> None:
    """Give a group more slots (= shards of its bus topics), so that more replicas can share them.

    Running replicas take the new slots within seconds; ingest uses the new shards within 10 s. Nothing stops.
    """
    with session(url, data) as connection:
        known = _known(connection, group)
        if count <= known["slots"]:
            _fail(f"{group} has {known['slots']} slots already; `outrider slots retire {group}` takes one away.")
        connection.execute(RAISE, (group, count))
    typer.echo(f"{group}: {known['slots']} → {count} slots")


@commands.command("retire")
def retire(
    group: GroupArgument,
    data: DataOption = Path(".outrider"),
    url: DatabaseUrlOption = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for it.")] = 120.0,
) -> None:
    """Take away a group's last slot: its holder unsubscribes, stores what is queued, and ends the session.

    Returns when that is done. Nothing is lost: ingest uses the remaining shards from then on.
    """
    with session(url, data) as connection:
        known = _known(connection, group)
        if known["slots"] == 1:
            _fail(f"{group} has one slot left; without it nothing would be stored.")
        slot = known["last"]
        connection.execute(RETIRE, (group, slot))
        deadline = time.monotonic() + timeout_s
        with Console().status(f"{group} empties slot {slot} …"):
            while (row := connection.execute(STILL_THERE, (group, slot)).fetchone()) is not None:
                if time.monotonic() > deadline:
                    held = "its holder still empties it" if row["holder"] else f"nobody holds it: start {group}"
                    _fail(f"Slot {slot} is not empty after {timeout_s:.0f} s: {held}. It goes on by itself.")
                time.sleep(0.2)
    typer.echo(f"{group}: slot {slot} retired, {known['slots'] - 1} left")


def _known(connection: Any, group: str) -> dict[str, Any]:
    row: dict[str, Any] = connection.execute(COUNT, (group,)).fetchone()
    if not row["slots"]:
        _fail(f"There is no group {group} with slots; `outrider slots` lists them.")
    return row


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("group", "slot", "holder", "heartbeat", "depth", "rate", box=None, pad_edge=False)
    for row in rows:
        age_s = row["heartbeat_age_s"]
        table.add_row(
            row["group_name"],
            f"{row['slot']}" + (" (retiring)" if row["retiring"] else ""),
            row["replica"] if age_s is not None else "[red]nobody[/]",
            "–" if age_s is None else f"{age_s:.1f} s ago",
            "–" if row["depth_batches"] is None else f"{row['depth_batches']:,} batches",
            "–" if row["batches_per_s"] is None else f"{row['batches_per_s']:,.1f} batches/s",
        )
    return table


def _fail(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(1)
