"""CPU and memory of processes and of the machine, from /proc."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.servers.base import children_of

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
LOOK_S = 2.0

Processes = Mapping[str, Sequence[int]]
"""Process ids by component; a component's processes count with all their descendants."""


def with_descendants(pid: int) -> list[int]:
    """The process and everything below it."""
    found = [pid]
    for child in children_of(pid):
        found += with_descendants(child)
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended; 0 if it is gone.

    A backend of PostgreSQL that ends between two looks is in its postmaster's sum of ended children.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS_A_SECOND


def memory_bytes(pid: int) -> int:
    """Proportional set size: a page shared by n processes counts 1/n in each. 0 if the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def machine_ticks() -> tuple[int, int]:
    """(busy, all) CPU ticks of the machine since its start."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


@dataclass(frozen=True)
class Reading:
    """The machine at one moment."""

    at_s: float
    cpu_s: dict[str, float]
    busy: int
    ticks: int


def read(processes: Processes) -> Reading:
    """CPU seconds so far, by component."""
    busy, ticks = machine_ticks()
    cpu = {name: sum(cpu_s(p) for pid in pids for p in with_descendants(pid)) for name, pids in processes.items()}
    return Reading(time.monotonic(), cpu, busy, ticks)


@dataclass(frozen=True)
class Used:
    """What was used between two readings."""

    seconds: float
    cpu_s: dict[str, float]
    busy_share: float
    """Of the whole machine, whatever ran on it."""


def used(before: Reading, after: Reading) -> Used:
    """What was used between two readings of the same processes."""
    return Used(
        after.at_s - before.at_s,
        {name: round(after.cpu_s[name] - before.cpu_s[name], 2) for name in after.cpu_s},
        (after.busy - before.busy) / max(1, after.ticks - before.ticks),
    )


class MemoryWatch:
    """The highest memory of each component, looked at every two seconds while `run()` runs."""

    def __init__(self, processes: Callable[[], Processes]) -> None:
        self._processes = processes
        self.peak_bytes: dict[str, int] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Look once."""
        for name, pids in self._processes().items():
            size = sum(memory_bytes(p) for pid in pids for p in with_descendants(pid))
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), size)
