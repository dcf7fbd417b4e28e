"""Where commands find the broker and the database: options, environment, or the running platform's state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outrider_cli.state import NotRunning, State
from outrider_cli.up import DataOption

__all__ = ["DataOption", "DatabaseUrlOption", "MqttUrlOption", "database_url", "device_mqtt_url", "mqtt_url"]

MqttUrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", "--mqtt-url", envvar="OUTRIDER_MQTT_URL", help="Broker; by default the platform running in --data."
    ),
]
DatabaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--database-url", envvar="OUTRIDER_DATABASE_URL", help="Database; by default the platform running in --data."
    ),
]


def mqtt_url(given: str | None, data: Path) -> str:
    """The broker to talk to. Ends the command with what to do when none is named and none runs."""
    return given or _state(data, "--url").mqtt_url


def device_mqtt_url(data: Path) -> str:
    """The devices' door of the running platform's broker. Ends the command with what to do when none runs."""
    return _state(data, "--url").device_mqtt_url


def database_url(given: str | None, data: Path) -> str:
    """The database to read. Ends the command with what to do when none is named and none runs."""
    return given or _state(data, "--database-url").database_url


def _state(data: Path, option: str) -> State:
    try:
        return State.load(data.absolute())
    except NotRunning as error:
        typer.echo(f"{error} Or name another with {option}.", err=True)
        raise typer.Exit(2) from None
