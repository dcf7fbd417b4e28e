"""Finds a Mosquitto that keeps the delivery rules: named, installed, or unpacked from the distribution's packages."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from outrider.servers import base, debian
from outrider.servers.base import ServerError

Version = tuple[int, int, int]

MINIMUM: Version = (2, 0, 21)
REFERENCE: Version = (2, 1, 2)
VARIABLE = "OUTRIDER_MOSQUITTO"
CLIENTS = ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr", "mosquitto_ctrl", "mosquitto_passwd")
# Newest wanted first; a suite that is gone from the mirror, or too old, gives way to the next.
SUITES: Mapping[str, tuple[str, ...]] = {
    "debian": ("forky", "testing", "trixie", "bookworm-backports"),
    "ubuntu": ("resolute", "questing", "plucky", "devel"),
}
# For who needs an older series beside the newest: to test what must work on both.
SERIES_SUITES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "2.0": {"debian": ("trixie", "bookworm-backports"), "ubuntu": ("questing", "plucky")},
    "2.1": {"debian": ("forky", "testing"), "ubuntu": ("resolute", "devel")},
}
_WHY_NOT_OLDER = (
    "older ones break receive-maximum: a consumer that dies gets nearly its whole queue in flight at once "
    "and its acknowledgements are useless"
)


@dataclass(frozen=True)
class Program:
    """A Mosquitto on this machine: how to run it, its version, and where it came from."""

    path: Path
    version: Version
    source: str
    tree: Path | None = None
    passed_over: tuple[str, ...] = field(default=(), compare=False)

    @property
    def argv(self) -> list[str]:
        """The start of the broker's command line."""
        return self._with_loader(self.path)

    def client(self, name: str) -> list[str] | None:
        """The start of the command line of a client program (`mosquitto_sub` …) of the same origin, None if absent."""
        if self.tree:
            path = self.tree / "usr/bin" / name
            return self._with_loader(path) if path.exists() else None
        places = os.pathsep.join([str(self.path.parent), os.environ.get("PATH", ""), "/usr/bin"])
        found = shutil.which(name, path=places)
        return [found] if found else None

    @property
    def sqlite_plugin(self) -> Path | None:
        """The plugin that commits sessions and queues to a database (Mosquitto ≥ 2.1), None if absent."""
        return self._plugin("mosquitto_persist_sqlite.so")

    @property
    def dynsec_plugin(self) -> Path | None:
        """The plugin that knows accounts and their rights, None if absent."""
        return self._plugin("mosquitto_dynamic_security.so")

    def _plugin(self, name: str) -> Path | None:
        roots = [self.tree / "usr"] if self.tree else [self.path.parent.parent, Path("/usr"), Path("/usr/local")]
        for root in roots:
            for pattern in ("lib/*/mosquitto", "lib/*", "lib/mosquitto", "lib"):
                for plugin in sorted(root.glob(f"{pattern}/{name}")):
                    return plugin
        return None

    def _with_loader(self, path: Path) -> list[str]:
        if self.tree is None:
            return [str(path)]
        loader = debian.loader(self.tree)
        return [loader[0], "--argv0", path.name, *loader[1:], str(path)]


def parse_version(text: str) -> Version:
    """The version in the first lines of `mosquitto -h`; ValueError if there is none."""
    match = re.search(r"\bversion (\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise ValueError("no version in the output of mosquitto -h")
    return int(match[1]), int(match[2]), int(match[3])


def text_of(version: Version) -> str:
    """`2.1.2` for (2, 1, 2)."""
    return ".".join(map(str, version))


def too_old(path: Path, version: Version) -> str:
    """What is said of a Mosquitto that cannot be used."""
    return f"{path} is Mosquitto {text_of(version)}; {text_of(MINIMUM)} or newer is needed ({_WHY_NOT_OLDER})"


def advice(distribution: str, codename: str) -> str:
    """How to get a suitable Mosquitto on this machine, in commands."""
    if distribution == "debian" and codename == "bookworm":
        return (
            "Debian 12 has one in its backports:\n"
            "  echo 'deb http://MIRROR/debian bookworm-backports main' |"
            " sudo tee /etc/apt/sources.list.d/backports.list   (MIRROR: the host your other apt sources name)\n"
            "  sudo apt update && sudo apt install -t bookworm-backports mosquitto mosquitto-clients"
        )
    if distribution == "debian":
        return "Debian 13 and newer have one: sudo apt update && sudo apt install mosquitto mosquitto-clients"
    if distribution == "ubuntu":
        return (
            "The Mosquitto project packages it for Ubuntu:\n"
            "  sudo add-apt-repository ppa:mosquitto-dev/mosquitto-ppa\n"
            "  sudo apt update && sudo apt install mosquitto mosquitto-clients"
        )
    return "Install it with your package manager, or build it from the project's sources"


def not_found(tried: list[str], distribution: str, codename: str) -> str:
    """The message for a machine where no suitable Mosquitto can be had."""
    lines = "\n".join(f"  {number}. {reason}" for number, reason in enumerate(tried, 1))
    return (
        f"No suitable Mosquitto ({text_of(MINIMUM)} or newer, best {text_of(REFERENCE)}). Tried:\n{lines}\n"
        f"{advice(distribution, codename)}.\n"
        f"Or name a program with {VARIABLE}=/path/to/mosquitto, or use a running broker with OUTRIDER_MQTT_URL."
    )


def version_of(argv: list[str]) -> Version:
    """Asks a broker program for its version; ServerError if it does not run."""
    try:
        command = [*argv, "-h"]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL, check=False
        )
        return parse_version(result.stdout + result.stderr)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{argv[-1]} does not run: {error}") from None


