"""Finds a Chromium for browser tests: the one named by OUTRIDER_CHROMIUM, an installed one, else a private unpack."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from outrider.servers import base, debian
from outrider.servers.base import ServerError

VARIABLE = "OUTRIDER_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium", "fonts-dejavu-core")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
)
"""How tests run it: nothing of its own goes over the network."""


@dataclass(frozen=True)
class Chromium:
    """A browser program, and what must stand in its environment."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)


def find(cache_dir: Path | None = None) -> Chromium:
    """The Chromium to use; unpacking one takes a minute, once. Raises ServerError that says what to do."""
    if named := os.environ.get(VARIABLE):
        if not os.access(named, os.X_OK):
            raise ServerError(f"{VARIABLE}={named} is no program")
        return Chromium(Path(named))
    for name in NAMES:
        if installed := shutil.which(name):
            return Chromium(Path(installed))
    cache_dir = cache_dir or base.cache_dir()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = cache_dir / "chromium"
        if not _program(tree).exists():
            _unpack(cache_dir, tree)
    return _of_tree(tree)


def _unpack(cache_dir: Path, tree: Path) -> None:
    apt = debian.Apt.of_this_machine()
    advice = "install it (`sudo apt install chromium`) or name one with " + VARIABLE
    if apt is None or apt.distribution != "debian":  # Ubuntu's package only fetches a snap
        raise ServerError(f"no Chromium on PATH, and no package of it to unpack here; {advice}")
    # The machine's own suite: its programs start helpers by path, so they run with the machine's own C library.
    suite = debian.os_release().get("VERSION_CODENAME", "stable")
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=cache_dir) as work:
        try:
            apt.unpack(Path(work) / "tree", suite, PACKAGES)
        except ServerError as error:
            raise ServerError(f"Chromium could not be fetched: {error}; {advice}") from None
        shutil.rmtree(tree, ignore_errors=True)
        (Path(work) / "tree").rename(tree)


def _program(tree: Path) -> Path:
    return tree / "usr/lib/chromium/chromium"


def _of_tree(tree: Path) -> Chromium:
    # Not the tree's own C library: it must be the one of the loader that the kernel starts.
    own = [str(path) for path in sorted(tree.glob("usr/lib/*-linux-gnu*"))]
    libraries = tree / "libraries"
    if not libraries.exists():
        fresh = Path(tempfile.mkdtemp(prefix="libraries-", dir=tree))
        for folder in own:
            for path in Path(folder).glob("*.so*"):
                if not path.name.startswith(("libc.so", "ld-linux", "libpthread", "libm.so", "libdl.so", "librt.so")):
                    (fresh / path.name).symlink_to(path.resolve())
        fresh.rename(libraries)
    return Chromium(
        _program(tree),
        {
            "LD_LIBRARY_PATH": ":".join([str(libraries), *(f"{folder}/nss" for folder in own)]),
            "FONTCONFIG_PATH": str(tree / "etc/fonts"),
            "FONTCONFIG_SYSROOT": str(tree),
        },
    )
