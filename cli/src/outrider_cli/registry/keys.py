"""`outrider key` and `outrider broker`: the master key, and what a broker of your own needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from outrider.access import bootstrap as broker_accounts
from outrider.access import rights
from outrider.access.keys import FILE_VARIABLE, KEY_VARIABLE, BadMasterKey, KeyRing, new_line
from outrider.access.secrets import service_password
from outrider_cli.registry.client import Api, command, fail

keys = typer.Typer(no_args_is_help=True, help="The master key, which every secret is derived from.")
broker = typer.Typer(no_args_is_help=True, help="What a Mosquitto of your own needs: accounts, certificates, rights.")

KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--master-key-file", envvar=FILE_VARIABLE, help="Master key file; by default that of the platform in --data."
    ),
]
DataOption = Annotated[Path, typer.Option("--data", envvar="OUTRIDER_DATA", help="Folder of an embedded platform.")]


@keys.command()
def new(key_id: Annotated[str, typer.Option("--id", help="1 to 16 of a-z and 0-9; each key its own.")] = "k1") -> None:
    """Print a new random master key as a line of the key file: `outrider key new > master.key`, then chmod 600."""
    line = new_line(key_id)
    try:
        KeyRing.parse(line, "--id")
    except BadMasterKey as error:
        fail(str(error))
    sys.stdout.write(line)
    if sys.stdout.isatty():
        typer.echo("Keep it apart from backups of the database; without it no secret can be made again.", err=True)


@keys.command("list")
def list_(file: KeyFileOption = None, data: DataOption = Path(".outrider")) -> None:
    """List the ids of the master keys, the newest first. Never prints a key."""
    typer.echo("\n".join(_ring(file, data).ids))


@broker.command()
def bootstrap(
    file: Annotated[Path, typer.Option("--file", help="The broker's dynamic-security.json.")],
    mosquitto: Annotated[str, typer.Option("--mosquitto", help="The broker's version: 2.1 or 2.0.")] = "2.1",
    key_file: KeyFileOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Write the broker's first accounts if its file is missing, empty or damaged; a good one is left alone.

    Run it before every start of the broker (systemd: ExecStartPre=). The registry fills in devices and people.
    """
    numbers = mosquitto.split(".")
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        raise typer.BadParameter("--mosquitto is a version such as 2.1 or 2.0.21")
    version = (int(numbers[0]), int(numbers[1]), int(numbers[2]) if len(numbers) > 2 else 0)
    try:
        written = broker_accounts.ensure(file, _ring(key_file, data), version)
    except OSError as error:
        fail(f"{file}: {error}")
    typer.echo(f"{file}: {'written' if written else 'is good, left alone'}")


@broker.command()
def password(
    service: Annotated[str, typer.Argument(help="ingest, registry, tools …")],
    key_file: KeyFileOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Print the broker password of a service's account `svc:SERVICE`, for its OUTRIDER_MQTT_URL."""
    if service not in rights.SERVICES:
        fail(f"There is no service {service}; there are: {', '.join(rights.SERVICES)}")
    typer.echo(service_password(_ring(key_file, data), service))


@broker.command()
def acl() -> None:
    """Print the static patterns that Mosquitto 2.0 needs as its acl_file (2.1 needs none)."""
    sys.stdout.write(rights.acl_file())


@command(broker)
def certificate(
    api: Api,
    host: Annotated[list[str], typer.Option(help="Name or address that devices use; repeatable.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for ca.crt, server.crt, server.key and crl.pem.")],
) -> None:
    """Make the broker's server certificate, signed by the platform's own authority. Good for a year."""
    made = api.post("/authority/server-certificate", {"hosts": host})
    files = {
        "ca.crt": api.text("/authority/ca.crt"),
        "crl.pem": api.text("/authority/crl.pem"),
        "server.crt": made["certificate"],
        "server.key": made["key"],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = out / name
            path.unlink(missing_ok=True)
            mode = 0o600 if name.endswith(".key") else 0o644
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
                file.write(text)
    except OSError as error:
        fail(f"{out}: {error}")
    typer.echo(f"{out}: {', '.join(files)}; reload the broker (SIGHUP)")


def _ring(file: Path | None, data: Path) -> KeyRing:
    try:
        return KeyRing.load(os.environ.get(KEY_VARIABLE), file or data.absolute() / "master.key")
    except BadMasterKey as error:
        fail(str(error))
