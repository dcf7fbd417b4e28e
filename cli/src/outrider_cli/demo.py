"""`outrider demo`: the whole platform, a simulated fleet and a live view of both, with one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import webbrowser
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated

import httpx
import orjson
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from outrider.runtime.errors import OutriderError
from outrider.servers import ServerError, base
from outrider_cli.accounts import DEVICE_MQTT_VARIABLE
from outrider_cli.demo_data import VEHICLES_SHOWN, SimLines, Watch
from outrider_cli.demo_view import one_line, screen
from outrider_cli.platform import Platform, PlatformError
from outrider_cli.sim.report import Report
from outrider_cli.state import State
from outrider_cli.supervision import SupervisionError
from outrider_cli.up import DEFAULT_DATA, DataOption, Stopped, fail, stop_on_signals, summary

LOOK_S = 1.0
LINE_S = 2.0
DRAIN_S = 15.0
"""How long the last acks are waited for at the end."""

TRIP_RULES = {"off_resume_s": 30, "micro_s": 20, "micro_m": 100}
"""In the demo a trip is final half a minute after the engine went off, and a short one counts: whoever looks has no hour."""

HELP = """Show everything at work: broker, database, services and a simulated fleet, on this machine.

Recorded cars drive as if it were now; what the table shows comes back out of the database. The first one parks within a
minute: its trip is paused then, and final half a minute later. Every device is registered
and connects as itself. The console opens in a browser where there is a display; the printed link signs you in, once.
Ctrl-C ends everything; the data stays, the next run continues.

Examples:

  outrider demo

  outrider demo --devices 200 --sensors 100

  outrider demo --duration 30 | cat
"""


def demo(
    devices: Annotated[int, typer.Option(min=0, help="Vehicles that replay recorded drives.")] = 50,
    sensors: Annotated[int, typer.Option(min=0, help="Sensors and servers.")] = 50,
    duration: Annotated[float, typer.Option(min=0, help="Seconds; 0: until Ctrl-C.")] = 0,
    browser: Annotated[
        bool | None,
        typer.Option("--browser/--no-browser", help="Open the console; by default where there is a display."),
    ] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Run the platform with a simulated fleet and a live view."""
    if devices + sensors == 0:
        raise typer.BadParameter("a fleet needs at least one device")
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    troubles: deque[str] = deque(maxlen=4)
    platform = Platform(data, log_sink=lambda process, text: _note_trouble(troubles, process, text))
    sim: subprocess.Popen[bytes] | None = None
    lines: SimLines | None = None

    def in_a_hurry() -> None:
        platform.kill()
        if sim is not None:
            sim.kill()

    stop_on_signals(in_a_hurry)
    failure = ""
    code = 0
    begin_s = time.monotonic()
    try:
        console.print("Starting the broker, the database and the services …")
        platform.start()
        platform.wait_ready()
        console.print(f"Ready after {time.monotonic() - begin_s:.1f} s.")
        _set_trip_rules(platform.state)
        sim = _start_sim(platform, devices, sensors, duration)
        lines = SimLines(sim)
        if can_show(os.environ, sys.stdout.isatty()) if browser is None else browser:
            webbrowser.open(platform.state.sign_in_link or platform.state.console_url)
        failure = _show(console, platform, lines, devices, troubles)
        console.print("Stopping; once more to kill …")
    except Stopped:
        console.print("\nStopping; once more to kill …")
    except (PlatformError, ServerError, OutriderError, SupervisionError) as error:
        failure = str(error)
    finally:
        if sim is not None and lines is not None:
            code = _end_sim(console, sim, lines)
        platform.stop()
    if failure:
        fail(failure)
    console.print(f"Stopped. The data stays in {escape(str(platform.data_dir))}; `outrider demo` continues.")
    raise typer.Exit(code)


def _start_sim(platform: Platform, devices: int, sensors: int, duration_s: float) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "outrider_cli.main", "sim", "--data", str(platform.data_dir), "--json"]
    argv += ["--tenant", platform.state.tenant]
    argv += ["--devices", str(devices + sensors), "--sensors", str(sensors), "--duration", str(duration_s)]
    argv += ["--drain", str(DRAIN_S), "--report-every", str(LOOK_S)]
    # Its own session: Ctrl-C in the terminal reaches only us. The launcher ends it should we be killed.
    return subprocess.Popen(
        base.launcher(argv, death_signal=signal.SIGTERM),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != DEVICE_MQTT_VARIABLE}
        | {"PYTHONUNBUFFERED": "1"},
    )


def _set_trip_rules(state: State) -> None:
    """The demo's rules of trips, where nobody has set any."""
    if not state.console_url or not state.api_token:
        return
    headers = {"Authorization": f"Bearer {state.api_token}", "Outrider-Tenant": state.tenant}
    with suppress(httpx.HTTPError), httpx.Client(base_url=f"{state.console_url}/api/v1", headers=headers) as api:
        if api.get("/trip-rules").raise_for_status().json()["items"] == []:
            api.put("/trip-rules/*", json={"rules": TRIP_RULES})


def can_show(environment: Mapping[str, str], is_terminal: bool) -> bool:
    """True if a browser window would appear before the person who looks at this terminal."""
    far = any(environment.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "CI"))
    return is_terminal and not far and any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _show(console: Console, platform: Platform, lines: SimLines, vehicles: int, troubles: deque[str]) -> str:
    """Look and show until the simulator ends; returns what went wrong, or nothing."""
    shown = [f"vehicle-{number:04}" for number in range(1, min(vehicles, VEHICLES_SHOWN) + 1)]
    watch = Watch(platform.state, lines, shown)
    where = summary(platform.state)
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for _ in _looks(lines, platform, LOOK_S):
                    live.update(screen(watch.look(), where, list(troubles), console.height), refresh=True)
        else:
            console.print(where)
            for _ in _looks(lines, platform, LINE_S):
                console.print(one_line(watch.look()), markup=False)
        return platform.failure
    finally:
        watch.close()


def _looks(lines: SimLines, platform: Platform, every_s: float) -> Iterator[None]:
    while not lines.ended.wait(every_s) and not platform.failure:
        yield


def _end_sim(console: Console, sim: subprocess.Popen[bytes], lines: SimLines) -> int:
    """Ask the simulator to end, wait for its last acks and print its summary; its exit code."""
    if sim.poll() is None:
        sim.send_signal(signal.SIGINT)
    try:
        code = sim.wait(DRAIN_S + 15)
    except subprocess.TimeoutExpired:
        sim.kill()
        return sim.wait()
    if lines.ended.wait(5) and lines.latest:
        console.print(Report(**lines.latest).table())
    return code


def _note_trouble(troubles: deque[str], process: str, text: str) -> None:
    try:
        record = orjson.loads(text)
    except ValueError:
        return
    if isinstance(record, dict) and record.get("level") in ("warning", "error", "critical"):
        reason = record.get("reason") or record.get("error") or ""
        troubles.append(f"{process}: {record.get('event', '')} {str(reason).splitlines()[-1] if reason else ''}"[:160])


def register(app: typer.Typer) -> None:
    """Add `demo` to the app."""
    app.command(help=HELP)(demo)
