"""The `outrider` command."""

from __future__ import annotations

import typer

from outrider_cli import demo, doctor, migrate, query, rejected, slots, tail, up
from outrider_cli.sim import command as sim_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Outrider: MQTT fleet telemetry. `outrider demo` shows everything at work.",
)

demo.register(app)
up.register(app)
sim_command.register(app)
tail.register(app)
query.register(app)
rejected.register(app)
doctor.register(app)
migrate.register(app)
slots.register(app)


if __name__ == "__main__":
    app()
