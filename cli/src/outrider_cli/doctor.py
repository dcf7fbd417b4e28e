"""`outrider doctor`: is everything as it must be so that nothing is lost?"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from outrider_cli import terminal
from outrider_cli.connect import DatabaseUrlOption, DataOption, MqttUrlOption, database_url, mqtt_url
from outrider_cli.doctor_accounts import check_accounts, check_doors
from outrider_cli.doctor_checks import Check, Level, check_broker, check_database, check_gateway, check_service
from outrider_cli.doctor_probe import probe
from outrider_cli.state import NotRunning, State

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}

HELP = """Check versions, settings that lose data, database, rights, accounts, certificates, services, slots and queues.

Exit code 0 when nothing failed (warnings are allowed), 1 otherwise. It changes nothing; only --probe stores a sample,
of the device `probe` of the tenant `doctor`, which it registers the first time (without a secret: nobody connects as it).

Examples:

  outrider doctor

  outrider doctor --probe                    follow one message from a device to its row and back

  outrider doctor --json | jq '.checks[] | select(.level != "OK")'

  outrider doctor --mqtt-url mqtt://broker:1883 --database-url postgresql://admin@db/outrider
"""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    mqtt: MqttUrlOption = None,
    database: DatabaseUrlOption = None,
    data: DataOption = Path(".outrider"),
    with_probe: Annotated[
        bool, typer.Option("--probe", help="Also send a message as a device and say at which hop it stops.")
    ] = False,
) -> None:
    """Check versions, settings that lose data, database, rights, services, slots and queues."""
    state = _state(data)
    broker_url = mqtt_url(mqtt, data)
    own = state is not None and broker_url == state.mqtt_url
    checks = asyncio.run(check_broker(broker_url))
    checks += asyncio.run(check_doors(broker_url, state.device_mqtt_url if own and state else ""))
    checks += check_database(database_url(database, data))
    if state is None:
        checks.append(Check("services", Level.WARN, f"none known in {data}", "Give --data of the running platform."))
    else:
        checks += check_accounts(state)
        checks += [check for name, process in state.services.items() for check in check_service(name, process)]
        if state.gateway_url:
            checks.append(check_gateway(state.gateway_url))
    if with_probe:
        checks += asyncio.run(probe(mqtt_url(mqtt, data), database_url(database, data)))
    failed = any(check.level is Level.FAIL for check in checks)
    if as_json:
        document = {"healthy": not failed, "checks": [check.__dict__ for check in checks]}
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    else:
        _print(checks)
    raise typer.Exit(1 if failed else 0)


def _state(data: Path) -> State | None:
    try:
        return State.load(data.absolute())
    except NotRunning:
        return None


def _print(checks: list[Check]) -> None:
    console = terminal.console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        advice = f"\n[italic]→ {escape(check.advice)}[/]" if check.advice else ""
        table.add_row(f"[{COLOURS[check.level]}]{check.level}[/]", check.name, escape(check.detail) + advice)
    console.print(table)
    bad = {level: sum(1 for check in checks if check.level is level) for level in Level}
    console.print(f"{bad[Level.OK]} fine, {bad[Level.WARN]} warnings, {bad[Level.FAIL]} failed")


def register(app: typer.Typer) -> None:
    """Add `doctor` to the app."""
    app.command(help=HELP)(doctor)
