"""How many status messages a second the registry's slot takes: a fleet that comes back at once.

python -m tests.experiments.presence_rate --devices 10000
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from outrider.contract import topics
from outrider.servers import Mosquitto, Postgres
from outrider.testing.fixtures import Database, prepare_database
from outrider.testing.services import connected
from outrider.testing.waiting import eventually
from outrider_registry.testing.control import control_plane

CONNECTIONS = 8


async def come_back(database: Database, url: str, devices: int, boot: int) -> tuple[float, float]:
    """Every device says that it is online; (seconds until the broker had it, until the registry had it)."""
    started = time.perf_counter()

    async def say(part: int) -> None:
        async with connected(url, f"fleet-{part}") as client:
            await asyncio.gather(
                *(
                    client.publish(
                        topics.STATUS.name(tenant="demo", device=f"d-{number}"),
                        {"state": "online", "boot": boot, "fw": "1.4.0", "tier": "esp32"},
                        retain=True,
                    )
                    for number in range(part, devices, CONNECTIONS)
                )
            )

    await asyncio.gather(*(say(part) for part in range(CONNECTIONS)))
    published_s = time.perf_counter() - started
    there = "SELECT count(*) FROM registry.presence WHERE state = 'online' AND boot = %s"
    await eventually(lambda: database.value(there, boot) == devices, 300, interval_s=0.1)
    return published_s, time.perf_counter() - started


async def measure(devices: int) -> None:
    """Start everything, let the fleet come, go and come, print."""
    with (
        tempfile.TemporaryDirectory(prefix="outrider-presence-") as folder,
        Postgres(Path(folder) / "postgres") as postgres,
        Mosquitto(Path(folder) / "mosquitto", test_account=True) as mosquitto,
    ):
        database = prepare_database(postgres.url)
        database.rows("INSERT INTO registry.tenant (name) VALUES ('demo')")
        database.rows(
            "INSERT INTO registry.device (id, tenant) SELECT 'd-' || n, 'demo' FROM generate_series(0, %s - 1) n",
            devices,
        )
        async with control_plane(database, mosquitto.url):
            for boot, what in ((1, "for the first time"), (2, "again, known and online"), (3, "after a loss")):
                if boot == 3:
                    database.rows("UPDATE registry.presence SET state = 'offline', since = now()")
                published_s, stored_s = await come_back(database, mosquitto.url, devices, boot)
                print(
                    f"{devices} devices {what}: published in {published_s:.1f} s, all stored after {stored_s:.1f} s, "
                    f"{devices / stored_s:.0f} status messages/s"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    asyncio.run(measure(parser.parse_args().devices))