def find(cache_dir: Path | None = None, series: str | None = None) -> Program:
    """The Mosquitto to use: the one named by OUTRIDER_MOSQUITTO, else an installed one of 2.0.21 or newer, else one
    unpacked from the distribution's packages into `cache_dir` (which takes a few seconds, once).

    `series` (`2.0` or `2.1`) takes no other, for what must be tried on both. Safe for several callers at once.
    ServerError says what was tried and what to do.
    """
    cache_dir = cache_dir or base.cache_dir()
    if named := os.environ.get(VARIABLE):
        path = Path(named).absolute()
        version = version_of([str(path)])
        if version < MINIMUM:
            raise ServerError(f"{VARIABLE}: {too_old(path, version)}")
        if _is_of(version, series):
            return Program(path, version, VARIABLE)
    passed_over: list[str] = []
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if installed := shutil.which("mosquitto", path=places):
        try:
            version = version_of([installed])
            if version < MINIMUM:
                passed_over.append(too_old(Path(installed), version))
            elif _is_of(version, series):
                return Program(Path(installed), version, "installed")
        except ServerError as error:
            passed_over.append(str(error))
    return _unpacked(cache_dir, tuple(passed_over), series)


def find_old(cache_dir: Path | None = None) -> Program:
    """A Mosquitto of the oldest series that is supported, whatever else is on this machine."""
    return find(cache_dir, "2.0")


def _is_of(version: Version, series: str | None) -> bool:
    return series is None or text_of(version).startswith(f"{series}.")


def _unpacked(cache_dir: Path, passed_over: tuple[str, ...], series: str | None) -> Program:
    tried = list(passed_over) or ["no mosquitto on PATH or in /usr/sbin"]
    cache_dir.mkdir(parents=True, exist_ok=True)
    # trees of a series have names of their own: who wants the newest must not be given an old one that is there
    prefix = "mosquitto-" if series is None else f"mosquitto-of-{series}-"
    with (cache_dir / "mosquitto.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [*cache_dir.glob(f"{prefix}[0-9]*"), *(cache_dir.glob(f"mosquitto-{series}*") if series else ())]
        for tree in sorted(kept, reverse=True):
            with contextlib.suppress(ServerError):
                return _program_of(tree, passed_over, series)
        apt = debian.Apt.of_this_machine()
        release = debian.os_release()
        if apt is None:
            tried.append("no private unpack: this machine has no apt with a source of Debian or Ubuntu itself")
            name = next(iter(release.get("ID", "").split()), "")
            raise ServerError(not_found(tried, name, release.get("VERSION_CODENAME", "")))
        for suite in (SUITES if series is None else SERIES_SUITES[series])[apt.distribution]:
            with tempfile.TemporaryDirectory(prefix="unpack-", dir=cache_dir) as work:
                try:
                    apt.unpack(Path(work) / "tree", suite, ("mosquitto", "mosquitto-clients"))
                    program = _program_of(Path(work) / "tree", (), series)
                except ServerError as error:
                    tried.append(f"{apt.distribution} {suite}: {error}")
                    continue
                final = cache_dir / f"{prefix}{text_of(program.version)}-{suite}"
                shutil.rmtree(final, ignore_errors=True)
                (Path(work) / "tree").rename(final)
            return _program_of(final, passed_over, series)
        raise ServerError(not_found(tried, apt.distribution, release.get("VERSION_CODENAME", "")))


def _program_of(tree: Path, passed_over: tuple[str, ...], series: str | None) -> Program:
    path = tree / "usr/sbin/mosquitto"
    if not path.exists():
        raise ServerError(f"{tree} has no mosquitto")
    version = version_of([*debian.loader(tree), str(path)])
    if version < MINIMUM or not _is_of(version, series):
        raise ServerError(f"has Mosquitto {text_of(version)}")
    return Program(path, version, f"unpacked in {tree}", tree, passed_over)
