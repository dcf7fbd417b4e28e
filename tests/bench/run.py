"""Runs one load on a new platform: warm-up, a measured window at full speed, one at half speed, drain, count."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outrider.runtime import migrate
from outrider.servers.mosquitto import PERSISTENCE_VARIABLE
from outrider_cli import supervision
from outrider_cli.platform import Platform
from tests.bench import ledger, meter
from tests.bench.driver import Driver, LoadFailure
from tests.bench.loads import Load
from tests.bench.machine import database_facts, persistence_of
from tests.bench.peers import Peer, peers

COVER_S = 600.0
DRAIN_S = 120.0
WARM_S = 5.0
CREDIT_S = 0.5

Progress = Callable[[str, Mapping[str, Any]], None]
"""Called about twice a second: what is done now, and the generator's counts."""
Committed = Callable[[], Awaitable[int]]
"""Samples committed so far."""


@dataclass(frozen=True)
class Options:
    """How long each phase takes, and how many replicas ingest and writer-timeseries have."""

    seconds: float = 60.0
    half_seconds: float = 20.0
    replicas: int = 1


@contextlib.asynccontextmanager
async def started(scale: Mapping[str, int], persistence: str = "sqlite") -> AsyncIterator[Platform]:
    """A platform in a new folder, ready. Everything is stopped and removed at the end."""
    before = os.environ.get(PERSISTENCE_VARIABLE)
    os.environ[PERSISTENCE_VARIABLE] = persistence
    # a short path outside the checkout, which the account of root's PostgreSQL may enter
    folder = tempfile.mkdtemp(prefix="outrider-bench-")
    os.chmod(folder, 0o711)
    platform = Platform(Path(folder, "data"), scale=scale, test_account=True)
    try:
        await asyncio.to_thread(platform.start)
        await asyncio.to_thread(platform.wait_ready, 120)
        yield platform
    finally:
        await asyncio.to_thread(platform.stop)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if before is None:
            del os.environ[PERSISTENCE_VARIABLE]
        else:
            os.environ[PERSISTENCE_VARIABLE] = before


def servers_only(*, with_registry: bool = False) -> contextlib.AbstractAsyncContextManager[Platform]:
    """The same broker and PostgreSQL without our services, for ceilings; for peers with the registry, which lets the
    devices in and has nothing to do after that."""
    return started(dict.fromkeys(migrate.packages(), 0) | {"registry": int(with_registry)})


async def measure(load: Load, options: Options, progress: Progress) -> dict[str, Any]:
    """One load on a new platform. LoadFailure where the load could not be made; losses are figures, not failures."""
    # What peers do, too: the way into the ledger. Trips and rollups have benchmarks of their own.
    scale = {
        "ingest": options.replicas,
        "writer-timeseries": options.replicas,
        "trips": 0,
        "lifecycle": 0,
        "gateway": 0,
    }
    async with started(scale, load.persistence) as platform, Driver(load, platform) as driver:
        ports = [p.http_port for p in platform.state.services.values() if p.service == "writer-timeseries"]

        async def committed() -> int:
            return sum(await asyncio.gather(*(asyncio.to_thread(ledger.committed, port) for port in ports if port)))

        bench = Bench(platform, load, driver, committed)
        async with bench.watched(progress):
            await bench.cover()
            full = await bench.window("full load", load.rate, options.seconds)
            half = None
            if load.rate is None and options.half_seconds:
                half = await bench.window("half load", full["messages_per_s"] / 2, options.half_seconds)
            final = await driver.mark()
            by_metric = await committed()
            bench.phase = "rows are counted"
            rows = await asyncio.to_thread(ledger.count, platform.state.database_url)
        expected = final["acked"] * load.samples
        return bench.result(options) | {
            "full": full,
            "half": half,
            "sent": final["sent"],
            "acked": final["acked"],
            "unacked": final["in_flight"],
            "rejected": final["rejected"],
            "resent": final["resent"],
            "committed_by_metric": by_metric,
            **rows,
            "expected_rows": expected,
            "lost": max(0, expected - rows["rows"]),
            # what was sent and not acked may be stored all the same
            "duplicated": max(0, rows["rows"] - final["sent"] * load.samples),
        }


async def measure_peer(index: int, load: Load, options: Options, progress: Progress) -> tuple[str, dict[str, Any]]:
    """(name, figures) of the peer of that index in `peers.peers()`, on servers of its own.

    It sends no application acks: the generator keeps as many messages under way beyond what is in the peer's table as
    it keeps without ack for us.
    """
    async with servers_only(with_registry=True) as platform:
        peer = found_peers(platform, load)[index]
        await peer.start()
        try:
            async with Driver(load, platform, acks=False) as driver:
                bench = Bench(platform, load, driver, peer.committed, peer.pids)
                async with bench.watched(progress), _credit(driver, peer, load):
                    await bench.cover()
                    full = await bench.window("full load", None, options.seconds)
                    final, committed = await driver.mark(), await peer.committed()
        finally:
            await peer.stop()
        return peer.name, bench.result(options) | {
            "full": full,
            "half": None,
            "sent": final["sent"],
            "committed": committed,
            "lost": max(0, final["sent"] * load.samples - committed),
            "duplicated": max(0, committed - final["sent"] * load.samples),
        }


