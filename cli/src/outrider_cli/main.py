"""The `outrider` command."""

from __future__ import annotations

import typer

from outrider_cli import (
    archive,
    demo,
    doctor,
    erase,
    migrate,
    query,
    rejected,
    retention,
    slots,
    storage,
    tail,
    trips,
    up,
)
from outrider_cli.registry import audit, commands, configuration, devices, enrolment, keys, people
from outrider_cli.sim import command as sim_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Outrider: MQTT fleet telemetry. `outrider demo` shows everything at work.",
)

demo.register(app)
up.register(app)
sim_command.register_command(app)
tail.register(app)
query.register(app)
rejected.register(app)
doctor.register(app)
migrate.register(app)
slots.register(app)
app.add_typer(trips.app, name="trips")
app.add_typer(devices.app, name="device")
app.add_typer(enrolment.app, name="claim")
app.add_typer(configuration.configurations, name="config")
app.add_typer(configuration.shadows, name="shadow")
app.add_typer(commands.app, name="command")
commands.register_stop(app)
app.add_typer(people.tenants, name="tenant")
app.add_typer(people.users, name="user")
app.add_typer(people.tokens, name="token")
app.add_typer(audit.app, name="audit")
storage.register(app)
app.add_typer(retention.app, name="retention")
app.add_typer(archive.app, name="archive")
app.add_typer(erase.app, name="erase")
app.add_typer(keys.keys, name="key")
app.add_typer(keys.broker, name="broker")


if __name__ == "__main__":
    app()
