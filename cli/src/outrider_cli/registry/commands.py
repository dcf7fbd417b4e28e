"""`outrider command` and `outrider stop`: orders to devices, and the red button."""

from __future__ import annotations

import time
from typing import Annotated, Any

import orjson
import typer

from outrider_cli.registry.client import Api, command, fail, parse_values, show, show_one, when

app = typer.Typer(
    no_args_is_help=True,
    help="""Orders to devices: each is carried out at most once and ends in exactly one state.

Examples:

  outrider command send van-7 reboot --param delay_s=5 --wait

  outrider command send van-7 get-logs --param lines=100

  outrider command list --device van-7
""",
)
FINAL = ("succeeded", "failed", "rejected", "expired", "timed_out", "canceled")
LOOK_S = 0.3
Identity = Annotated[str, typer.Argument(metavar="ID", help="The command's id.")]


@command(app)
def send(
    api: Api,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    name: Annotated[str, typer.Argument(help="reboot, get-logs, set-interval, run-diagnostics, or one of your own.")],
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter; repeatable.")] = None,
    expires_s: Annotated[
        int, typer.Option("--expires", min=1, help="Seconds in which the device must start it.")
    ] = 3600,
    timeout_s: Annotated[int, typer.Option("--timeout", min=1, help="Seconds it may take once started.")] = 300,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; status 1 unless it succeeded.")] = False,
) -> None:
    """Send a command to a device."""
    body = {"name": name, "params": parse_values(param or []), "expires_s": expires_s, "timeout_s": timeout_s}
    sent = api.post(f"/devices/{device}/commands", body)
    if not wait:
        _print(api, sent)
        return
    state = ""
    while sent["state"] not in FINAL:
        if sent["state"] != state and not api.as_json:
            state = sent["state"]
            typer.echo(state, err=True)
        time.sleep(LOOK_S)
        sent = api.get(f"/commands/{sent['id']}")
    _print(api, sent)
    if sent["state"] != "succeeded":
        raise typer.Exit(1)


@command(app, "list")
def list_(
    api: Api,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 30,
) -> None:
    """List commands, the newest first."""
    path = f"/devices/{device}/commands" if device else "/commands"
    columns = {
        "id": lambda row: row["id"],
        "device": lambda row: row["device"],
        "command": lambda row: row["name"],
        "state": lambda row: row["state"],
        "sent by": lambda row: row["created_by"],
        "created": lambda row: when(row["created_at"]),
        "finished": lambda row: when(row["finished_at"]),
        "result": lambda row: "" if row["result"] is None else orjson.dumps(row["result"]).decode()[:60],
    }
    show(api, list(api.pages(path, limit, state=state)), columns)


@command(app, "show")
def show_(api: Api, command_id: Identity) -> None:
    """Show a command with its result."""
    show_one(api, api.get(f"/commands/{command_id}"))


@command(app)
def cancel(api: Api, command_id: Identity) -> None:
    """Take back a command that the device has not started."""
    _print(api, api.post(f"/commands/{command_id}/cancel"))


def _print(api: Api, sent: dict[str, Any]) -> None:
    if api.as_json:
        show_one(api, sent)
        return
    result = "" if sent["result"] is None else f": {orjson.dumps(sent['result']).decode()}"
    typer.echo(f"{sent['id']} {sent['name']} on {sent['device']}: {sent['state']}{result}")


def register_stop(main: typer.Typer) -> None:
    """Adds `stop`, a command of its own: nobody should have to search for it."""

    @command(main, "stop")
    def stop(
        api: Api,
        reason: Annotated[str | None, typer.Option(help="Why; everybody will see it.")] = None,
        everything: Annotated[
            bool, typer.Option("--everything", help="The whole platform, not only the tenant.")
        ] = False,
        end: Annotated[bool, typer.Option("--end", help="End it: what waits goes out.")] = False,
    ) -> None:
        """Emergency stop: no command and no update starts until it is ended. Without options: is one in force?"""
        suffix = "?everything=true" if everything else ""
        if end:
            api.delete(f"/stop{suffix}")
            typer.echo("ended; commands that wait go out now")
        elif reason:
            api.put("/stop", {"reason": reason, "everything": everything})
            typer.echo("stopped: nothing starts until `outrider stop --end`")
        else:
            found = api.get("/stop")
            if everything:
                fail("name a --reason")
            if api.as_json or found.get("stopped"):
                show_one(api, found)
            else:
                typer.echo('no stop is in force; `outrider stop --reason "…"` makes one')