def found_peers(platform: Platform, load: Load) -> list[Peer]:
    """The peers found on this machine, for these servers and this load."""
    folder = platform.data_dir / "peers"
    folder.mkdir(exist_ok=True)
    return peers(platform.test_url, platform.state.database_url, folder, samples_per_message=load.samples)


@contextlib.asynccontextmanager
async def _credit(driver: Driver, peer: Peer, load: Load) -> AsyncIterator[None]:
    async def give() -> None:
        while True:
            driver.credit(await peer.committed() // load.samples)
            await asyncio.sleep(CREDIT_S)

    giving = asyncio.create_task(give())
    try:
        yield
    finally:
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)


@dataclass(frozen=True)
class _Counts:
    """Everything at one edge of a window, each with its own time: on a busy machine an answer may take a while."""

    reading: meter.Reading
    sent: int
    acked: int
    latency: Mapping[str, Any]
    acked_at_s: float
    committed: int
    committed_at_s: float


class Bench:
    """What belongs together while a load runs on a platform."""

    def __init__(
        self,
        platform: Platform,
        load: Load,
        driver: Driver,
        committed: Committed,
        peer_pids: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.phase = ""
        self._platform = platform
        self._load = load
        self._driver = driver
        self._committed = committed
        self._peer_pids = peer_pids
        self._processes: dict[str, list[int]] = {}
        self._restarts = 0
        self._memory = meter.MemoryWatch(lambda: self._processes)

    @contextlib.asynccontextmanager
    async def watched(self, progress: Progress) -> AsyncIterator[None]:
        """Memory is looked at and progress is told meanwhile."""
        self._processes = await asyncio.to_thread(self._running)

        async def tell() -> None:
            while True:
                progress(self.phase, self._driver.latest)
                await asyncio.sleep(0.5)

        beside = [asyncio.create_task(self._memory.run()), asyncio.create_task(tell())]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def cover(self) -> None:
        """One message of every device is stored, so that every series is known."""
        self.phase = "every device once"
        await self._driver.send(self._load.devices)
        if not await self._driver.drained(COVER_S):
            raise LoadFailure(f"not every device's first message was stored within {COVER_S:.0f} s")

    async def window(self, phase: str, rate: float | None, seconds: float) -> dict[str, Any]:
        """Load at this rate, warm for a while, measured for `seconds`, then stopped and drained; its figures."""
        driver = self._driver
        self.phase = f"{phase}, warm-up"
        await driver.rate(rate)
        await asyncio.sleep(min(WARM_S, seconds))
        first = await self._counts()
        self.phase = f"{phase}, measured"
        await asyncio.sleep(seconds)
        final = await self._counts()
        self.phase = f"{phase}, drain"
        await driver.rate(0)
        await driver.drained(DRAIN_S)
        used = meter.used(first.reading, final.reading)
        messages = final.acked - first.acked
        committed = final.committed - first.committed
        return {
            "seconds": used.seconds,
            "rate_wanted": rate,
            "sent": final.sent - first.sent,
            "messages": messages,
            "messages_per_s": messages / (final.acked_at_s - first.acked_at_s),
            "committed": committed,
            "samples_per_s": committed / (final.committed_at_s - first.committed_at_s),
            "cpu_s": used.cpu_s,
            "busy_share": used.busy_share,
            "latency": final.latency,
        }

    async def _counts(self) -> _Counts:
        reading = await asyncio.to_thread(self._read)
        mark = await self._driver.mark()
        acked_at_s = time.monotonic()
        committed = await self._committed()
        return _Counts(reading, mark["sent"], mark["acked"], mark["latency"], acked_at_s, committed, time.monotonic())

    def result(self, options: Options) -> dict[str, Any]:
        """What every result says, whoever was measured."""
        return {
            "load": asdict(self._load),
            "samples": self._load.samples,
            "replicas": options.replicas,
            "peak_bytes": dict(self._memory.peak_bytes),
            "restarts": self._restarts,
            "versions": dict(self._platform.state.versions),
            "persistence": persistence_of(self._platform.data_dir),
            "database": database_facts(self._platform.state.database_url),
        }

    def _running(self) -> dict[str, list[int]]:
        """Process ids by component."""
        state = self._platform.state
        found: dict[str, list[int]] = {"generator": [self._driver.pid]}
        statuses = supervision.all_statuses(state.supervisor_socket)
        for name, process in {**state.servers, **state.services}.items():
            pids = found.setdefault(process.service, [])
            pid = statuses[name].pid
            if pid is not None:
                pids.append(pid)
        for name, pid in self._peer_pids().items():
            found[name] = [pid]
        return found

    def _read(self) -> meter.Reading:
        processes = self._running()
        self._restarts += processes != self._processes
        self._processes = processes
        return meter.read(processes)
