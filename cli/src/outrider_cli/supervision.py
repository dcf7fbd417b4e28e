"""Runs processes under supervisord, as a child that dies with us."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from outrider.servers import base

SERVICES_GROUP = "services"
BAD_SETTINGS_EXIT_CODE = 78
FOLDER_VARIABLE = "OUTRIDER_RUN_FOLDER"
"""In the environment of every supervised process, so that leftovers can be found."""
_SOCKET_PATH_MAX = 90  # sun_path holds 108 bytes, and supervisord appends its process id while it starts
_LOG_MAX_BYTES = 20 * 1024 * 1024
_LOG_BACKUPS = 3
_STOP_TIMEOUT_S = 20
RUNNING_STATES = ("STARTING", "RUNNING")


class SupervisionError(Exception):
    """The supervisor could not be started or asked; the text says why."""


@dataclass(frozen=True)
class Program:
    """One process to keep running. Programs of the services' group stop before all others; of those, the one with
    the higher `order` stops first."""

    name: str
    argv: Sequence[str]
    log: Path
    order: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    is_service: bool = False
    env: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The name the supervisor knows it by."""
        return f"{SERVICES_GROUP}:{self.name}" if self.is_service else self.name


@dataclass(frozen=True)
class Status:
    """What the supervisor says of one process."""

    name: str
    state: str
    pid: int | None
    exit_code: int
    started_at_s: float

    @property
    def has_bad_settings(self) -> bool:
        """True if it ended because its settings cannot be used: only a person can mend that."""
        return self.state == "EXITED" and self.exit_code == BAD_SETTINGS_EXIT_CODE


