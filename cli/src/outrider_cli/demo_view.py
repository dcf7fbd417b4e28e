"""The demo's picture, as a live table or as one line."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from outrider_cli.demo_data import Picture, Trip, Trips


def one_line(picture: Picture) -> str:
    """One line for logs and pipes."""
    sim = picture.sim
    ready = " ".join(f"{name}:{'ready' if good else 'not-ready'}" for name, good in picture.ready.items())
    return (
        f"devices {sim.get('connected', 0)}/{sim.get('devices', 0)} · {picture.messages_per_s:.0f} msg/s · "
        f"{picture.stored_per_s:.0f} samples/s stored · publish→ack p50 {_ms(sim.get('p50_ms'))} "
        f"p99 {_ms(sim.get('p99_ms'))} · ledger lag {_ms(picture.ledger_lag_ms)} · depth {picture.depth} · "
        f"rejected {picture.rejected} · unacked {sim.get('unacked', 0)} · {_trips(picture.trips)}{ready}"
        + (f" · database: {picture.database_problem}" if picture.database_problem else "")
    )


def _trips(trips: Trips | None) -> str:
    if trips is None:
        return ""
    return f"trips {trips.driving} driving {trips.paused} paused {trips.final} final today {trips.km:.1f} km · "


NUMBERS_LINES = 14
FRAME_LINES = 3
LEAST_VEHICLES = 2


def screen(picture: Picture, where: str, troubles: list[str], height: int) -> RenderableType:
    """Everything at once, for a terminal of so many lines: the smaller it is, the fewer vehicles are shown."""
    taken = NUMBERS_LINES + FRAME_LINES + where.count("\n") + 2 + (len(troubles) + 2 if troubles else 0)
    rows = max(LEAST_VEHICLES, height - taken)
    parts: list[RenderableType] = [
        Columns([_numbers(picture), _services(picture)], expand=False),
        _vehicles(picture, rows),
    ]
    if troubles:
        parts.append(Panel("\n".join(escape(text) for text in troubles), title="warnings", title_align="left"))
    parts.append(where)
    return Group(*parts)


def _numbers(picture: Picture) -> Panel:
    sim = picture.sim
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right", min_width=14)
    unacked = sim.get("unacked", 0)
    rows = [
        ("devices connected", f"{sim.get('connected', 0):,} of {sim.get('devices', 0):,}"),
        ("messages/s", f"{picture.messages_per_s:,.0f}"),
        ("samples/s stored", f"[bold green]{picture.stored_per_s:,.0f}[/]"),
        ("publish→ack p50", _ms(sim.get("p50_ms"))),
        ("publish→ack p99", _ms(sim.get("p99_ms"))),
        ("ledger lag", _ms(picture.ledger_lag_ms)),
        ("batches on the bus", f"{picture.depth:,}"),
        ("rejected", f"{picture.rejected:,}" if not picture.rejected else f"[yellow]{picture.rejected:,}[/]"),
        ("unacked", f"{unacked:,}"),
    ]
    if trips := picture.trips:
        rows += [
            ("trips under way", f"[bold green]{trips.driving:,}[/], {trips.paused:,} paused"),
            ("trips today", f"{trips.final:,} final"),
            ("driven today", f"{trips.km:,.1f} km"),
        ]
    for name, value in rows:
        grid.add_row(name, value)
    return Panel(grid, title="fleet", title_align="left")


def _services(picture: Picture) -> Panel:
    grid = Table.grid(padding=(0, 2))
    for name, good in picture.ready.items():
        grid.add_row(name, "[green]ready[/]" if good else "[red]not ready[/]")
    grid.add_row("database", "[red]away[/]" if picture.database_problem else "[green]ready[/]")
    sim = picture.sim
    grid.add_row("reconnects", f"{sim.get('reconnects', 0):,}")
    grid.add_row("resent", f"{sim.get('resent', 0):,}")
    return Panel(grid, title="services", title_align="left")


def _vehicles(picture: Picture, rows: int) -> Panel:
    table = Table("device", "speed", "trip", "position", "last seen", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    now = datetime.now(UTC)
    for vehicle in picture.vehicles[:rows]:
        speed = "–" if vehicle.speed_kmh is None else f"{vehicle.speed_kmh:5.1f} km/h"
        bar = "▪" * int((vehicle.speed_kmh or 0) / 10)
        position = "–" if vehicle.lat is None or vehicle.lon is None else f"{vehicle.lat:9.5f} {vehicle.lon:10.5f}"
        age_s = max(0.0, (now - vehicle.seen).total_seconds())
        table.add_row(
            vehicle.device,
            f"{speed} [cyan]{bar:<12}[/]",
            _trip(picture, vehicle.device),
            position,
            f"{age_s:.1f} s ago",
        )
    return Panel(table, title="vehicles, as stored", title_align="left")


COLOURS = {"driving": "green", "paused": "yellow", "final": "dim"}


def _trip(picture: Picture, device: str) -> str:
    trip: Trip | None = picture.last_trips.get(device)
    if trip is None:
        return "–"
    return f"[{COLOURS.get(trip.state, 'dim')}]{trip.state:<7}[/] {trip.km:6.2f} km"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms"
