"""`outrider trips list` and `show`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.registry.client import Api, fail, show, when
from outrider_cli.since import since_option
from outrider_cli.trips import export
from outrider_cli.trips.sketch import END, START, STOP, sketch

OPEN = ("driving", "paused")
STATES = (*OPEN, "final")
PERCENT = (("battery", "soc"), ("fuel", "fuel"))
POINTS = 2000
"""Of a track in GPX: more are thinned evenly in time."""


def list_(
    api: Api,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only those that ended later: 30m, 2h, 7d ago, or an ISO 8601 time.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only in this state: driving, paused, final, or open; repeatable.")
    ] = None,
    micro: Annotated[bool, typer.Option("--micro", help="Also those too short to count.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 30,
) -> None:
    """List trips, the newest first; those under way are marked."""
    states = [one for name in state or () for one in (OPEN if name == "open" else (name,))]
    if unknown := [name for name in states if name not in STATES]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of driving, paused, final, open", param_hint="--state")
    moment = since_option(since)
    asked = {"device": device, "from": moment.isoformat() if moment else None, "state": states or None}
    rows = list(api.pages("/trips", limit, micro=None if micro else False, **asked))
    if not rows and not api.as_json:
        typer.echo(
            "No trips. They appear as devices with positions or speed drive: `outrider demo` shows some.", err=True
        )
        return
    columns = {
        "id": lambda row: row["id"],
        "device": lambda row: row["device"],
        "from": lambda row: when(row["start_at"]),
        "to": lambda row: when(row["end_at"])[11:] if row["state"] != "driving" else "now",
        "km": lambda row: number(row["distance_km"], 2),
        "duration": lambda row: length(row["duration_s"]),
        "moving": lambda row: length(row["moving_s"]),
        "max km/h": lambda row: number(row["max_speed_kmh"], 0),
        "state": lambda row: row["state"] + (" micro" if _is_micro(row) else ""),
        "stops": lambda row: row["stops"] or "",
        "gaps": lambda row: row["gaps"] or "",
        "sure": lambda row: percent(row["confidence"]),
        "rev": lambda row: row["rev"],
    }
    show(api, rows, columns)


def show_(
    api: Api,
    what: Annotated[str, typer.Argument(metavar="ID|DEVICE", help="A trip's id, or a device: its newest trip.")],
    as_geojson: Annotated[bool, typer.Option("--geojson", help="Print GeoJSON.")] = False,
    as_gpx: Annotated[bool, typer.Option("--gpx", help="Print GPX.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead.")] = None,
) -> None:
    """Show a trip: what is known of it, a sketch of its track, and links to see it on a map."""
    if as_geojson + as_gpx + api.as_json > 1:
        raise typer.BadParameter("choose one of --json, --geojson and --gpx")
    trip = find(api, what)
    if not (as_geojson or as_gpx or api.as_json):
        _print(api, trip)
        return
    if as_gpx:
        points = api.get(f"/devices/{trip['device']}/track", **_range(trip), points=POINTS)
        text = export.gpx(trip, points)
    else:
        document = export.geojson(trip) if as_geojson else trip
        text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)


def find(api: Api, what: str) -> dict[str, Any]:
    """The trip with this id, else the newest of the device with this name. Ends the command if there is none."""
    try:
        id_ = str(UUID(what))
    except ValueError:
        found = api.get("/trips", device=what, limit=1)["items"]
        if not found:
            fail(f"No trip of {what}. `outrider trips list --micro` shows all there are.")
        id_ = found[0]["id"]
    trip: dict[str, Any] = api.get(f"/trips/{id_}")
    return trip


def length(seconds: float | None) -> str:
    """`1:02:03`, `2:03`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | None, digits: int) -> str:
    """With so many decimals; empty for what is not known."""
    return "" if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """0.93 as `93 %`."""
    return "" if value is None else f"{value * 100:.0f} %"


def _range(trip: Mapping[str, Any]) -> dict[str, str]:
    end = datetime.fromisoformat(trip["end_at"]) + timedelta(milliseconds=1)
    return {"from": trip["start_at"], "to": end.isoformat()}


