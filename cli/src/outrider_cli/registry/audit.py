"""`outrider audit`: who did what, and whether somebody tampered with it."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer

from outrider_cli.registry.client import Api, command, show, show_one, when

app = typer.Typer(no_args_is_help=True, help="The audit: append-only, every entry hashed together with the one before.")


@command(app, "list")
def list_(
    api: Api,
    object_: Annotated[str | None, typer.Option("--object", help="Such as device:van-7 or user:ann.")] = None,
    actor: Annotated[str | None, typer.Option(help="Such as user:ann.")] = None,
    action: Annotated[str | None, typer.Option(help="Such as shadow.change.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
) -> None:
    """List entries, the newest first."""
    columns = {
        "number": lambda row: row["number"],
        "at": lambda row: when(row["at"]),
        "who": lambda row: row["actor"],
        "did": lambda row: row["action"],
        "to": lambda row: row["object"],
        "detail": lambda row: orjson.dumps(row["detail"]).decode()[:80] if row["detail"] else "",
        "from": lambda row: row["address"],
    }
    show(api, list(api.pages("/audit", limit, object=object_, actor=actor, action=action)), columns)


@command(app)
def verify(api: Api) -> None:
    """Compute the hash chain again. Status 1 and the first bad entry if somebody changed one."""
    found = api.get("/audit/verify")
    if api.as_json:
        show_one(api, found)
    elif found["valid"]:
        typer.echo(f"{found['checked']:,} entries, the chain is whole; head {found['head']}")
    else:
        typer.echo(f"BROKEN at entry {found['first_bad']}: it was changed, or the one before it.", err=True)
    if not found["valid"]:
        raise typer.Exit(1)
