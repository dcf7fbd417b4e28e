"""Finds a PostgreSQL that has TimescaleDB, and runs it privately."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from outrider.servers import base, debian, postgres
from outrider.servers.base import ServerError
from outrider.servers.postgres import Postgres, Programs

# Only a suite whose TimescaleDB is known to work with the migrations.
SUITES: Mapping[str, tuple[str, ...]] = {"debian": ("trixie",)}
PACKAGE = "postgresql-17-timescaledb"
# Half of the packages' size, only for compiling queries (jit is off) and for Debian's own scripts.
_UNUSED = (
    "usr/lib/*/libLLVM*",
    "usr/lib/*/libz3*",
    "usr/lib/postgresql/*/lib/bitcode",
    "usr/share/i18n",
    "usr/*/perl*",
)
# postgres and initdb start each other and /bin/sh, which needs the machine's own C library: so each program is this
# script, which names the tree's loader for itself alone. `--argv0` tells the program where its files are.
_WRAPPER = """#!/bin/sh
root=${{0%/usr/lib/postgresql/*}}
exec "$root"/{loader} --argv0 "$0" --library-path "$root"/{libraries} "$0.unwrapped" "$@"
"""


def has_extension(programs: Programs) -> bool:
    """True if this PostgreSQL has the extension's files (built-in layout or Debian's)."""
    own = programs.folder.parent / "share"
    shares = [own, own / "postgresql"]
    if programs.folder.match("lib/postgresql/*/bin"):
        shares.append(programs.folder.parents[3] / "share/postgresql" / str(programs.major))
    return any((share / "extension/timescaledb.control").exists() for share in shares)


def find(cache_dir: Path | None = None) -> Programs:
    """The PostgreSQL with TimescaleDB to use: an installed one, else one unpacked from Debian's packages into
    `cache_dir` (which takes about twenty seconds, once).

    Safe for several callers at once. ServerError says what was tried and what to do.
    """
    with contextlib.suppress(ServerError):
        for programs in postgres.find_all():
            if has_extension(programs):
                return programs
    # root's own cache cannot be entered by the account that runs PostgreSQL
    return _unpacked(cache_dir or (postgres.SHARED_CACHE if os.geteuid() == 0 else base.cache_dir()))


def _unpacked(cache_dir: Path) -> Programs:
    tried = ["no PostgreSQL of this machine has the extension"]
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        lock = (cache_dir / "timescaledb.lock").open("w")
    except OSError as error:
        raise ServerError(_not_found([*tried, f"no private unpack: {error}"])) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for tree in sorted(cache_dir.glob("timescaledb-[0-9]*"), reverse=True):
            with contextlib.suppress(ServerError):
                return _programs_of(tree)
        apt = debian.Apt.of_this_machine()
        if apt is None:
            tried.append("no private unpack: this machine has no apt with a source of Debian itself")
            raise ServerError(_not_found(tried))
        for suite in SUITES.get(apt.distribution, ()):
            with tempfile.TemporaryDirectory(prefix="unpack-", dir=cache_dir) as work:
                tree = Path(work) / "tree"
                try:
                    apt.unpack(tree, suite, (PACKAGE,))
                    _wrap(tree)
                    version = _programs_of(tree).version
                except ServerError as error:
                    tried.append(f"{apt.distribution} {suite}: {error}")
                    continue
                tree.chmod(0o755)
                final = cache_dir / f"timescaledb-{version}-{suite}"
                shutil.rmtree(final, ignore_errors=True)
                tree.rename(final)
            return _programs_of(final)
        raise ServerError(_not_found(tried))


def _wrap(tree: Path) -> None:
    """Makes the server's programs run with the tree's own C library, and removes what they do not need."""
    loader = Path(debian.loader(tree)[0]).relative_to(tree)
    text = _WRAPPER.format(loader=loader, libraries=loader.parent)
    for name in ("postgres", "initdb"):
        for program in tree.glob(f"usr/lib/postgresql/*/bin/{name}"):
            program.rename(program.with_name(f"{name}.unwrapped"))
            program.write_text(text)
            program.chmod(0o755)
    for pattern in _UNUSED:
        _remove(tree.glob(pattern))


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _programs_of(tree: Path) -> Programs:
    for folder in sorted(tree.glob("usr/lib/postgresql/*/bin")):
        programs = postgres.programs_in(folder, f"unpacked in {tree}")
        if has_extension(programs):
            return programs
    raise ServerError(f"{tree} has no PostgreSQL with TimescaleDB")


def _not_found(tried: list[str]) -> str:
    lines = "\n".join(f"  {number}. {reason}" for number, reason in enumerate(tried, 1))
    return (
        f"No PostgreSQL with TimescaleDB. Tried:\n{lines}\n"
        f"Install one (Debian 13: sudo apt install {PACKAGE}; other systems: TimescaleDB's own packages)."
    )


class TimescaleDB(Postgres):
    """A PostgreSQL with TimescaleDB loaded, on loopback for one data folder; the extension is for a database to create."""

    name: ClassVar[str] = "timescaledb"

    def __init__(
        self,
        data_dir: Path,
        *,
        programs: Programs | None = None,
        port: int | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        loaded = {"shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off"}
        super().__init__(data_dir, programs=programs or find(), port=port, settings={**loaded, **(settings or {})})