def _print(api: Api, trip: Mapping[str, Any]) -> None:
    console = terminal.console()
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, text in _facts(trip):
        if text:
            facts.add_row(f"[dim]{name}[/]", escape(text))
    console.print(facts)
    moments = sorted(
        [("stop", stop) for stop in trip["stop_list"]] + [("gap", gap) for gap in trip["gap_list"]],
        key=lambda one: int(one[1]["start_ms"]),
    )
    if moments:
        table = Table("", "from", "to", "length", "", box=None, pad_edge=False, title="Within it", title_justify="left")
        for kind, one in moments:
            seconds = (one["end_ms"] - one["start_ms"]) / 1000
            table.add_row(
                kind, _clock(one["start_ms"]), _clock(one["end_ms"]), length(seconds), escape(_said(kind, one))
            )
        console.print()
        console.print(table)
    edits = [one for one in api.get("/trip-edits", device=trip["device"])["items"] if not one["undone_at"]]
    if edits:
        table = Table(
            "edit", "what", "by", "at", box=None, pad_edge=False, title="Changed by people", title_justify="left"
        )
        for edit in edits:
            what = f"{len(edit['ids'])} trips merged" if edit["kind"] == "merge" else f"split at {when(edit['at'])}"
            table.add_row(edit["id"], what, escape(edit["actor"]), when(edit["made_at"]))
        console.print()
        console.print(table)
    drawn = sketch(export.track_of(trip), export.stops_of(trip), columns=min(console.width - 2, 72), rows=16)
    if drawn:
        console.print()
        for line in drawn:
            console.print(line, markup=False)
        console.print(f"[dim]{START} start  {END} end  {STOP} stop[/]")
    _links(api, trip, console.print)


def _links(api: Api, trip: Mapping[str, Any], say: Any) -> None:
    say()
    say(f"console  {api.url}/devices/{trip['device']}/trips?trip={trip['id']}", soft_wrap=True, markup=False)
    link = export.map_link(trip)
    if link:
        end = trip["end"]
        say("[dim]Maps of others; opening one tells them the place:[/]")
        if end["lat"] is not None:
            say(f"end      {export.place_link(end['lat'], end['lon'])}", soft_wrap=True, markup=False)
        say(f"track    {link}", soft_wrap=True, markup=False)


def _facts(trip: Mapping[str, Any]) -> list[tuple[str, str]]:
    more = trip["more"]
    unsure = trip["distance_uncertainty_km"]
    sources = [(name, more.get(f"distance_{name}_km")) for name in ("gps", "speed", "odometer")]
    filtered = {name: count for name, count in (more.get("filtered") or {}).items() if count}
    under_way = trip["state"] == "driving"
    return [
        ("trip", f"{trip['id']}  rev {trip['rev']}"),
        ("device", trip["device"]),
        ("state", trip["state"] + (", micro: too short to count" if _is_micro(trip) else "")),
        ("from", f"{when(trip['start_at'])}  {_place(trip['start'])}  {_words(trip['start_reason'])}"),
        ("to", f"{when(trip['end_at'])}  {_place(trip['end'])}  {'' if under_way else _words(trip['end_reason'])}"),
        (
            "distance",
            f"{number(trip['distance_km'], 3)} km"
            + (f" ± {number(unsure, 3)}" if unsure is not None else "")
            + "".join(f"  {name} {number(value, 3)}" for name, value in sources if value is not None),
        ),
        (
            "duration",
            f"{length(trip['duration_s'])}  moving {length(trip['moving_s'])}  idle {length(trip['idle_s'])}  "
            f"in stops {length(trip['stop_s'])}",
        ),
        (
            "speed",
            f"{number(trip['avg_speed_kmh'], 1)} km/h on average, {number(trip['max_speed_kmh'], 0)} at most",
        ),
        *(
            (name, f"{number(more[f'{key}_start_pct'], 1)} → {number(more[f'{key}_end_pct'], 1)} %")
            for name, key in PERCENT
            if more.get(f"{key}_start_pct") is not None and more.get(f"{key}_end_pct") is not None
        ),
        ("recognised by", f"{_words(trip['evidence'])}  {percent(trip['confidence'])} sure"),
        ("not believed", ", ".join(map(_words, more.get("distrusted") or ()))),
        ("left out", "  ".join(f"{count} {_words(name)}" for name, count in filtered.items())),
    ]


def _is_micro(trip: Mapping[str, Any]) -> bool:
    """One that is not final may still become long enough."""
    return bool(trip["micro"]) and trip["state"] == "final"


def _place(place: Mapping[str, Any]) -> str:
    return "" if place["lat"] is None else f"{place['lat']:.5f} {place['lon']:.5f}"


def _words(text: str | None) -> str:
    return (text or "").replace("_", " ")


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%H:%M:%S")


def _said(kind: str, one: Mapping[str, Any]) -> str:
    if kind == "stop":
        engine = {True: "engine running", False: "engine off", None: ""}[one["engine"]]
        return "  ".join(filter(None, (engine, "silent" if one["silent"] else "")))
    moved = {
        True: f"moved on, {one['distance_km']:.2f} km straight",
        False: "did not move",
        None: "no positions around it",
    }
    return f"{moved[one['moved']]}  {percent(one['confidence'])} sure that the trip went on"
