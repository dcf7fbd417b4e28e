"""`outrider up`, `down`, `status`, `service` and `scale`: runs the platform from one data folder."""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, TypeVar
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from outrider.runtime import migrate
from outrider.runtime.errors import OutriderError
from outrider.servers import Mosquitto, Postgres, ServerError
from outrider_cli import supervision
from outrider_cli.logs import readable
from outrider_cli.platform import Platform, PlatformError, is_ready
from outrider_cli.state import LOCK_NAME, NotRunning, ProcessState, State, is_locked

__all__ = ["DataOption", "Platform", "PlatformError", "Stopped", "parse_scale", "register", "stop_on_signals"]

DEFAULT_DATA = Path(".outrider")
DataOption = Annotated[
    Path, typer.Option("--data", envvar="OUTRIDER_DATA", help="Folder that holds all data.", file_okay=False)
]
Answer = TypeVar("Answer")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DOWN_TIMEOUT_S = 120.0


class Stopped(BaseException):
    """A signal asked the command to end."""


class ServiceAction(StrEnum):
    """What `outrider service` can do."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(service)
    app.command()(scale)


def stop_on_signals(in_a_hurry: Callable[[], None]) -> None:
    """The first SIGINT, SIGTERM or SIGHUP raises Stopped in the main thread; a second one calls `in_a_hurry`."""

    def second(number: int, frame: FrameType | None) -> None:
        in_a_hurry()

    def first(number: int, frame: FrameType | None) -> None:
        for one in _STOP_SIGNALS:
            signal.signal(one, second)
        raise Stopped

    for one in _STOP_SIGNALS:
        signal.signal(one, first)


def parse_scale(values: list[str]) -> dict[str, int]:
    """`["ingest=2"]` → `{"ingest": 2}`; typer.BadParameter if it has another form."""
    scale = {}
    for value in values:
        name, separator, count = value.partition("=")
        if not (name and separator and count.isdigit() and int(count) <= 64):
            raise typer.BadParameter(f"{value!r} is not NAME=NUMBER with a number up to 64")
        scale[name] = int(count)
    return scale


def up(
    data: DataOption = DEFAULT_DATA,
    scale: Annotated[
        list[str] | None, typer.Option(help="Processes of a service, such as ingest=2; repeatable.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no log lines of the services.")] = False,
) -> None:
    """Run the broker, the database and all services until Ctrl-C.

    OUTRIDER_MQTT_URL and OUTRIDER_DATABASE_URL name servers to use instead of the embedded ones.
    """
    console = Console(highlight=False, soft_wrap=True)

    def sink(process: str, line: str) -> None:
        if not quiet or process == "outrider":
            console.print(readable(process, line, 17))

    platform = Platform(data, scale=parse_scale(scale or []), log_sink=sink)
    stop_on_signals(platform.kill)
    failure = ""
    try:
        console.print(f"Starting in {escape(str(platform.data_dir))} …")
        platform.start()
        platform.wait_ready()
        console.print(summary(platform.state))
        failure = platform.wait()
    except Stopped:
        console.print("\nStopping; once more to kill …")
    except (PlatformError, ServerError, OutriderError, supervision.SupervisionError) as error:
        failure = str(error)
    finally:
        platform.stop()
    if failure:
        fail(failure)
    console.print("Stopped. The data stays; `outrider up` continues.")


def down(data: DataOption = DEFAULT_DATA) -> None:
    """Stop what `outrider up` runs in the data folder."""
    console = Console(highlight=False, soft_wrap=True)
    folder = data.absolute()
    if not folder.exists():
        console.print(f"Nothing runs in {folder}: there is no such folder.")
        return
    if is_locked(folder):
        _stop_running(folder)
        console.print("Stopped. The data stays; `outrider up` continues.")
        return
    ended = supervision.end_leftovers(folder)
    for server in (Mosquitto, Postgres):
        if (folder / server.name).exists():
            ended += server(folder / server.name).end_leftovers()
    console.print(f"Ended {len(ended)} left-over processes." if ended else f"Nothing runs in {folder}.")


def status(
    data: DataOption = DEFAULT_DATA,
    as_json: Annotated[bool, typer.Option("--json", help="The state file's content, with passwords.")] = False,
) -> None:
    """Show the processes of a running platform."""
    state = _load(data)
    if as_json:
        sys.stdout.write(state.model_dump_json(indent=2) + "\n")
        return
    statuses = _asked(lambda: supervision.all_statuses(state.supervisor_socket))
    table = Table("process", "state", "pid", "up", "http port", "ready", box=None, pad_edge=False)
    for name, process in {**state.servers, **state.services}.items():
        one = statuses[name]
        shown = "bad settings" if one.has_bad_settings else one.state.lower()
        runs = one.state in supervision.RUNNING_STATES
        up_for = _duration(time.time() - one.started_at_s) if runs else ""
        table.add_row(name, shown, str(one.pid or ""), up_for, str(process.http_port or ""), _readiness(process, runs))
    console = Console(highlight=False)
    console.print(table)
    since = f"since {state.started_at.astimezone():%Y-%m-%d %H:%M:%S}"
    console.print(
        f"\nconsole {state.console_url or 'none'}   HTTP and queries {state.gateway_url or 'none'}   "
        f"devices {state.device_mqtt_url}   {since}   {state.data_dir}"
    )


def service(
    action: ServiceAction,
    name: Annotated[str, typer.Argument(help="A service (all its processes) or one process, as `status` shows them.")],
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Stop, start or restart one service of a running platform."""
    state = _load(data)
    everything = {**state.servers, **state.services}
    chosen = [process for process, its in everything.items() if name in (process, its.service)]
    if not chosen:
        fail(f"There is no {name}; there are: {', '.join(everything)}")
    for process in chosen:
        _asked(lambda: _act(state.supervisor_socket, action, process))  # noqa: B023 (called at once)
        typer.echo(f"{process}: {'stopped' if action is ServiceAction.STOP else 'started'}")


