"""What the actions of a scenario act on: the platform's processes and servers, the fleet and its network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from urllib.parse import urlsplit, urlunsplit

import psycopg

from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection, Delivery
from outrider.servers import base
from outrider_cli import supervision
from outrider_cli.platform import Platform
from tests.chaos.fleet import Fleet
from tests.chaos.proxy import Proxy
from tests.identities import register

WRITABLE = "-c default_transaction_read_only=off"
SEEN_S = 1.0
"""What is true for so long, the watch has looked at."""
WAL_SEGMENT_BYTES = 16 * 1024 * 1024


def signal_to(pid: int, number: signal.Signals) -> bool:
    """Signals a process; False if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


class Stage:
    """The running platform and fleet, with the hands to hurt them; counts what it does in `counts`."""

    def __init__(self, platform: Platform, fleet: Fleet, random: Random) -> None:
        self.platform = platform
        self.fleet = fleet
        self.random = random
        self.counts: Counter[str] = Counter()
        self.away = 0
        """How many servers and services are kept stopped on purpose now."""
        self.worst: dict[str, float] = {}
        """Figures of single actions, in seconds, the worst of each kind."""
        self._replies: dict[str, Proxy] = {}

    def note_worst(self, what: str, seconds: float) -> None:
        """Keeps the longest of this kind in `worst`."""
        self.worst[what] = max(self.worst.get(what, 0.0), round(seconds, 2))

    @property
    def kills(self) -> int:
        """SIGKILLs so far."""
        return self.counts["kill -9"]

    @property
    def admin_url(self) -> str:
        """The database, with the administrator's role."""
        return self.platform.state.database_url

    def forget_short_lives(self) -> None:
        """The supervisor waits longer after each short life; a new round does not suffer for the one before."""
        for path in (self.platform.data_dir / "run").glob("*.starts"):
            path.unlink(missing_ok=True)

    def processes_of(self, service: str) -> list[str]:
        """Names of the processes of a service (or the server of that name)."""
        state = self.platform.state
        return [name for name, p in state.services.items() if p.service == service] or [service]

    async def kill(self, service: str) -> None:
        """SIGKILL for one process of a service, or for a server."""
        pid = await self.pick(service)
        if pid is not None and signal_to(pid, signal.SIGKILL):
            self.counts["kill -9"] += 1

    async def pick(self, service: str) -> int | None:
        """The id of a random process of a service (or of a server), None if that one does not run now."""
        name = self.random.choice(self.processes_of(service))
        return (await asyncio.to_thread(self._status, name)).pid

    async def service_pids(self) -> dict[str, int | None]:
        """The process of each service as it is now."""
        statuses = await asyncio.to_thread(self._socket_status)
        return {name: statuses[name].pid for name in self.platform.state.services}

    async def restart(self, service: str) -> None:
        """Graceful stop and start of one process of a service."""
        name = self.random.choice(self.processes_of(service))
        self.counts["graceful restart"] += 1
        await asyncio.to_thread(self._stop, name)
        await asyncio.to_thread(self._start, name)

    async def scale(self, service: str, count: int) -> None:
        """So many processes of a service from now on."""
        if len(self.processes_of(service)) != count:
            self.counts["scaled"] += 1
            await asyncio.to_thread(self.platform.scale, service, count)

    @contextlib.asynccontextmanager
    async def without(self, server: str) -> AsyncIterator[None]:
        """A server (or the one process of a service) is stopped gracefully and started again when the block ends."""
        self.away += 1
        try:
            await asyncio.to_thread(self._stop, server)
            self.counts[f"{server} stopped"] += 1
            yield
        finally:
            await asyncio.to_thread(self._start, server)
            self.away -= 1

    def forget_sessions(self) -> None:
        """Empties the broker's persistence folder; only while it is stopped."""
        folder = self.platform.data_dir / "mosquitto" / "sessions"
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.counts["broker wiped"] += 1

    def broker_configuration(self) -> str:
        """The broker's configuration as it is."""
        return (self.platform.data_dir / "mosquitto" / "mosquitto.conf").read_text()

    def configure_broker(self, text: str) -> None:
        """Another configuration, for the broker's next start."""
        (self.platform.data_dir / "mosquitto" / "mosquitto.conf").write_text(text)

    async def admin(self, *statements: str) -> list[tuple[object, ...]]:
        """Runs statements as the administrator, each its own transaction; rows of the last one."""
        async with await psycopg.AsyncConnection.connect(
            self.admin_url, autocommit=True, connect_timeout=5, options=WRITABLE
        ) as connection:
            for statement in statements[:-1]:
                await connection.execute(statement.encode())
            cursor = await connection.execute(statements[-1].encode())
            return await cursor.fetchall() if cursor.description else []

    async def eventually(self, query: str, wanted: int, timeout_s: float) -> None:
        """Waits until a query gives at least `wanted`. Raises AssertionError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            value: object = None
            with contextlib.suppress(psycopg.Error):
                value = (await self.admin(query))[0][0]
                if isinstance(value, int) and value >= wanted:
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"{value!r}, not {wanted}, after {timeout_s:.0f} s: {query}")
            await asyncio.sleep(0.25)

    async def until_shared(self, service: str) -> None:
        """Waits until every slot of a service has a holder, every process of it holds some, and this has been seen."""
        await self.eventually(
            "SELECT CASE WHEN bool_or(holder IS NULL) THEN 0 ELSE count(DISTINCT holder) END "
            f"FROM runtime.slot WHERE group_name = '{service}'",
            len(self.processes_of(service)),
            20,
        )
        await asyncio.sleep(SEEN_S)  # or the move that has just ended and the fault to come would look like one gap

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No file of PostgreSQL grows beyond a log segment: RLIMIT_FSIZE, which PostgreSQL treats as a full disk.

        It ignores SIGXFSZ for that purpose ("ulimit violations work like disk full", postmaster.c), needs no root, and
        spares the write-ahead log, whose segments have a fixed size. Tables that are larger already cannot grow.
        """
        self._limit_files(str(WAL_SEGMENT_BYTES))
        self.counts["disk full"] += 1
        try:
            yield
        finally:
            self._limit_files("unlimited")

    def _limit_files(self, soft_limit: str) -> None:
        """RLIMIT_FSIZE of the server and its children, as their own account: root may lack CAP_SYS_RESOURCE."""
        postmaster = self._status("postgres").pid
        assert postmaster is not None, "PostgreSQL does not run"
        owner = os.stat(f"/proc/{postmaster}")
        account = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
        for pid in (postmaster, *base.children_of(postmaster)):
            command = [shutil.which("prlimit") or "/usr/bin/prlimit", "--pid", str(pid), f"--fsize={soft_limit}:"]
            done = subprocess.run(base.launcher(command, account=account), capture_output=True, text=True, check=False)
            assert not done.returncode or not base.is_alive(pid), f"prlimit: {done.stderr}"

    async def reply_proxy(self, service: str) -> Proxy:
        """The proxy between a service's first process and PostgreSQL; made, and the process restarted, at the first use."""
        if service not in self._replies:
            name = self.processes_of(service)[0]
            url = urlsplit(self.platform.state.database_urls[service])
            proxy = Proxy(url.hostname or "127.0.0.1", url.port or 5432)
            await proxy.start()
            self._replies[service] = proxy
            through = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}")
            path = self.platform.data_dir / "run" / f"{name}.env.json"
            environment = json.loads(path.read_text()) | {"OUTRIDER_DATABASE_URL": urlunsplit(through)}
            path.write_text(json.dumps(environment))
            await asyncio.to_thread(self._stop, name)
            await asyncio.to_thread(self._start, name)
            await asyncio.to_thread(self.platform.wait_ready, 60)
        return self._replies[service]

    async def register(self, tenant: str, devices: Sequence[str]) -> dict[str, str]:
        """Registers devices; their secrets."""
        return await asyncio.to_thread(register, self.admin_url, self.platform.keys, tenant, devices)

    def accounts_file(self) -> Path:
        """The broker's identities, as its plugin keeps them."""
        return self.platform.data_dir / "mosquitto" / "dynamic-security.json"

    async def client(
        self,
        client_id: str,
        on_delivery: Callable[[Delivery], None] = lambda _: None,
        *,
        url: str = "",
        timeout_s: float = 10.0,
        **options: object,
    ) -> Connection:
        """A connection straight to the broker, which may do everything unless the `url` names another account.

        Raises AssertionError if there is none within `timeout_s`.
        """
        settings = {"clean_start": True, "session_expiry_s": 0, "receive_maximum": 100, **options}
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(Transient):
                return await Connection.open(
                    url or self.platform.test_url,
                    client_id,
                    on_delivery,
                    **settings,  # type: ignore[arg-type]
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"{client_id} cannot connect to the broker")
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Ends the proxies; the platform and the fleet are the caller's."""
        for proxy in self._replies.values():
            await proxy.stop()

    def _socket_status(self) -> dict[str, supervision.Status]:
        return supervision.all_statuses(self.platform.state.supervisor_socket)

    def _status(self, name: str) -> supervision.Status:
        return self._socket_status()[name]

    def _stop(self, name: str) -> None:
        socket = self.platform.state.supervisor_socket
        if self._status(name).state in supervision.RUNNING_STATES:
            supervision.call(socket, "stopProcess", supervision.address_of(socket, name))

    def _start(self, name: str) -> None:
        socket = self.platform.state.supervisor_socket
        # a stop on purpose is no short life: the next start waits for nothing
        (self.platform.data_dir / "run" / f"{name}.starts").unlink(missing_ok=True)
        if self._status(name).state not in supervision.RUNNING_STATES:
            supervision.call(socket, "startProcess", supervision.address_of(socket, name), False)
