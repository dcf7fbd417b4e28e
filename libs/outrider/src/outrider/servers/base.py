"""What every private server has in common: start, wait until ready, kill, restart, stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from outrider.servers import ports

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_S = 0.02

# A child's death signal fires when the *thread* that made it ends, so one thread that lives as long as the process
# makes them all: a server may then be started from a worker thread and used from another.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-spawner")


class ServerError(Exception):
    """A private server could not be found or started; the text says what to do."""


def cache_dir() -> Path:
    """The folder for unpacked programs, shared by all data folders of this user; created if absent."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "outrider"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(f"/var/tmp/outrider-{os.getuid()}-cache")
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise ServerError(f"{folder} belongs to somebody else; set XDG_CACHE_HOME to a folder of yours") from None
    return folder


def launcher(
    argv: Iterable[str],
    *,
    death_signal: int | None = None,
    account: tuple[int, int] | None = None,
    env_file: Path | None = None,
    backoff_file: Path | None = None,
) -> list[str]:
    """The command that runs `argv` so that it gets `death_signal` when its parent dies, as (uid, gid) `account`,
    with the variables of the JSON object in `env_file`, waiting first if its last lives were short."""
    options: list[str] = []
    if death_signal is not None:
        options += ["--death-signal", str(int(death_signal))]
    if account is not None:
        options += ["--uid", str(account[0]), "--gid", str(account[1])]
    if env_file is not None:
        options += ["--env", str(env_file)]
    if backoff_file is not None:
        options += ["--backoff", str(backoff_file)]
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *options, "--", *argv]


def spawn(argv: list[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, its output appended to `log`.

    Made by `launcher` with a death signal it ends with this process, not already with the calling thread.
    """
    with log.open("ab") as output:
        return _spawner.submit(
            subprocess.Popen,
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
        ).result()


def processes_with_argument(argument: str) -> list[int]:
    """Ids of the running processes that have exactly `argument` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(argument) in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return sorted(found)


def children_of(pid: int) -> list[int]:
    """Ids of the direct children of a process; empty if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """True while the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def end_processes(pids: Iterable[int], first: int, timeout_s: float = 10.0) -> None:
    """Sends the signal `first`, then SIGKILL to what still lives after `timeout_s`; returns when all are gone."""
    waiting = list(pids)
    for number, patience_s in ((first, timeout_s), (signal.SIGKILL, 5.0)):
        for pid in waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while (waiting := [pid for pid in waiting if is_alive(pid)]) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def last_lines(path: Path, count: int = 20, from_byte: int = 0) -> str:
    """The last lines of a log, written after `from_byte`."""
    try:
        return "\n".join(path.read_bytes()[from_byte:].decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


class Server(ABC):
    """One private server on loopback whose files lie in one folder.

    It keeps its port and its data over `restart()`, over `kill()` + `start()`, and for the next object on the same
    folder. It ends with the process that made it. Not safe for use from several threads at once.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    start_timeout_s: ClassVar[float] = 30.0

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / f"{self.name}.log"
        self._fixed_port = port
        self._port = port or self._kept_port() or ports.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return self._port

    @property
    @abstractmethod
    def url(self) -> str:
        """The address a client of this server takes."""

    @abstractmethod
    def prepare(self) -> None:
        """Makes the files the server needs; may be repeated. `command()` works after it."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs the server in the foreground, for a supervisor; call `prepare()` first."""

    @abstractmethod
    def is_ready(self) -> bool:
        """True if the server answers a client now."""

    @abstractmethod
    def marker(self) -> str:
        """The argument on the command line by which this folder's server is known."""

    @property
    def pid(self) -> int:
        """The process id of the running server; ServerError if it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.name} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the process this object started lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when the server answers; ServerError with the end of its log if it does not."""
        if self.running:
            raise ServerError(f"{self.name} runs already")
        for attempts_left in (2, 1, 0):
            self.prepare()
            self._spawn()
            try:
                self.wait_ready(lambda: self.running)
            except ServerError:
                log = last_lines(self.log_path, from_byte=self._log_start_bytes)
                self.kill()
                if attempts_left and self._may_try_again(log):
                    continue
                raise
            return

    def wait_ready(self, alive: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Returns when the server answers; ServerError when `alive()` turns false or after `timeout_s`."""
        timeout_s = timeout_s or self.start_timeout_s
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            died = not alive()
            if died or time.monotonic() > deadline:
                what = "ended during its start" if died else f"does not answer after {timeout_s:.0f} s"
                log = last_lines(self.log_path, from_byte=self._log_start_bytes)
                raise ServerError(f"{self.name} {what}; {self.log_path} ends with:\n{log}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL, as a crash; returns when the process and its children are gone. No-op if it does not run."""
        if self._process is None:
            return
        children = children_of(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        # a killed server's children end by themselves as in a real crash; only a stuck one is ended here
        end_processes(children, first=0)

    def stop(self) -> None:
        """Ends the server gracefully; SIGKILL after 30 s. No-op if it does not run."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def restart(self) -> None:
        """Graceful stop and start on the same port and data."""
        self.stop()
        self.start()

    def end_leftovers(self) -> list[int]:
        """Ends servers on this folder that outlived the process that started them; returns their ids."""
        found = processes_with_argument(self.marker())
        children = [child for pid in found for child in children_of(pid)]
        end_processes(found, self.stop_signal)
        end_processes(children, first=0)
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> None:
        self._log_start_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = spawn(self.command(), self.log_path)

    def _may_try_again(self, log: str) -> bool:
        taken = "Address already in use" in log or "could not bind" in log
        return taken and not processes_with_argument(self.marker()) and self._take_other_ports()

    def _take_other_ports(self) -> bool:
        """Picks new ports where the caller gave none; False if every port was given."""
        if self._fixed_port is not None:
            return False
        self._port = ports.free_port()
        return True

    def _kept_port(self, name: str = "port") -> int | None:
        try:
            port = int((self.data_dir / name).read_text())
        except (OSError, ValueError):
            return None
        return port if ports.is_free(port) else None

    def _keep_port(self) -> None:
        (self.data_dir / "port").write_text(f"{self._port}\n")
