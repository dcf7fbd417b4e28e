"""`python -m tests.bench.resegment`: what trips cost, in CPU of the service and of PostgreSQL.

Rows of evidence are stored as the consumer stores them; then every vehicle's open trip gets one message more, again and again, as
when it drives; then rows of an hour ago come late for every vehicle. Then vehicles deliver for ten hours, a row each ten
seconds, and what they cost in the second and in the last half hour is compared. In a PostgreSQL of its own, without a broker.
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
ROUND_MINUTES = 20
"""Of a day of deliveries: 16 minutes of driving with a red light in the middle, then a rest."""
DAY_HOURS = 10
LIVE_MINUTES = 30


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

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(
            self.what,
            self.unit,
            self.done + other.done,
            self.rows + other.rows,
            self.seconds + other.seconds,
            self.trips_cpu_s + other.trips_cpu_s,
            self.postgresql_cpu_s + other.postgresql_cpu_s,
        )

    @property
    def line(self) -> str:
        """For people."""
        own, theirs = (1000 * cpu / max(1, self.done) for cpu in (self.trips_cpu_s, self.postgresql_cpu_s))
        return (
            f"{self.what:30} {self.done:>7,} {self.unit:13} {self.done / self.seconds:>7,.0f}/s  "
            f"{self.rows / max(1, self.done):>5,.0f} rows each  CPU each: trips {own:.2f} ms, PostgreSQL {theirs:.2f} ms"
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


def deliveries(start_ms: int) -> list[Row]:
    """A day of rounds; at rest the engine is off and the device reports on."""
    found: list[Row] = []
    steps = ROUND_MINUTES * 60 // EVERY_S
    for step in range(DAY_HOURS * 3600 // EVERY_S):
        place = step % steps
        moving = place < 0.8 * steps and place not in range(40, 44)
        lat = (found[-1]["lat"] if found else 52.0) + (EVERY_S / 60 * 0.009 if moving else 0)
        values: Row = {"ts": start_ms + step * EVERY_S * 1000, "lat": lat, "lon": 13.0, "speed_kmh": 60.0 * moving}
        found.append(values | {"ignition": place < 0.8 * steps})
    return found


async def measure_day(vehicles: int) -> list[Cost]:
    """What live rows cost in the second and in the last half hour of a day."""
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder, Postgres(Path(folder) / "postgres") as server:
        database = prepare_database(server.url)
        database.rows("SELECT runtime.declare_slots('trips', 1)")
        pool = CrashingPool(database.service_urls["trips"], "trips-bench")
        await pool.open()
        try:
            fleet = Fleet(database, pool, Settings(trips_interval_min_s=0, trips_interval_max_s=0))  # type: ignore[call-arg]
            names = [f"van-{n}" for n in range(vehicles)]
            rows = deliveries(time.time_ns() // 1_000_000 // 1000 * 1000 - DAY_HOURS * 60 * MINUTE)
            live = LIVE_MINUTES * 60 // EVERY_S
            costs = []
            for what, begin in (("second half hour of a day", live), ("last half hour of a day", len(rows) - live)):
                known = live if costs else 0
                for place in range(known + (live if costs else 0), begin, live):
                    await fleet.feed_all(dict.fromkeys(names, rows[place : min(place + live, begin)]))
                await fleet.work()

                async def store(batch: list[Row]) -> int:
                    await fleet.feed_all(dict.fromkeys(names, batch))
                    return len(batch) * vehicles

                spent = [
                    Cost(f"{what}, store", "rows", 0, 0, 0, 0, 0),
                    Cost(f"{what}, trips", "segmentations", 0, 0, 0, 0, 0),
                ]
                for row in rows[begin : begin + live]:
                    for n, work in enumerate((lambda row=row: store([row]), fleet.work)):
                        spent[n] = spent[n].plus(await _pass(server.pid, spent[n].what, spent[n].unit, work))
                costs += spent
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
    vehicles: Annotated[int, typer.Option(min=0, help="Vehicles that drive at once; 0: none.")] = 200,
    live: Annotated[int, typer.Option(min=1, help="Vehicles that deliver for a day.")] = 50,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Store rows, segment what they touch, segment again what comes late; print what it cost."""
    costs = asyncio.run(measure(vehicles)) if vehicles else []
    for cost in costs:
        print(cost.line)
    day = asyncio.run(measure_day(live))
    for cost in day:
        print(cost.line)
    for store, trips in zip(day[::2], day[1::2], strict=True):
        for cpu, who in ((trips.trips_cpu_s, "trips"), (trips.postgresql_cpu_s, "PostgreSQL")):
            share = cpu / (live * LIVE_MINUTES * 60)
            print(
                f"{trips.what}: {1000 * cpu / store.rows * 1000:,.0f} ms of CPU of {who} per 1,000 positions beyond storing them, "
                f"{1 / share:,.0f} vehicles a core"
            )
    if output is not None:
        output.write_bytes(orjson.dumps({"passes": [asdict(cost) for cost in costs + day]}))


if __name__ == "__main__":
    typer.run(main)
