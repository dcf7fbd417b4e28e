"""`outrider claim`, and how claims and secrets are printed: with the commands to use them."""

from __future__ import annotations

import io
import json
import secrets
import sys
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
import segno
import typer
from rich.markup import escape

from outrider_cli import terminal
from outrider_cli.registry.client import Api, command, show, when

app = typer.Typer(
    no_args_is_help=True, help="Claims: tokens that are good for one device. `outrider device enrol` makes one."
)

Claim = Annotated[str, typer.Argument(metavar="CLAIM", help="The claim's id.")]


@command(app, "list")
def list_(
    api: Api,
    state: Annotated[
        str | None, typer.Option(help="open, awaiting_approval, used, refused, revoked or expired.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
) -> None:
    """List claims."""
    show(
        api,
        list(api.pages("/claims", limit, state=state)),
        {
            "claim": lambda row: row["id"],
            "state": lambda row: row["state"],
            "device": lambda row: row.get("used_by") or row.get("device"),
            "serial": lambda row: row.get("serial"),
            "made by": lambda row: row.get("created_by"),
            "good until": lambda row: when(row["expires_at"]),
        },
    )


@command(app)
def approve(api: Api, claim: Claim) -> None:
    """Let the device in that waits for approval."""
    api.post(f"/claims/{claim}/approve")
    typer.echo(f"{claim}: approved")


@command(app)
def refuse(api: Api, claim: Claim) -> None:
    """Send the device away that waits for approval."""
    api.post(f"/claims/{claim}/refuse")
    typer.echo(f"{claim}: refused")


@command(app)
def revoke(api: Api, claim: Claim) -> None:
    """End a claim that nobody has used."""
    api.delete(f"/claims/{claim}")
    typer.echo(f"{claim}: revoked")


def print_claim(api: Api, claim: Mapping[str, Any], qr: bool) -> None:
    """A new claim: its token, shown once, and what to run on the device."""
    if api.as_json:
        sys.stdout.write(orjson.dumps(claim).decode() + "\n")
        return
    name, token = claim["id"], claim["token"]
    host, port = _address(claim["url"])
    console = terminal.console()
    rows = {"claim": name, "token": token, "broker": claim["url"], "good until": when(claim["expires_at"])}
    console.print("[bold green]A claim for one device[/]; the token is shown once.")
    for label, value in rows.items():
        console.print(f"  [dim]{label:<11}[/]{escape(value)}", soft_wrap=True)
    console.print("\nOn the device, or by hand:")
    # A retry with the same text gets the same answer; another device's text is refused.
    request = json.dumps({"nonce": secrets.token_hex(8)})
    print(
        f"  mosquitto_rr -V 5 -h {host} -p {port} -i claim:{name} -u claim:{name} -P {token} -q 1 \\\n"
        f"    -t fleet/v1/-/claim/{name} -e fleet/v1/-/claim/{name}/reply -m '{request}'\n"
        f'\nOr over HTTP: POST {api.url}/api/v1/enrol {{"claim":"{name}","token":"{token}"}}'
    )
    if qr:
        text = io.StringIO()
        segno.make(f"outrider:{name}:{token}@{host}:{port}", error="l").terminal(out=text, compact=True)
        print("\n" + text.getvalue())


def print_secret(api: Api, credential: Mapping[str, Any]) -> None:
    """A new secret, shown once, and how to use it."""
    if api.as_json:
        sys.stdout.write(orjson.dumps(credential).decode() + "\n")
        return
    device = credential["username"]
    console = terminal.console()
    console.print(f"[bold green]{escape(device)}[/], generation {credential['generation']}; the secret is shown once.")
    print(f"  {credential['secret']}")
    url = credential.get("url") or (credential.get("mqtt") or {}).get("url")
    topic = (credential.get("topics") or {}).get("telemetry")
    if url and topic:
        host, port = _address(url)
        print(
            f"\n  mosquitto_pub -h {host} -p {port} -u {device} -P {credential['secret']} -q 1 \\\n"
            f"    -t {topic} -m '{{\"temp_c\":21.5}}'"
        )


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or (8883 if parts.scheme == "mqtts" else 1883)
