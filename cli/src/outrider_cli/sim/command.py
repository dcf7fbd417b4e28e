"""`outrider sim`: a simulated fleet from the command line."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from outrider.contract.topics import is_name
from outrider_cli import terminal
from outrider_cli.connect import DataOption, device_mqtt_url
from outrider_cli.sim.device import Settings
from outrider_cli.sim.fleet import Fleet
from outrider_cli.sim.plan import Plan, fleet
from outrider_cli.sim.record import Recorder
from outrider_cli.sim.registration import SecretsByDevice, read_credentials, register, taken
from outrider_cli.sim.report import Report

CONNECTS_PER_S = 500
"""So many devices connect a second at the beginning: more at once would only wait in line, and time out there."""
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        "--mqtt-url",
        envvar="OUTRIDER_DEVICE_MQTT_URL",
        help="The broker's door for devices; by default that of the platform running in --data.",
    ),
]

HELP = """Simulate a fleet of devices, each with an identity and an MQTT connection of its own.

On the platform that runs in --data they are registered first, with type, tier and tags. For another broker name its
door for devices with --url, and a file with their secrets.

Half are vehicles that replay recorded drives as if they happened now, the others sensors and servers. They send flat
JSON, SenML and zstd-compressed compact batches, logs and events. Most number their messages and keep the delivery
contract: at most 64 in flight, sent again until the platform acknowledges. One in eight has no clock, one in ten does
not number. They take desired state (interval_s, log_level), commands (reboot, get-logs, set-interval, run-diagnostics)
and new secrets. After --duration they stop measuring and wait for the last acks.

Exit code 0 only if every numbered message was acknowledged.

Examples:

  outrider sim --devices 20 --duration 60

  outrider sim --devices 200 --rate 5 --duration 60 --json

  outrider sim --devices 50 --duration 60 --counter --record expected.jsonl

  outrider sim --url mqtt://broker.example:1884 --credentials report.csv --devices 1000 --rate 0.2 --duration 0
"""


def sim(
    devices: Annotated[int, typer.Option(min=1, help="Devices in all.")] = 20,
    sensors: Annotated[
        int | None, typer.Option(min=0, help="How many of them are sensors and servers; half by default.")
    ] = None,
    duration: Annotated[float, typer.Option(min=0, help="Seconds of measuring; 0: until Ctrl-C.")] = 60,
    rate: Annotated[float, typer.Option(min=0.001, max=200, help="Messages a second of each device.")] = 1,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to wait for the last acks.")] = 60,
    tenant: Annotated[str, typer.Option(help="Tenant of the devices.")] = "demo",
    prefix: Annotated[str, typer.Option(help="Begins every device name; two fleets at once need two prefixes.")] = "",
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same fleet and values (boot ids stay random).")
    ] = 1,
    counter: Annotated[
        bool, typer.Option("--counter", help="Each telemetry message also carries `n`, 1, 2, 3 … of its device.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Write every row that must be stored to this file, as JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    report_every: Annotated[
        float, typer.Option(min=0, help="Also print totals as a line of JSON every so many seconds.")
    ] = 0,
    credentials: Annotated[
        Path | None,
        typer.Option(help="CSV with `id` and `secret` of each device, such as the report of `outrider device import`."),
    ] = None,
    url: UrlOption = None,
    data: DataOption = Path(".outrider"),
) -> None:
    """Simulate a fleet of devices."""
    if not is_name(tenant) or (prefix and not is_name(prefix + "x")):
        raise typer.BadParameter("tenant and prefix are made of a-z, 0-9 and -")
    others = devices // 2 if sensors is None else min(sensors, devices)
    _raise_file_limit(devices + 64)
    plans = fleet(devices - others, others, seed=seed, prefix=prefix)
    device_url, secrets = _identities(url, data, tenant, plans, credentials, quiet=as_json)
    recorder = Recorder(record, tenant) if record is not None else None
    try:
        result = uvloop.run(
            _run(
                plans=plans,
                settings=Settings(
                    device_url, tenant, 1 / rate, secrets, counter, devices / CONNECTS_PER_S, recorder=recorder
                ),
                duration_s=duration,
                drain_s=drain,
                report_every_s=report_every,
                quiet=as_json,
            )
        )
    finally:
        if recorder is not None:
            recorder.close()
    if as_json:
        sys.stdout.write(orjson.dumps(result.as_dict()).decode() + "\n")
    else:
        terminal.console().print(result.table())
    raise typer.Exit(0 if result.unacked == 0 else 1)


async def _run(
    *,
    plans: Sequence[Plan],
    settings: Settings,
    duration_s: float,
    drain_s: float,
    report_every_s: float,
    quiet: bool,
) -> Report:
    if settings.secrets:
        await taken(settings.url, settings.secrets)
    settings.begin()
    running = Fleet(plans, settings)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, running.stop)
    loop.add_signal_handler(signal.SIGTERM, running.abandon)
    console = Console(stderr=True)
    progress = Progress(
        BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    )
    shown = console.is_terminal and not quiet
    task = progress.add_task("connecting", total=duration_s or None)
    next_line_s = next_look_s = time.monotonic()

    def on_tick(fleet_: Fleet, draining: bool) -> None:
        nonlocal next_line_s, next_look_s
        now_s = time.monotonic()
        if shown and now_s >= next_look_s:
            next_look_s = now_s + 0.5
            totals = fleet_.report(recent=True)
            waiting = "waiting for acks (Ctrl-C again: end now), " if draining else ""
            progress.update(
                task,
                completed=totals.duration_s,
                description=f"{waiting}{totals.connected}/{totals.devices} connected, {totals.sent:,} sent, "
                f"{totals.unacked:,} unacked, {totals.resent:,} resent, p99 {totals.p99_ms or 0:.0f} ms {totals.problem}",
            )
        if report_every_s and now_s >= next_line_s:
            next_line_s = now_s + report_every_s
            # A reader that went away does not end the fleet.
            with suppress(BrokenPipeError):
                sys.stdout.write(orjson.dumps(fleet_.report(recent=True).as_dict()).decode() + "\n")
                sys.stdout.flush()

    with progress if shown else nullcontext():
        return await running.run(duration_s, drain_s, on_tick)


def _identities(
    url: str | None, data: Path, tenant: str, plans: Sequence[Plan], credentials: Path | None, *, quiet: bool
) -> tuple[str, SecretsByDevice]:
    """The devices' door and their secrets; none for a broker that was named without them, which may take anybody."""
    if credentials is not None:
        secrets = read_credentials(credentials)
        if missing := [plan.name for plan in plans if plan.name not in secrets]:
            raise typer.BadParameter(f"{credentials} has no secret of {', '.join(missing[:5])} …")
        secrets = {plan.name: secrets[plan.name] for plan in plans}
        return url or device_mqtt_url(data), secrets
    if url is not None:
        return url, {}
    address = device_mqtt_url(data)
    return address, register(data, tenant, plans, quiet=quiet)


def _raise_file_limit(wanted: int) -> None:
    """One connection is one open file; the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise typer.BadParameter(f"`ulimit -n` allows {hard} open files; {wanted} are needed")


def register_command(app: typer.Typer) -> None:
    """Add `sim` to the app."""
    app.command(help=HELP)(sim)
