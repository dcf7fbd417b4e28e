"""Gives a simulated fleet its identities: registered in the platform of a folder, or read from a file."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from outrider.access.keys import BadMasterKey, KeyRing, UnknownKey
from outrider.access.secrets import device_secret
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection
from outrider_cli.accounts import master_keys
from outrider_cli.registry.client import Api, connect, fail
from outrider_cli.sim.plan import Plan

CHUNK = 500
TAKEN_S = 120.0
LOOK_S = 0.25

SecretsByDevice = Mapping[str, Mapping[int, str]]
"""device → generation → secret."""


def register(data: Path, tenant: str, plans: Sequence[Plan], *, quiet: bool = False) -> SecretsByDevice:
    """Registers the devices in the platform that runs in this folder, unless they are registered already; their secrets.

    Ends the command with what to do if the registry refuses one of them.
    """
    api = connect(None, None, tenant, data)
    try:
        keys, _ = master_keys(data.absolute())
    except BadMasterKey as error:
        fail(str(error))
    if tenant not in {row["name"] for row in api.pages("/tenants")}:
        api.post("/tenants", {"name": tenant})
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found: dict[str, dict[int, str]] = {}
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task("registering", total=len(plans))
        for at in range(0, len(plans), CHUNK):
            chunk = plans[at : at + CHUNK]
            found |= _import(api, keys, chunk)
            progress.update(bar, advance=len(chunk))
    return found


def _import(api: Api, keys: KeyRing, plans: Sequence[Plan]) -> dict[str, dict[int, str]]:
    body = {"rows": [plan.registration for plan in plans], "on_existing": "skip", "credentials": True}
    found: dict[str, dict[int, str]] = {}
    for result in api.post("/devices/import", body)["results"]:
        if result.get("error"):
            fail(f"{result['id']} cannot be registered: {result['error']}")
        generation = result.get("generation")
        if generation is None:
            fail(f"{result['id']} has no secret: `outrider device rotate {result['id']} --now` gives it one.")
        # a secret is told once; whoever has the master key of this folder derives it again
        try:
            secret = result.get("secret") or device_secret(keys, result["id"], generation, result["key_id"])
        except UnknownKey as error:
            fail(str(error))
        found[result["id"]] = {generation: secret}
    return found


def read_credentials(file: Path) -> SecretsByDevice:
    """Secrets from a CSV file with the columns `id` and `secret`, as the report of `outrider device import` has them."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = [row for row in csv.DictReader(text) if row.get("id") and row.get("secret")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(f"{file}: {error}") from None
    if not rows:
        raise typer.BadParameter(f"{file} has no rows with `id` and `secret`")
    return {row["id"]: {int(row.get("generation") or 1): row["secret"]} for row in rows}


async def taken(url: str, secrets: SecretsByDevice) -> None:
    """Waits until the broker lets in the first and the last of the devices: the others are not refused in a storm then.

    After two minutes it returns all the same; the devices go on trying by themselves.
    """
    deadline = time.monotonic() + TAKEN_S
    for device in {next(iter(secrets)), next(reversed(list(secrets)))}:
        while time.monotonic() < deadline and not await _is_taken(login(url, device, secrets[device])):
            await asyncio.sleep(LOOK_S)


def login(url: str, device: str, secrets: Mapping[int, str]) -> str:
    """The address of the devices' door with a device's login."""
    parts = urlsplit(url)
    account = f"{device}:{quote(secrets[max(secrets)], safe='')}"
    return urlunsplit(parts._replace(netloc=f"{account}@{parts.netloc.rpartition('@')[2]}"))


async def _is_taken(url: str) -> bool:
    device = urlsplit(url).username or ""
    try:
        connection = await Connection.open(
            url, device, lambda delivery: None, clean_start=True, session_expiry_s=0, receive_maximum=10
        )
    except Transient:
        return False
    await connection.close(end_session=True)
    return True
