"""`outrider config` and `outrider shadow`: what devices should do, and what they say they do."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from outrider_cli.registry.client import Api, command, parse_values, show, show_one, when

configurations = typer.Typer(
    no_args_is_help=True,
    help="""Configurations of many devices, merged by priority into each one's desired state.

Examples:

  outrider config key interval_s --type integer --minimum 1 --maximum 3600 --unit s

  outrider config set slow --applies-to tag:parked --priority 10 interval_s=600 --preview
""",
)
shadows = typer.Typer(
    no_args_is_help=True,
    help="""A device's desired and reported state.

Examples:

  outrider shadow set van-7 interval_s=30 log_level=debug

  outrider shadow set van-7 log_level=null            its own wish goes; configurations count again
""",
)
Device = Annotated[str, typer.Argument(metavar="DEVICE")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
Values = Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="JSON values, or plain text.")]


@command(configurations, "list")
def list_(api: Api) -> None:
    """List configurations, the strongest first."""
    columns = {
        "name": lambda row: row["name"],
        "applies to": lambda row: row["applies_to"] + (f":{row['selector']}" if row["selector"] else ""),
        "priority": lambda row: row["priority"],
        "state": lambda row: orjson.dumps(row["state"]).decode(),
    }
    show(api, list(api.pages("/configurations")), columns)


@command(configurations, "show")
def show_(api: Api, name: Name) -> None:
    """Show a configuration."""
    show_one(api, api.get(f"/configurations/{name}"))


@command(configurations, "set")
def set_(
    api: Api,
    name: Name,
    values: Values,
    applies_to: Annotated[str, typer.Option(help="all, or type:…, tier:…, tag:….")] = "all",
    priority: Annotated[int, typer.Option(help="Higher ones win.")] = 0,
    preview: Annotated[bool, typer.Option("--preview", help="Only show what would change.")] = False,
) -> None:
    """Make or replace a configuration."""
    kind, _, selector = applies_to.partition(":")
    body = {
        "name": name,
        "applies_to": kind,
        "selector": selector,
        "priority": priority,
        "state": parse_values(values),
    }
    if not preview:
        show_one(api, api.put(f"/configurations/{name}", body))
        return
    answer = api.post("/configurations/preview", {"configuration": body})
    if api.as_json:
        show_one(api, answer)
        return
    typer.echo(f"{answer['devices']} devices would change")
    for example in answer["examples"]:
        before, after = orjson.dumps(example["before"]).decode(), orjson.dumps(example["after"]).decode()
        typer.echo(f"  {example['device']}: {before} → {after}")


@command(configurations, "delete")
def delete(api: Api, name: Name) -> None:
    """Delete a configuration; its devices fall back to the others."""
    api.delete(f"/configurations/{name}")
    typer.echo(f"{name} deleted")


@command(configurations, "keys")
def keys(api: Api) -> None:
    """List the keys that are typed."""
    found = api.get("/configuration-keys")
    columns = {
        "key": lambda row: row["key"],
        "type": lambda row: row["type"],
        "minimum": lambda row: row["minimum"],
        "maximum": lambda row: row["maximum"],
        "choices": lambda row: orjson.dumps(row["choices"]).decode() if row["choices"] else "",
        "unit": lambda row: row["unit"],
        "description": lambda row: row["description"],
    }
    show(api, found if isinstance(found, list) else found["items"], columns)


@command(configurations, "key")
def key(
    api: Api,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    type_: Annotated[str, typer.Option("--type", help="integer, number, boolean, string or json.")] = "number",
    minimum: Annotated[float | None, typer.Option(help="Least value allowed.")] = None,
    maximum: Annotated[float | None, typer.Option(help="Greatest value allowed.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="One of the only values allowed; repeatable.")] = None,
    unit: Annotated[str, typer.Option(help="Such as s or km/h.")] = "",
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Take its type away instead.")] = False,
) -> None:
    """Type a configuration key: values that do not fit are refused from then on."""
    if delete:
        api.delete(f"/configuration-keys/{key}")
        typer.echo(f"{key} has no type any more")
        return
    choices = [parse_values([f"x={one}"])["x"] for one in choice] if choice else None
    body: dict[str, Any] = {
        "type": type_,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "unit": unit,
        "description": description,
    }
    show_one(api, api.put(f"/configuration-keys/{key}", body))


@command(shadows, "show")
def show_shadow(api: Api, device: Device) -> None:
    """Show desired and reported state, and what differs."""
    shadow = api.get(f"/devices/{device}/shadow")
    if api.as_json:
        show_one(api, shadow)
        return
    desired, reported = shadow["desired"], shadow["reported"]
    rows = [
        {
            "key": key,
            "desired": _text(desired, key),
            "from": (shadow.get("sources") or {}).get(key, ""),
            "reported": _text(reported, key),
            "": "≠" if key in desired and desired.get(key) != reported.get(key) else "",
        }
        for key in sorted(desired | reported)
    ]
    show(api, rows, {name: (lambda row, name=name: row[name]) for name in ("key", "desired", "from", "reported", "")})  # type: ignore[misc]
    typer.echo(
        f"desired version {shadow['desired_version']} since {when(shadow.get('desired_at')) or 'never'}, "
        f"reported version {shadow['reported_version']} at {when(shadow.get('reported_at')) or 'never'}"
    )


@command(shadows, "set")
def set_shadow(api: Api, device: Device, values: Values) -> None:
    """Set this device's own wishes; null takes one away. They win over every configuration."""
    answer = api.edit(f"/devices/{device}/shadow", {"overrides": parse_values(values)})
    if api.as_json:
        show_one(api, answer)
        return
    typer.echo(f"{device}: desired version {answer['desired_version']}: {orjson.dumps(answer['desired']).decode()}")


def _text(state: dict[str, Any], key: str) -> str:
    return orjson.dumps(state[key]).decode() if key in state else ""