class Supervisor:
    """A supervisord for the programs of one data folder.

    Programs do not start by themselves but by `start_program()`. From then on a program that ends is started again:
    at once after a long life, with doubling waits of up to 4 s after short ones (`forget_short_lives()`), and without
    an end of tries. The exception is exit code 78, bad settings.
    """

    def __init__(self, data_dir: Path, programs: Sequence[Program]) -> None:
        self._data_dir = data_dir
        self._run_dir = data_dir / "run"
        self._programs = {program.name: program for program in programs}
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = socket_path(data_dir)
        self.log = data_dir / "logs" / "supervisord.log"

    @property
    def running(self) -> bool:
        """True while supervisord lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts supervisord; returns when it takes commands."""
        self._run_dir.mkdir(exist_ok=True)
        self.log.parent.mkdir(exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        for program in self._programs.values():
            self.write_environment(program.name, program.env)
            self.forget_short_lives(program.name)
        configuration = configuration_path(self._data_dir)
        configuration.write_text(self.configuration())
        # a session of its own: Ctrl-C in the terminal reaches only us, and we stop things in order
        self._process = base.spawn(
            base.launcher(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)],
                death_signal=signal.SIGTERM,
            ),
            self._run_dir / "supervisord.out",
            env={**os.environ, FOLDER_VARIABLE: str(self._data_dir)},
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                call(self.socket, "getState")
                return
            except SupervisionError:
                if not self.running or time.monotonic() > deadline:
                    words = base.last_lines(self._run_dir / "supervisord.out") or base.last_lines(self.log)
                    raise SupervisionError(f"supervisord did not start:\n{words}") from None
                time.sleep(0.02)

    def write_environment(self, name: str, env: dict[str, str]) -> None:
        """Sets the environment a program gets at its next start."""
        path = self._environment(name)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(env))

    def start_program(self, name: str) -> None:
        """Starts one program (no-op if it runs), without a wait for its earlier short lives."""
        if self.status(name).state not in RUNNING_STATES:
            self.forget_short_lives(name)
            call(self.socket, "startProcess", self._programs[name].address, False)

    def forget_short_lives(self, name: str) -> None:
        """Lets a program start again at once when its present life ends, however short it was: it has become ready."""
        self._history(name).unlink(missing_ok=True)

    def add_program(self, program: Program) -> None:
        """Makes one more program known while supervisord runs; an `order` above the services' 900 stops with them."""
        self._programs[program.name] = program
        self.write_environment(program.name, program.env)
        configuration_path(self._data_dir).write_text(self.configuration())
        call(self.socket, "reloadConfig")
        call(self.socket, "addProcessGroup", program.name)

    def stop_program(self, name: str) -> None:
        """Stops one program gracefully and leaves it stopped; returns when it has ended. No-op if it does not run."""
        if self.status(name).state in RUNNING_STATES:
            call(self.socket, "stopProcess", self._programs[name].address)

    def status(self, name: str) -> Status:
        """What the supervisor says of one program."""
        return _status(call(self.socket, "getProcessInfo", self._programs[name].address))

    def statuses(self) -> dict[str, Status]:
        """What the supervisor says of all programs, by name."""
        return all_statuses(self.socket)

    def stop(self) -> None:
        """Stops the services, then the servers one by one, then supervisord; nothing is left after it."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S * (2 + len(self._programs)))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        end_leftovers(self._data_dir)
        self.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL for everything; may be called from a signal handler while `stop()` waits."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        base.end_processes(processes_of(self._data_dir), signal.SIGKILL)

    def configuration(self) -> str:
        """supervisord's configuration. Holds no secret: those are in the environment files."""
        sections = [
            _section(
                "supervisord",
                nodaemon="true",
                silent="true",
                logfile=self.log,
                logfile_maxbytes=_LOG_MAX_BYTES,
                logfile_backups=1,
                pidfile=self._run_dir / "supervisord.pid",
                childlogdir=self._run_dir,
                # said explicitly because supervisord otherwise warns that it keeps root's rights
                **({"user": "root"} if os.geteuid() == 0 else {}),
            ),
            _section("unix_http_server", file=self.socket, chmod="0700"),
            _section(
                "rpcinterface:supervisor",
                **{"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
            ),
        ]
        sections += [self._program_section(program) for program in self._programs.values()]
        services = [program.name for program in self._programs.values() if program.is_service]
        if services:
            sections.append(_section(f"group:{SERVICES_GROUP}", programs=",".join(services), priority=900))
        return "\n".join(sections)

    def _program_section(self, program: Program) -> str:
        command = base.launcher(
            program.argv,
            death_signal=program.stop_signal,
            env_file=self._environment(program.name),
            backoff_file=self._history(program.name),
        )
        return _section(
            f"program:{program.name}",
            command=shlex.join(command),
            priority=program.order,
            autostart="false",
            # startsecs 0: every end is an end after a start, so exit code 78 is seen and nothing ever becomes FATAL;
            # the waits between short lives are the launcher's
            startsecs=0,
            autorestart="unexpected",
            exitcodes=BAD_SETTINGS_EXIT_CODE,
            stopsignal=program.stop_signal.name.removeprefix("SIG"),
            stopwaitsecs=_STOP_TIMEOUT_S,
            redirect_stderr="true",
            stdout_logfile=program.log,
            stdout_logfile_maxbytes=_LOG_MAX_BYTES,
            stdout_logfile_backups=_LOG_BACKUPS,
        )

    def _environment(self, name: str) -> Path:
        return self._run_dir / f"{name}.env.json"

    def _history(self, name: str) -> Path:
        return self._run_dir / f"{name}.starts"


def call(socket: Path, method: str, *arguments: object) -> Any:
    """One call to supervisord; SupervisionError if it does not answer or refuses."""
    transport = SupervisorTransport(None, None, f"unix://{socket}")
    try:
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        return getattr(proxy.supervisor, method)(*arguments)
    except xmlrpc.client.Fault as fault:
        raise SupervisionError(fault.faultString) from None
    except (OSError, HTTPException, xmlrpc.client.ProtocolError) as error:
        raise SupervisionError(f"the supervisor does not answer: {error}") from None
    finally:
        transport.close()


def all_statuses(socket: Path) -> dict[str, Status]:
    """What the supervisor behind `socket` says of all its programs, by name."""
    return {status.name: status for status in map(_status, call(socket, "getAllProcessInfo"))}


def address_of(socket: Path, name: str) -> str:
    """The name by which the supervisor behind `socket` knows a process; SupervisionError if it does not."""
    for info in call(socket, "getAllProcessInfo"):
        if info["name"] == name:
            return name if info["group"] == name else f"{info['group']}:{name}"
    raise SupervisionError(f"there is no process {name}")


def configuration_path(data_dir: Path) -> Path:
    """Where the generated configuration lies; it also marks the supervisord of this folder on its command line."""
    return data_dir / "run" / "supervisord.conf"


def socket_path(data_dir: Path) -> Path:
    """In the data folder, or in /tmp where that path is too long for a socket."""
    path = data_dir / "run" / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    digest = sha256(os.fsencode(data_dir)).hexdigest()[:12]
    return Path(f"/tmp/outrider-{os.geteuid()}-{digest}") / "supervisor.sock"


def processes_of(data_dir: Path) -> list[int]:
    """Ids of the supervised processes of a data folder, from this or an earlier run."""
    wanted = f"{FOLDER_VARIABLE}={data_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def end_leftovers(data_dir: Path) -> list[int]:
    """Ends supervised processes of an earlier run, first the supervisor (which stops the rest in order); their ids."""
    supervisors = base.processes_with_argument(str(configuration_path(data_dir)))
    base.end_processes(supervisors, signal.SIGTERM, timeout_s=60)
    rest = [pid for pid in processes_of(data_dir) if base.is_alive(pid)]
    base.end_processes(rest, signal.SIGTERM)
    return supervisors + rest


def _section(name: str, **values: object) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _status(info: dict[str, Any]) -> Status:
    return Status(info["name"], info["statename"], info["pid"] or None, info["exitstatus"], float(info["start"]))
