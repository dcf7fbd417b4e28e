"""`outrider trips merge`, `split` and `undo`: what an operator says about trips, in the audit, and in force for late data too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from outrider_cli.registry.client import Api, show_one, when
from outrider_cli.since import since_option

Identity = Annotated[str, typer.Argument(metavar="ID", help="A trip's id, as `outrider trips list` prints it.")]


def merge(
    api: Api, ids: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Trips of one device, by id.")]
) -> None:
    """Say that trips of one device are one; the pauses between them become stops."""
    _say(api, api.post("/trips/merge", {"ids": ids}))


def split(
    api: Api,
    trip_id: Identity,
    at: Annotated[str, typer.Option(help="When the second trip begins: an ISO 8601 time, or 5m, 2h ago.")],
) -> None:
    """Say that a trip is two from a moment on."""
    moment = since_option(at)
    assert moment is not None
    _say(api, api.post(f"/trips/{trip_id}/split", {"at": moment.isoformat()}))


def undo(
    api: Api,
    edit_id: Annotated[str, typer.Argument(metavar="EDIT", help="The edit's id, as `merge` and `split` print.")],
) -> None:
    """Take a merge or split back: the trips are what the data say again."""
    api.delete(f"/trip-edits/{edit_id}")
    typer.echo("Taken back.")


def again(
    api: Api,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    since: Annotated[str, typer.Option(help="From then on: 2h, 7d ago, or an ISO 8601 time.")] = "7d",
) -> None:
    """Make a device's trips again, after its rules have changed; what people merged and split stays so."""
    moment = since_option(since)
    assert moment is not None
    api.post("/trips/again", {"device": device, "from": moment.isoformat(), "to": datetime.now(UTC).isoformat()})
    typer.echo("Its trips are made again within a moment.")


def _say(api: Api, edit: dict[str, Any]) -> None:
    if api.as_json:
        show_one(api, edit)
        return
    what = f"{len(edit['ids'])} trips merged" if edit["kind"] == "merge" else f"split at {when(edit['at'])}"
    typer.echo(f"{edit['device']}: {what}. `outrider trips undo {edit['id']}` takes it back.")
