"""Unpacks Debian and Ubuntu packages into a folder through apt, without root and without touching the machine.

It takes the mirror and the signing keys from the machine's own apt sources and keeps an apt state of its own.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.servers.base import ServerError

APT_FOLDER = Path("/etc/apt")
KEYRINGS = Path("/usr/share/keyrings")
_ALIASES = {"stable", "oldstable", "testing", "unstable", "sid"}
_UNWANTED = ("doc", "man", "locale", "info", "lintian", "bug")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Source:
    """One line of apt's configuration: where packages come from and which key signs them."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None


def parse_one_line(text: str) -> list[Source]:
    """The `deb` lines of a sources.list (sources.list(5)); source-code lines and comments are left out."""
    found = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        match = re.fullmatch(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<rest>.*)", line)
        if match:
            options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
            signed_by = options.get("signed-by", "").split(",")[0] or None
            found.append(Source(match["uri"], (match["suite"],), tuple(match["rest"].split()), signed_by))
    return found


def parse_deb822(text: str) -> list[Source]:
    """The enabled binary stanzas of a .sources file, one Source for each of their URIs."""
    found = []
    for stanza in re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        key = fields.get("signed-by", "").strip()
        signed_by = key.split()[0] if key.startswith("/") else None
        for uri in fields.get("uris", "").split():
            suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
            found.append(Source(uri, tuple(suites), tuple(components), signed_by))
    return found


def machine_sources(folder: Path = APT_FOLDER) -> list[Source]:
    """All package sources configured on this machine, unreadable files left out."""
    found: list[Source] = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            found += parse_deb822(text)
        elif path.suffix == ".list":
            found += parse_one_line(text)
    return found


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The fields of os-release(5); empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines) if value}


def archive(sources: Iterable[Source], codename: str) -> Source | None:
    """The distribution's own archive among the sources, rather than a vendor's or the security archive."""
    suites = _ALIASES | {codename}
    for source in sources:
        if suites & set(source.suites) and "main" in source.components and not source.uri.startswith("cdrom:"):
            return source
    return None


def keyring(source: Source, distribution: str) -> Path | None:
    """The keys that sign the archive: those the machine names, else the distribution's; None leaves it to apt."""
    names = [source.signed_by or ""]
    names += [str(KEYRINGS / f"{distribution}-archive-keyring.{ending}") for ending in ("gpg", "pgp")]
    return next((Path(name) for name in names if name and os.access(name, os.R_OK)), None)


@dataclass(frozen=True)
class Apt:
    """A private apt on the machine's own mirror."""

    source: Source
    distribution: str
    components: str

    @classmethod
    def of_this_machine(cls) -> "Apt | None":
        """None where there is no apt, or no source of the distribution itself."""
        release = os_release()
        family = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
        distribution = next((name for name in family if name in ("ubuntu", "debian")), None)
        if distribution is None or not all(map(shutil.which, ("apt-get", "apt-config", "dpkg", "dpkg-deb", "tar"))):
            return None
        codename = release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME", "")
        source = archive(machine_sources(), codename)
        components = "main universe" if distribution == "ubuntu" else "main"
        return cls(source, distribution, components) if source else None

    def unpack(self, tree: Path, suite: str, packages: Sequence[str]) -> None:
        """Fetches the packages of `suite` with all they depend on, the C library included, and unpacks them to `tree`.

        Signatures are checked; how old the suite's index is, is not, because mirrors carry stale indexes of
        testing. Raises ServerError with apt's own words.
        """
        with tempfile.TemporaryDirectory(prefix="outrider-apt-") as name:
            state = Path(name)
            for part in ("lists/partial", "cache/archives/partial"):
                (state / part).mkdir(parents=True)
            (state / "apt.conf").write_text(self._configuration(state, suite))
            key = keyring(self.source, self.distribution)
            signed_by = f"[signed-by={key}] " if key else ""
            (state / "sources.list").write_text(f"deb {signed_by}{self.source.uri} {suite} {self.components}\n")
            environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C.UTF-8"}
            _run(["apt-get", "update", "-q"], environment)
            _run(["apt-get", "install", "-q", "-y", "--download-only", *packages], environment)
            tree.mkdir(parents=True, exist_ok=True)
            for package in sorted((state / "cache/archives").glob("*.deb")):
                _unpack_one(package, tree)
        for link in ("lib", "lib64", "bin", "sbin"):
            if not (tree / link).exists():
                (tree / link).symlink_to(f"usr/{link}")
        # the links from library names to files, otherwise made when a package is configured
        ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if ldconfig:
            _run([ldconfig, "-n", *map(str, tree.glob("usr/lib/*-linux-gnu*"))], dict(os.environ))

    @staticmethod
    def _configuration(state: Path, suite: str) -> str:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
        network = [line for line in dump.splitlines() if re.match(r"Acquire::(http|https|ftp)::", line)]
        settings = {
            "Dir::State": state,
            "Dir::State::status": "/dev/null",
            "Dir::State::lists": state / "lists",
            "Dir::Cache": state / "cache",
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::main": "-",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "-",
            "Dir::Etc::preferencesparts": "-",
            "Debug::NoLocking": "1",
            "APT::Default-Release": suite,
            "APT::Install-Recommends": "0",
            "APT::Architecture": _architecture(),
            "APT::Sandbox::User": "",
            "Acquire::Check-Valid-Until": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
        }
        return "\n".join([*network, *(f'{name} "{value}";' for name, value in settings.items())]) + "\n"


def loader(tree: Path) -> list[str]:
    """The start of the command line that runs a program of an unpacked tree with the tree's own C library."""
    loaders = sorted(tree.glob("usr/lib/*-linux-gnu*/ld-linux*.so.*"))
    if not loaders:
        raise ServerError(f"{tree} has no dynamic loader; delete the folder and try again")
    libraries = loaders[0].parent
    return [str(loaders[0]), "--library-path", f"{libraries}:{libraries}/systemd"]


def _architecture() -> str:
    command = ["dpkg", "--print-architecture"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"{command[0]} did not finish in {_TIMEOUT_S} s") from None
    # `update` succeeds without an index it could not fetch, and says so only in its output
    if result.returncode != 0 or "Err:" in result.stdout:
        words = [line for line in (result.stdout + result.stderr).splitlines() if re.match(r"\s*(Err:|E:|W:)", line)]
        raise ServerError("; ".join(dict.fromkeys(map(str.strip, words[:3]))) or f"{command[0]} failed")


def _unpack_one(package: Path, tree: Path) -> None:
    exclude = [f"--exclude=./usr/share/{folder}/*" for folder in _UNWANTED]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive_stream:
        extract = ["tar", "-x", "-C", str(tree), "--no-same-owner", "--keep-directory-symlink", *exclude]
        unpacked = subprocess.run(extract, stdin=archive_stream.stdout, capture_output=True, text=True, check=False)
    if unpacked.returncode or archive_stream.returncode:
        raise ServerError(f"{package.name} could not be unpacked: {unpacked.stderr.strip()[-300:]}")
