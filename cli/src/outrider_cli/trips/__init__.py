"""`outrider trips`: what devices drove, what people say about it, the rules, and how good the rules are."""

from __future__ import annotations

import typer

from outrider_cli.registry.client import command
from outrider_cli.trips import edits, look, rules, score

app = typer.Typer(
    no_args_is_help=True,
    help="""Trips: driving, recognised from positions, speed and engine of any device.

Examples:

  outrider trips list --since 1d

  outrider trips list --state open

  outrider trips show vehicle-0001             its newest trip, sketched

  outrider trips show ID --gpx -o trip.gpx

  outrider trips merge ID ID

  outrider trips profile set still_resume_s=600

  outrider trips score drives.csv               how well the rules find drives whose truth is known
""",
)
command(app, "list")(look.list_)
command(app, "show")(look.show_)
command(app)(edits.merge)
command(app)(edits.split)
command(app)(edits.undo)
command(app)(edits.again)
app.command("score", cls=score.Command, help=score.HELP)(score.score_)
app.add_typer(rules.app, name="profile")
