"""How long the broker's accounts of a whole fleet take: to be filled in, to be compared, and for the fleet to come back.

    python -m tests.experiments.registry_scale --devices 10000 [--mosquitto 2.0]

Private Mosquitto and PostgreSQL, the registry's leader with the broker's duties in a process of its own. Devices with their
credentials are put straight into the database, so what is measured is the way from there to the broker. The simulated
devices subscribe to their acks and publish a retained status, as the real ones do, and retry with jittered backoff.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from outrider.contract import topics
from outrider.runtime.backoff import Backoff
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.mqtt import Connection
from outrider.servers import Mosquitto, Postgres, base, mosquitto
from outrider.testing.fixtures import Database, prepare_database
from outrider_registry.broker import metrics
from outrider_registry.testing import KEYS
from outrider_registry.testing.broker import At, Fleet, leading, leading_at

TENANTS = 10
SAMPLE = 50
IMPORT_ROWS = 1000
"""As many as one call of the import takes: one transaction each."""
CONNECTING = 500
"""Simulated devices that open their connections at the same moment, at most: this process is one."""


class Figures(dict[str, float]):
    """Seconds by what was measured; told as soon as they are known."""

    def __setitem__(self, what: str, seconds: float) -> None:
        super().__setitem__(what, seconds)
        print(f"{what:45} {seconds:8.1f} s", flush=True)


class Device:
    """A device that comes back whenever it is thrown out."""

    def __init__(self, at: At, tenant: str, name: str, doors: asyncio.Semaphore) -> None:
        self._at, self._tenant, self.name, self._doors = at, tenant, name, doors
        self.connected = False
        self.refusals = 0

    async def run(self) -> None:
        backoff = Backoff(1.0, 15.0)
        status = topics.STATUS.name(tenant=self._tenant, device=self.name)
        ack = topics.ACK.name(tenant=self._tenant, device=self.name)
        will = (status, b'{"state":"offline","reason":"will"}', 1, True)
        while True:
            try:
                async with self._doors:
                    connection = await self._at.connect(self._at.device_url(self.name), will=will, timeout_s=30)
                    await connection.subscribe([ack], qos=0)
                    await _publish(connection, status, b'{"state":"online"}')
                self.connected = True
                backoff.reset()
                await connection.closed.wait()
                self.connected = False
            except Transient:
                self.refusals += 1
            await asyncio.sleep(backoff.next_s())


async def _publish(connection: Connection, topic: str, payload: bytes) -> None:
    with suppress(NotStored):  # retained all the same
        await connection.publish(topic, payload, retain=True)


async def measure(devices: int, series: str, folder: Path) -> Figures:
    """All of it."""
    found = Figures()
    names = [f"device-{number:05d}" for number in range(devices)]
    tenant_of = {name: f"tenant-{number % TENANTS}" for number, name in enumerate(names)}
    with Postgres(folder / "postgres") as postgres:
        database = prepare_database(postgres.url)
        with Mosquitto(folder / "mosquitto", program=mosquitto.find(series=series), keys=KEYS) as server:
            at, fleet = At(server), Fleet(database)
            print(
                f"Mosquitto {server.version}, {devices:,} devices of {TENANTS} tenants, {os.cpu_count()} CPUs",
                flush=True,
            )
            fleet.tenant(*sorted(set(tenant_of.values())))
            with _leader(database, server):
                await _until(lambda: _has_role(server), "leading")
                broker_s = _cpu_s(server)
                # Imported while the leader runs, as people do: it fills in what is there while more comes.
                began = time.monotonic()
                for start in range(0, devices, IMPORT_ROWS):
                    part = names[start : start + IMPORT_ROWS]
                    for tenant in sorted(set(map(tenant_of.__getitem__, part))):
                        await asyncio.to_thread(fleet.devices, tenant, *(n for n in part if tenant_of[n] == tenant))
                found["rows inserted"] = time.monotonic() - began
                await _until(lambda: _accounts(server) >= devices, "filling", lambda: f"{_accounts(server):,} accounts")
                assert all(
                    [await at.lets_in(at.device_url(name)) for name in random.sample(names, min(SAMPLE, devices))]
                )
                found["imported devices usable"] = time.monotonic() - began
                found["  of it the broker's CPU"] = _cpu_s(server) - broker_s
            found["whole comparison, intact"] = await _compared(database, server)
            await _come_back(at, database, names, tenant_of, found)
    return found


@contextmanager
def _leader(database: Database, server: Mosquitto) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.experiments.registry_scale", "--lead"]
    command += [database.service_urls["registry"], server.url_of("registry"), str(server.dynsec_file)]
    with subprocess.Popen(base.launcher(command, death_signal=signal.SIGTERM)) as process:
        try:
            yield
        finally:
            process.terminate()


async def _lead(database_url: str, mqtt_url: str, file: str) -> None:
    async with leading_at(database_url, mqtt_url, dynsec_file=Path(file)):
        await asyncio.Event().wait()


def _has_role(server: Mosquitto) -> bool:
    return b'"denied"' in server.dynsec_file.read_bytes()


def _cpu_s(server: Mosquitto) -> float:
    """CPU seconds of the broker so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _accounts(server: Mosquitto) -> int:
    """Accounts of devices in the file, which the broker writes after every batch or command."""
    try:
        return server.dynsec_file.read_bytes().count(b'"device-') // (2 if server.version.startswith("2.1") else 1)
    except OSError:
        return 0


