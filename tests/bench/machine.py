"""What the figures were measured on: the machine, the servers' versions and settings, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size", "full_page_writes", "wal_compression")


def machine_facts(folder: Path) -> dict[str, Any]:
    """Cores, processor, kernel, memory and the file system of `folder`."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "system": platform.system(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": _file_system(folder),
        "commit": _commit(),
    }


def persistence_of(data_dir: Path) -> str:
    """How the broker of a platform keeps sessions and queues."""
    try:
        text = (data_dir / "mosquitto" / "mosquitto.conf").read_text()
    except OSError:
        return "an outside broker's"
    options = ("global_plugin ", "plugin_opt_", "persistence true", "persistence false", "autosave_")
    lines = [line for line in text.splitlines() if line.startswith(options)]
    # of a plugin its name is enough: where it lies is this machine's affair
    return ", ".join(Path(line.split()[1]).stem if line.startswith("global_plugin") else line for line in lines)


def database_facts(url: str) -> dict[str, str]:
    """Settings of PostgreSQL that cost or save time."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = [(name, connection.execute(f"SHOW {name}".encode()).fetchone()) for name in SETTINGS]
    return {name: str(row[0]) for name, row in rows if row}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the longest mount that holds the folder."""
    best = ("", "?")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) > len(best[0]):
            best = (mount, kind)
    return best[1]


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