def scale(
    counts: Annotated[
        list[str], typer.Argument(metavar="SERVICE=NUMBER...", help="Such as ingest=3; several at once.")
    ],
    data: DataOption = DEFAULT_DATA,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait until it is done.")] = 120.0,
) -> None:
    """Change the number of processes of services of a running platform.

    Returns when the ones too many have stopped and the new ones are ready. The next `outrider up` begins with its own
    --scale again.

    Examples:

      outrider scale ingest=3 writer-timeseries=2

      outrider scale ingest=1
    """
    wanted = parse_scale(counts)
    state = _load(data)
    installed = migrate.packages()
    if unknown := sorted(set(wanted) - set(installed)):
        fail(f"There is no service {', '.join(unknown)}; there are: {', '.join(installed)}")
    for service, count in wanted.items():
        state.ask_scale(service, count)
    deadline = time.monotonic() + timeout_s
    while True:
        processes = {
            service: {name: one for name, one in _load(data).services.items() if one.service == service}
            for service in wanted
        }
        waiting = [
            service
            for service, count in wanted.items()
            if len(processes[service]) != count
            or not all(one.ready_url and is_ready(one.ready_url) for one in processes[service].values())
        ]
        if not waiting:
            break
        if time.monotonic() > deadline:
            fail(f"Not done after {timeout_s:.0f} s: {', '.join(waiting)}; `outrider status` shows more.")
        time.sleep(0.2)
    for service, count in wanted.items():
        typer.echo(
            f"{service}: {count} running ({', '.join(processes[service])})" if count else f"{service}: none running"
        )


def own_command() -> str:
    """How to call `outrider` here: by name where it is on PATH, else by the path of the virtual environment."""
    script = Path(sys.executable).with_name("outrider")
    found = shutil.which("outrider")
    return "outrider" if found and Path(found).samefile(script) else _short(script)