async def _compared(database: Database, server: Mosquitto) -> float:
    before = server.dynsec_file.stat().st_mtime_ns
    count, seconds = _histogram()
    async with leading(database, server, reconcile_interval_s=1.0):
        await _until(lambda: _histogram()[0] >= count + 3, "comparing")
    assert server.dynsec_file.stat().st_mtime_ns == before, "an intact broker was changed"
    now_count, now_seconds = _histogram()
    return (now_seconds - seconds) / (now_count - count)


def _histogram() -> tuple[float, float]:
    samples = {
        s.name.rpartition("_")[2]: s.value
        for metric in metrics.SECONDS.collect()
        for s in metric.samples
        if not s.labels
    }
    return samples["count"], samples["sum"]


async def _come_back(at: At, database: Database, names: list[str], tenant_of: dict[str, str], found: Figures) -> None:
    doors = asyncio.Semaphore(CONNECTING)
    fleet = [Device(at, tenant_of[name], name, doors) for name in names]
    began = time.monotonic()
    tasks = [asyncio.create_task(device.run()) for device in fleet]

    def connected() -> int:
        return sum(device.connected for device in fleet)

    def shown() -> str:
        return f"{_accounts(at.server):,} accounts, {connected():,} connected"

    async def all_back(what: str) -> float:
        await _until(lambda: connected() == len(fleet), what, shown)
        return time.monotonic() - began

    try:
        found["first connection of all"] = await all_back("connecting")
        with _leader(database, at.server):
            began = time.monotonic()
            await asyncio.to_thread(at.server.stop)
            await asyncio.to_thread(at.server.start)
            await _until(lambda: connected() < len(fleet), "noticing")
            found["all back after a restart of the broker"] = await all_back("restart")
            began = time.monotonic()
            await asyncio.to_thread(at.server.kill)
            at.server.dynsec_file.unlink()
            await asyncio.to_thread(at.server.start)
            await _until(lambda: _accounts(at.server) >= len(fleet), "accounts lost", shown)
            found["accounts there again after they were lost"] = time.monotonic() - began
            found["all back after that"] = await all_back("accounts lost")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _until(condition: Callable[[], bool], what: str, shown: Callable[[], str] = str) -> None:
    began, told = time.monotonic(), 0.0
    while not condition():
        now = time.monotonic()
        if now - told > 5:
            told = now
            print(f"  {what}: {now - began:.0f} s {shown()}", file=sys.stderr, flush=True)
        if now - began > 1800:
            raise SystemExit(f"{what}: not within half an hour")
        await asyncio.sleep(0.1)


def main(
    devices: Annotated[int, typer.Option(help="How many.", min=TENANTS)] = 10_000,
    series: Annotated[str, typer.Option("--mosquitto", help="2.1 or 2.0.")] = "2.1",
    lead: Annotated[tuple[str, str, str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Fill a broker with the accounts of a fleet, compare, and let the fleet come back."""
    if lead:
        with suppress(KeyboardInterrupt):
            asyncio.run(_lead(*lead))
        return
    with tempfile.TemporaryDirectory(prefix=f"outrider-scale-{secrets.token_hex(2)}-") as folder:
        asyncio.run(measure(devices, series, Path(folder)))


if __name__ == "__main__":
    typer.run(main)
