"""Finds a Valkey, and runs it privately: a cache on loopback that keeps nothing over a restart."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from outrider.servers import base, debian
from outrider.servers.base import Server, ServerError

VARIABLE = "OUTRIDER_VALKEY"
SUITES: Mapping[str, tuple[str, ...]] = {
    "debian": ("trixie", "forky", "bookworm-backports"),
    "ubuntu": ("noble", "plucky", "questing"),
}


@dataclass(frozen=True)
class Program:
    """A valkey-server on this machine."""

    path: Path
    version: str
    tree: Path | None = None

    @property
    def argv(self) -> list[str]:
        """The start of its command line."""
        if self.tree is None:
            return [str(self.path)]
        loader = debian.loader(self.tree)
        return [loader[0], "--argv0", self.path.name, *loader[1:], str(self.path)]


def find(cache_dir: Path | None = None) -> Program:
    """The Valkey to use: the one named by OUTRIDER_VALKEY, else an installed one, else one unpacked from the distribution's
    packages into `cache_dir` (once). Safe for several callers at once. ServerError says what was tried."""
    named = os.environ.get(VARIABLE) or shutil.which("valkey-server")
    if named:
        return Program(Path(named), _version([named]))
    cache_dir = cache_dir or base.cache_dir()
    cache_dir.mkdir(parents=True, exist_ok=True)
    tried = ["no valkey-server on PATH"]
    with (cache_dir / "valkey.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for tree in sorted(cache_dir.glob("valkey-[0-9]*"), reverse=True):
            with contextlib.suppress(ServerError):
                return _program_of(tree)
        apt = debian.Apt.of_this_machine()
        if apt is None:
            tried.append("no private unpack: this machine has no apt with a source of Debian or Ubuntu itself")
            raise ServerError(_not_found(tried))
        for suite in SUITES.get(apt.distribution, ()):
            with tempfile.TemporaryDirectory(prefix="unpack-", dir=cache_dir) as work:
                tree = Path(work) / "tree"
                try:
                    apt.unpack(tree, suite, ("valkey-server",))
                    version = _program_of(tree).version
                except ServerError as error:
                    tried.append(f"{apt.distribution} {suite}: {error}")
                    continue
                final = cache_dir / f"valkey-{version}-{suite}"
                shutil.rmtree(final, ignore_errors=True)
                tree.rename(final)
            return _program_of(final)
    raise ServerError(_not_found(tried))


def _program_of(tree: Path) -> Program:
    path = tree / "usr/bin/valkey-server"
    if not path.exists():
        raise ServerError(f"{tree} has no valkey-server")
    # its name decides what it is: the file is a link to a program of many
    loader = debian.loader(tree)
    return Program(path, _version([loader[0], "--argv0", path.name, *loader[1:], str(path)]), tree)


def _version(argv: list[str]) -> str:
    try:
        result = subprocess.run([*argv, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{argv[-1]} does not run: {error}") from None
    match = re.search(r"\bv=(\d+(\.\d+)+)", result.stdout)
    if match is None:
        raise ServerError(f"{argv[-1]} does not run: {(result.stderr or result.stdout).strip()[-200:]}")
    return match[1]


def _not_found(tried: list[str]) -> str:
    lines = "\n".join(f"  {number}. {reason}" for number, reason in enumerate(tried, 1))
    return (
        f"No Valkey. Tried:\n{lines}\nInstall valkey-server, or name a program with {VARIABLE}=/path/to/valkey-server."
    )


class Valkey(Server):
    """A Valkey on loopback for one folder; it writes nothing to disk and holds at most `max_bytes`."""

    name: ClassVar[str] = "valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        data_dir: Path,
        *,
        program: Program | None = None,
        port: int | None = None,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        super().__init__(data_dir, port=port)
        self.program = program or find()
        self._max_bytes = max_bytes

    @property
    def url(self) -> str:
        """For clients: `valkey://127.0.0.1:PORT/0`."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Makes the folder and the configuration."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "valkey.conf").write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.data_dir}\nsave ''\nappendonly no\ndaemonize no\n"
            f"maxmemory {self._max_bytes}\nmaxmemory-policy allkeys-lru\n"
        )
        self._keep_port()

    def command(self) -> list[str]:
        """The server in the foreground; it ends with this process."""
        return base.launcher([*self.program.argv, self.marker()], death_signal=signal.SIGKILL)

    def marker(self) -> str:
        """Its configuration file."""
        return str(self.data_dir / "valkey.conf")

    def is_ready(self) -> bool:
        """True if it answers PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
