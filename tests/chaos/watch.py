"""Looks at the platform from outside twice a second: who attends each slot, memory of each process, servers that are up."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from outrider_cli import supervision
from outrider_cli.platform import Platform

INTERVAL_S = 0.4
ATTENDED = re.compile(r'^outrider_session_connected\{client_id="([^"]+)"\} 1\.0$', re.MULTILINE)


@dataclass
class Attendance:
    """How long slots stood alone. Time counts only while broker and database are both up. Pure: times are passed in."""

    slots: set[str]
    alone_since: dict[str, float] = field(default_factory=dict)
    longest_s: dict[str, float] = field(default_factory=dict)

    def see(self, now_s: float, attended: set[str], servers_up: bool) -> None:
        """What one look found; a gap is counted while it lasts."""
        for slot in self.slots:
            if slot in attended or not servers_up:
                self.alone_since.pop(slot, None)
                continue
            since_s = self.alone_since.setdefault(slot, now_s)
            self.longest_s[slot] = max(self.longest_s.get(slot, 0.0), now_s - since_s)

    @property
    def max_s(self) -> float:
        """The longest any slot stood alone."""
        return max(self.longest_s.values(), default=0.0)


class Watch:
    """Runs beside the rounds. Time in which `is_staged()` says something is kept stopped on purpose counts for no slot."""

    def __init__(self, platform: Platform, is_staged: Callable[[], bool]) -> None:
        self._platform = platform
        self._is_staged = is_staged
        self.peak_bytes: dict[str, int] = {}
        """Highest resident memory of one process, by service or server."""
        self.now_bytes: dict[str, int] = {}
        self.attendance = Attendance(self._slots())

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began_s = time.monotonic()
            with contextlib.suppress(supervision.SupervisionError, OSError):
                await self._look()
            await asyncio.sleep(max(0.05, INTERVAL_S - (time.monotonic() - began_s)))

    async def _look(self) -> None:
        state = self._platform.state
        statuses = await asyncio.to_thread(supervision.all_statuses, state.supervisor_socket)
        for name, process in {**state.services, **state.servers}.items():
            pid = statuses[name].pid if name in statuses else None
            if pid is not None and (sizes := resident(pid)) is not None:
                self.now_bytes[name] = sizes[0]
                self.peak_bytes[process.service] = max(self.peak_bytes.get(process.service, 0), sizes[1])
        ports = [p.http_port for p in state.services.values() if p.http_port]
        looks = await asyncio.gather(
            asyncio.to_thread(_up, state.mqtt_url),
            asyncio.to_thread(_database_up, state.database_url),
            *(asyncio.to_thread(_attended, port) for port in ports),
        )
        attended = set().union(*(look for look in looks[2:] if isinstance(look, set)))
        self.attendance.see(time.monotonic(), attended, bool(looks[0] and looks[1]) and not self._is_staged())

    def fresh(self) -> Attendance:
        """A new record of attendance, for the next round; returns the one before."""
        before, self.attendance = self.attendance, Attendance(self._slots())
        return before

    def _slots(self) -> set[str]:
        with psycopg.connect(self._platform.state.database_url, connect_timeout=10) as connection:
            return {f"svc:{group}:{n}" for group, n in connection.execute("SELECT group_name, slot FROM runtime.slot")}


def resident(pid: int) -> tuple[int, int] | None:
    """Resident memory (now, at most so far) of a process in bytes; None if it has ended. A launcher does not count."""
    try:
        if b"launch.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return None
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return (int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        return None


def _attended(port: int) -> set[str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=0.8) as response:
            return set(ATTENDED.findall(response.read().decode()))
    except OSError:
        return set()


def _up(url: str) -> bool:
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname or "127.0.0.1", address.port or 1883), timeout=0.8):
            return True
    except OSError:
        return False


def _database_up(url: str) -> bool:
    """True if it takes writes."""
    try:
        with psycopg.connect(url, connect_timeout=2, autocommit=True) as connection:
            return connection.execute("SHOW default_transaction_read_only").fetchone() == ("off",)
    except psycopg.Error:
        return False
