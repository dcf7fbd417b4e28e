"""`python -m tests.bench.rollups`: what rollups cost per million samples, in CPU of lifecycle and of PostgreSQL.

The samples lie in the ledger as the writer left them: in the order they came, with the touch log of its transactions. Then a
hundredth of them comes late, all over the time, and is rolled up again. In a PostgreSQL of its own, without a broker.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import orjson
import psycopg
import typer

from outrider.runtime.database import Database as Pool
from outrider.runtime.session import Publisher
from outrider.servers import Postgres
from outrider.testing.fixtures import Database, prepare_database
from outrider_lifecycle.context import GROUP, Lifecycle
from outrider_lifecycle.rollups import ROWS, Rollups
from outrider_lifecycle.settings import Settings
from tests.bench.meter import cpu_s, with_descendants

SERIES = 1000
EVERY_S = 10
"""A device that sends ten metrics every ten seconds is a usual one."""
TRANSACTION_S = 60
NAME = "lifecycle-bench"

START = "SELECT date_trunc('hour', now() - make_interval(secs => %s), 'UTC') - interval '2 hours'"
FILL = """
INSERT INTO telemetry.sample
SELECT s, %(start)s::timestamptz + make_interval(secs => n * %(every)s::integer + s %% %(every)s::integer), random() * 100
FROM generate_series(%(first)s::integer, %(last)s::integer) n, generate_series(1, %(series)s::integer) s ORDER BY n / 6, s, n
"""
TOUCH = """
INSERT INTO telemetry.touched (bucket, series)
SELECT date_bin('5 minutes', t, 'epoch'), ARRAY(SELECT generate_series(1, %s::integer))
FROM generate_series(%s::timestamptz, %s::timestamptz, make_interval(secs => %s)) t
"""
LATE = """
WITH late AS (
    INSERT INTO telemetry.sample
    SELECT 1 + (random() * (%(series)s::integer - 1))::integer, %(start)s::timestamptz + random() * %(span)s::interval, 1
    FROM generate_series(1, %(count)s::integer) ON CONFLICT DO NOTHING RETURNING series_id, ts)
INSERT INTO telemetry.touched (bucket, series)
SELECT date_bin('5 minutes', ts, 'epoch'), array_agg(DISTINCT series_id) FROM late GROUP BY 1
"""
LEASE = "INSERT INTO runtime.slot (group_name, slot, holder) VALUES (%s, 0, %s)"


@dataclass(frozen=True)
class Cost:
    """Of one pass. `samples`: in order all of them; late: those that came late."""

    what: str
    samples: int
    rows: int
    seconds: float
    lifecycle_cpu_s: float
    postgresql_cpu_s: float

    @property
    def line(self) -> str:
        """For people."""
        million = self.samples / 1e6
        return (
            f"{self.what:9} {self.samples:>10,} samples  {self.rows:>9,} rows  {self.rows / self.seconds:>9,.0f} rows/s  "
            f"CPU per million samples: lifecycle {self.lifecycle_cpu_s / million:.2f} s, "
            f"PostgreSQL {self.postgresql_cpu_s / million:.2f} s"
        )


async def measure(samples: int) -> list[Cost]:
    """Fill, roll up, come late, roll up again."""
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder, Postgres(Path(folder) / "postgres") as server:
        database = prepare_database(server.url)
        rounds = max(60, samples // SERIES)
        span_s = rounds * EVERY_S
        start = database.value(START, span_s)
        days = database.rows("SELECT DISTINCT t::date FROM generate_series(%s::timestamptz, now(), '1 hour') t", start)
        database.rows("SELECT runtime.ensure_partitions('telemetry.sample', %s)", [day for (day,) in days])
        with_names = {"start": start, "every": EVERY_S, "series": SERIES}
        _execute(database, FILL, {**with_names, "first": 0, "last": rounds - 1})
        database.rows(TOUCH, SERIES, start, start + timedelta(seconds=span_s - 1), TRANSACTION_S)
        database.rows("ANALYZE telemetry.sample")
        database.rows(LEASE, GROUP, NAME)
        pool = Pool(database.service_urls[GROUP], NAME)
        await pool.open()
        try:
            lifecycle = Lifecycle(Settings(rollup_grace_s=0), pool, Publisher("mqtt://127.0.0.1:1", NAME))
            costs = [await _pass(lifecycle, server.pid, "in order", rounds * SERIES)]
            late = rounds * SERIES // 100
            _execute(database, LATE, {**with_names, "span": f"{span_s - EVERY_S} seconds", "count": late})
            costs.append(await _pass(lifecycle, server.pid, "late", late))
        finally:
            await pool.close()
        return costs


async def _pass(lifecycle: Lifecycle, postmaster: int, what: str, samples: int) -> Cost:
    rows, own, theirs, started = _rows_written(), _own_cpu_s(), _server_cpu_s(postmaster), time.perf_counter()
    await Rollups(lifecycle).catch_up()
    seconds = time.perf_counter() - started
    used = _own_cpu_s() - own, _server_cpu_s(postmaster) - theirs
    return Cost(what, samples, _rows_written() - rows, seconds, *used)


def _rows_written() -> int:
    found = [sample.value for metric in ROWS.collect() for sample in metric.samples if sample.name.endswith("_total")]
    return int(sum(found))


def _execute(database: Database, query: str, arguments: dict[str, object]) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute(query.encode(), arguments)


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _server_cpu_s(postmaster: int) -> float:
    return sum(cpu_s(pid) for pid in with_descendants(postmaster))


def main(
    samples: Annotated[int, typer.Option(min=60_000, help="Samples in the ledger.")] = 1_000_000,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Roll up samples in order, then a hundredth of them late; print what it cost."""
    costs = asyncio.run(measure(samples))
    for cost in costs:
        print(cost.line)
    if output is not None:
        output.write_bytes(orjson.dumps({"passes": [asdict(cost) for cost in costs]}))


if __name__ == "__main__":
    typer.run(main)