def summary(state: State) -> str:
    """What runs and where, how to sign in, and what to try next, as rich markup. Holds the person's broker password."""
    versions = " · ".join(f"{name} {version}" for name, version in state.versions.items())
    database = urlsplit(state.database_url)
    rows = [
        ("console", state.console_url or "none: `outrider scale registry=1` starts it"),
        *([("sign in, once", state.sign_in_link)] if state.sign_in_link else []),
        ("HTTP and queries", state.gateway_url or "none: `outrider scale gateway=1` starts it"),
        ("devices connect to", " ".join(filter(None, (state.device_mqtt_url, state.device_tls_url)))),
        ("database", f"postgresql://{database.hostname}:{database.port or 5432}{database.path}"),
        *((name, f"http://127.0.0.1:{process.http_port}/metrics") for name, process in state.services.items()),
        ("data", f"{state.data_dir} (logs in {state.data_dir / 'logs'})"),
        *(("note", note) for note in state.notes),
    ]
    option = "" if state.data_dir == DEFAULT_DATA.absolute() else f" --data {_short(state.data_dir)}"
    outrider = own_command()
    commands = [
        *((look, "all of it, read-only") for look in _look(state)),
        (f"{outrider} device enrol{option}", "a claim for a new device, and what to type on it"),
        (f"{outrider} device create{option} hand-1", "one by hand: its password, and how to send with it"),
        (f"{outrider} query{option} hand-1", "what is stored of it"),
        (f"{outrider} trips list{option}", "what devices drove, and drive now"),
        (f"{outrider} doctor{option}", "is all as it must be?"),
    ]
    lines = [f"[bold green]Outrider runs[/] ({escape(versions)})"]
    lines += [f"  [dim]{escape(name):<19}[/]{escape(value)}" for name, value in rows]
    lines += ["Try in another terminal:"]
    lines += [f"  [bold]{escape(command)}[/]  [dim]# {escape(what)}[/]" for command, what in commands]
    lines += ["Ctrl-C stops everything; the data stays."]
    return "\n".join(lines)


def _look(state: State) -> list[str]:
    """The command that shows everything at the broker, as a person who may only look."""
    if state.broker_login is None:
        return []
    own_client = state.data_dir / "bin" / "mosquitto_sub"
    client = _short(own_client) if own_client.exists() else "mosquitto_sub"
    mqtt = urlsplit(state.device_mqtt_url)
    login = f"-u {state.broker_login.username} -P {state.broker_login.password}"
    return [f"{client} -h {mqtt.hostname} -p {mqtt.port or 1883} {login} -t 'fleet/#' -v"]


def fail(message: str) -> NoReturn:
    """Prints the message to standard error and ends with status 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _load(data: Path) -> State:
    try:
        return State.load(data.absolute())
    except NotRunning as error:
        fail(str(error))


def _asked(question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except supervision.SupervisionError as error:
        fail(str(error))


def _stop_running(folder: Path) -> None:
    """Asks the process that holds the folder to end, and waits until it has."""
    with (folder / LOCK_NAME).open() as lock:
        os.kill(int(lock.read()), signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    fail(f"It still runs after {_DOWN_TIMEOUT_S:.0f} s; its logs are in {folder / 'logs'}.")
                time.sleep(0.05)


def _act(socket: Path, action: ServiceAction, process: str) -> None:
    address = supervision.address_of(socket, process)
    runs = supervision.all_statuses(socket)[process].state in supervision.RUNNING_STATES
    if runs and action is not ServiceAction.START:
        supervision.call(socket, "stopProcess", address)
        runs = False
    if not runs and action is not ServiceAction.STOP:
        supervision.call(socket, "startProcess", address, False)


def _readiness(process: ProcessState, runs: bool) -> str:
    if process.ready_url is None or not runs:
        return ""
    return "yes" if is_ready(process.ready_url) else "no"


def _short(path: Path) -> str:
    """Relative to the current folder if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
