"""`python -m tests.bench.resegment`: what trips cost, in CPU of the service and of PostgreSQL.

Rows of evidence are stored as the consumer stores them; then every vehicle's open trip gets one message more, again and again, as
when it drives; then rows of an hour ago come late for every vehicle. In a PostgreSQL of its own, without a broker.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer

from outrider.servers import Postgres
from outrider.testing.fixtures import prepare_database
from outrider_trips import metrics
from outrider_trips.settings import Settings
from outrider_trips.testing import MINUTE, CrashingPool, Fleet, Row, drive
from tests.bench.meter import cpu_s, with_descendants

EVERY_S = 10
DRIVE_MINUTES = 30
DRIVES = 4
"""A day of a vehicle before the open trip: drives of half an hour with as long a rest between."""


@dataclass(frozen=True)
class Cost:
    """Of one pass. `rows`: stored or read."""

    what: str
    unit: str
    done: int
    rows: int
    seconds: float
    trips_cpu_s: float
    postgresql_cpu_s: float

    @property
    def line(self) -> str:
        """For people."""
        own, theirs = (1000 * cpu / self.done for cpu in (self.trips_cpu_s, self.postgresql_cpu_s))
        return (
            f"{self.what:30} {self.done:>7,} {self.unit:13} {self.done / self.seconds:>7,.0f}/s  "
            f"{self.rows / self.done:>5,.0f} rows each  CPU each: trips {own:.2f} ms, PostgreSQL {theirs:.2f} ms"
        )


async def measure(vehicles: int) -> list[Cost]:
    """Store, drive on, come late."""
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder, Postgres(Path(folder) / "postgres") as server:
        database = prepare_database(server.url)
        database.rows("SELECT runtime.declare_slots('trips', 1)")
        pool = CrashingPool(database.service_urls["trips"], "trips-bench")
        await pool.open()
        try:
            settings = Settings(trips_interval_min_s=0, trips_interval_max_s=0)  # type: ignore[call-arg]
            fleet = Fleet(database, pool, settings)
            names = [f"van-{n}" for n in range(vehicles)]
            now_ms = time.time_ns() // 1_000_000 - DRIVE_MINUTES * MINUTE
            past = [
                row
                for n in range(DRIVES)
                for row in drive(now_ms - (DRIVES - n) * 60 * MINUTE, DRIVE_MINUTES, 52 + n * 0.28, EVERY_S)
            ]
            late = [row for row in past if row["ts"] > past[-1]["ts"] - 10 * MINUTE]
            kept = [row for row in past if row not in late]
            on = drive(now_ms, DRIVE_MINUTES, 52 + DRIVES * 0.28, EVERY_S)

            async def feed(rows: list[Row]) -> int:
                for name in names:
                    await fleet.feed(name, rows, received_ms=on[-1]["ts"])
                return len(rows) * vehicles

            async def drive_on() -> int:
                done = 0
                for row in on[-40:-35]:
                    await feed([row])
                    done += await fleet.work()
                return done

            costs = [await _pass(server.pid, "store", "rows", lambda: feed(kept))]
            await feed(on[:-40])
            costs.append(await _pass(server.pid, "first look", "vehicles", fleet.work))
            costs.append(await _pass(server.pid, "message stored, trip goes on", "segmentations", drive_on))
            await feed(late)
            costs.append(await _pass(server.pid, "ten minutes that come late", "segmentations", fleet.work))
        finally:
            await pool.close()
        return costs


async def _pass(postmaster: int, what: str, unit: str, work: Callable[[], Awaitable[int]]) -> Cost:
    rows, own, theirs, started = _rows(), _own_cpu_s(), _server_cpu_s(postmaster), time.perf_counter()
    done = await work()
    seconds = time.perf_counter() - started
    used = _own_cpu_s() - own, _server_cpu_s(postmaster) - theirs
    return Cost(what, unit, done, max(_rows() - rows, done if unit == "rows" else 0), seconds, *used)


def _rows() -> int:
    return int(next(s.value for m in metrics.WINDOW_ROWS.collect() for s in m.samples if s.name.endswith("_total")))


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _server_cpu_s(postmaster: int) -> float:
    return sum(cpu_s(pid) for pid in with_descendants(postmaster))


def main(
    vehicles: Annotated[int, typer.Option(min=1, help="Vehicles that drive at once.")] = 200,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Store rows, segment what they touch, segment again what comes late; print what it cost."""
    costs = asyncio.run(measure(vehicles))
    for cost in costs:
        print(cost.line)
    if output is not None:
        output.write_bytes(orjson.dumps({"passes": [asdict(cost) for cost in costs]}))


if __name__ == "__main__":
    typer.run(main)
