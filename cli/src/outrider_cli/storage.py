"""`outrider storage`: how much is kept where, how fast it grows, when the disk is full."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.registry.client import Api, command, show_one
from outrider_cli.sizes import bar, size

AllOption = Annotated[bool, typer.Option("--all", help="Of the whole platform, for its administrators.")]
SMALL_BYTES = 1024 * 1024
"""Smaller tables are summed up."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app)(storage)


def storage(
    api: Api,
    everything: AllOption = False,
    devices: Annotated[int, typer.Option(min=0, max=1000, help="So many devices, the largest.")] = 10,
) -> None:
    """Show bytes by table, day and device, growth and forecast, vacuum and the archive."""
    found = (api.of_platform() if everything else api).get("/storage", top=devices)
    if api.as_json:
        show_one(api, found)
        return
    console = terminal.console()
    if found["measured_at"] is None:
        console.print("Nothing was measured yet: lifecycle looks a minute after its start. Does it run?")
        return
    _tables(console, found)
    _days(console, found)
    _devices(console, found)
    _forecast(console, found)
    archive = found["archive"]
    span = f", {archive['first_day']} to {archive['last_day']}" if archive["first_day"] else ""
    console.print(
        f"\n[bold]Archive[/]  {size(archive['bytes'])} in {archive['files']:,} files, {archive['rows']:,} rows{span}"
    )
    measured = datetime.fromisoformat(found["measured_at"]).astimezone()
    about = "; a tenant's part of tables is an estimate" if found["estimated"] else ""
    console.print(f"[dim]measured at {measured:%H:%M:%S}{about}[/]")


def _tables(console: Console, found: dict[str, Any]) -> None:
    shown = [row for row in found["tables"] if row["bytes"] >= SMALL_BYTES] or found["tables"][:5]
    largest = max((row["bytes"] for row in shown), default=0)
    keeps = {tier["table"]: tier for tier in (found["forecast"] or {}).get("tiers", ())}
    table = Table(title="Tables", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, right in (
        ("table", 0),
        ("size", 1),
        ("", 0),
        ("a day", 1),
        ("days", 1),
        ("rows", 1),
        ("dead", 1),
        ("vacuum", 0),
    ):
        table.add_column(name, justify="right" if right else "left")
    for row in shown:
        keep = keeps.get(row["name"])
        table.add_row(
            row["name"],
            size(row["bytes"]),
            bar(row["bytes"], largest),
            size(row["bytes_day"]),
            "" if keep is None else str(keep["days"] or "∞"),
            f"{row['rows']:,}",
            "" if row["dead_rows"] is None else f"{row['dead_rows']:,}",
            (row["vacuumed_at"] or "")[:10],
        )
    console.print(table)
    rest = [row for row in found["tables"] if row not in shown]
    if rest:
        console.print(f"[dim]and {len(rest)} smaller ones, {size(sum(row['bytes'] for row in rest))}[/]")


def _days(console: Console, found: dict[str, Any]) -> None:
    days = found["days"][-14:]
    largest = max((day["bytes"] for day in days), default=0)
    if largest:
        table = Table(
            title="\nDays", title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
        )
        for day in days:
            table.add_row(day["day"], size(day["bytes"]), bar(day["bytes"], largest, 40))
        console.print(table)


def _devices(console: Console, found: dict[str, Any]) -> None:
    if not found["devices"]:
        return
    largest = found["devices"][0]["bytes"]
    title = f"\nDevices, of 24 hours (the largest of {found['device_count']:,})"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, right in (
        ("device", 0),
        ("size", 1),
        ("", 0),
        ("samples", 1),
        ("texts", 1),
        ("events", 1),
        ("log lines", 1),
    ):
        table.add_column(name, justify="right" if right else "left")
    for row in found["devices"]:
        name = f"{row['tenant']}/{row['device']}" if row.get("tenant") else row["device"]
        counts = (f"{row[part]:,}" for part in ("samples", "texts", "events", "lines"))
        table.add_row(name, size(row["bytes"]), bar(row["bytes"], largest), *counts)
    console.print(table)


def _forecast(console: Console, found: dict[str, Any]) -> None:
    forecast = found["forecast"]
    if forecast is None:
        return
    console.print(
        f"\n[bold]Forecast[/]  {size(forecast['database_bytes'])} now, {size(forecast['growth_bytes_day'])} more a day; "
        f"{size(forecast['in_30_days_bytes'])} in 30 days, {size(forecast['in_a_year_bytes'])} in a year"
    )
    if forecast["free_bytes"] is None:
        console.print(
            "          How much is free is not known: OUTRIDER_STORAGE_DISK_PATH of lifecycle says where to look."
        )
    elif forecast["full_on"]:
        console.print(
            f"          {size(forecast['free_bytes'])} are free: [bold red]full on {forecast['full_on']}[/], "
            f"in {forecast['full_in_days']} days. Keep less (`outrider retention set`) or get a larger disk."
        )
    else:
        console.print(f"          {size(forecast['free_bytes'])} are free: enough for ten years")
