"""`python -m tests.bench.queries`: how long the documented questions take over a month of a large fleet's rollups.

It fills rollups, raw samples and trips directly (COPY and SQL, seeded: the same every time) in a PostgreSQL of its own, as
lifecycle and trips would have left them, and asks the gateway's API in this process, without its cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, cast

import httpx
import numpy as np
import orjson
import psutil
import psycopg
import typer
from numpy.typing import NDArray

from outrider.runtime.database import Database as Pool
from outrider.servers import Postgres
from outrider.testing.fixtures import Database, prepare_database
from outrider_gateway.access import Access, digest
from outrider_gateway.api import build_api
from outrider_gateway.context import Gateway
from outrider_gateway.queries import Queries
from outrider_gateway.settings import Settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PG_EPOCH_MS = 946_684_800_000
METRICS = ("speed_kmh", "soc_pct", "temp_c")
HOUR, DAY = 3_600_000, 86_400_000
SEED = 20251125
DETAILED = 100
"""Devices that also have 5 min, 1 min and raw, as many devices would take the machine's disk and an hour."""
RAW_STEP_MS = 10_000
TRIPS_A_DAY = 3
ROLLUP = np.dtype(
    [("n", ">i2")]
    + [
        (f"{name}{part}", kind)
        for name, kinds in (
            ("id", (">i4", ">i4")),
            ("ts", (">i4", ">i8")),
            ("count", (">i4", ">i4")),
            ("sum", (">i4", ">f8")),
            ("min", (">i4", ">f8")),
            ("max", (">i4", ">f8")),
            ("first", (">i4", ">f8")),
            ("last", (">i4", ">f8")),
        )
        for part, kind in zip(("_length", ""), kinds, strict=True)
    ]
)
SAMPLE = np.dtype([(name, kind) for name, kind in ROLLUP.descr[:5]] + [("value_length", ">i4"), ("value", ">f8")])
COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
TRIPS = """
INSERT INTO trips.trip (id, vehicle, tenant, device, state, micro, edited, start_at, end_at, start_lat, start_lon, end_lat, end_lon,
    distance_km, duration_s, moving_s, idle_s, stop_s, max_speed_kmh, start_reason, end_reason, confidence, evidence, detail)
SELECT gen_random_uuid(), v.id, v.tenant, v.device, 'final', false, false, s.at, s.at + interval '40 minutes', 50, 8, 50.1, 8.1,
       12 + v.id %% 17, 2400, 2000, 200, 200, 90 + v.id %% 30, 'speed', 'resume_window', 0.9, 'speed',
       '{"track": "_p~iF~ps|U_ulLnnqC_mqNvxq`@"}'
FROM trips.vehicle v CROSS JOIN generate_series(0, %(trips)s - 1) n
CROSS JOIN LATERAL (SELECT %(day)s::timestamptz + n * interval '5 hours' + (v.id %% 60) * interval '1 minute' AS at) s
"""


@dataclass
class Question:
    """A documented question, how often it is asked, and what it may take (p95)."""

    name: str
    path: Callable[[int], str]
    params: Callable[[int], dict[str, Any]]
    times: int
    target_s: float | None = None


class Filling:
    """Fills one database."""

    def __init__(self, database: Database, devices: int, days: int, tell: Callable[[str], None]) -> None:
        self._database = database
        self._devices = devices
        self._days = days
        self._tell = tell
        self._random = np.random.default_rng(SEED)
        self.now_ms = int(time.time() * 1000) // HOUR * HOUR
        """The hour in which nothing is rolled up yet begins here."""
        self.start_ms = self.now_ms // DAY * DAY - (days - 1) * DAY
        self.rows: dict[str, int] = {}

    def all(self) -> None:
        """Everything, in the order of the tables' sizes."""
        with psycopg.connect(self._database.admin_url, autocommit=True) as self._connection:
            self._connection.execute("SET synchronous_commit = off")
            self._register()
            ids = np.arange(1, self._devices * len(METRICS) + 1, dtype=np.int64)
            few = ids[: min(DETAILED, self._devices) * len(METRICS)]
            today = self.now_ms // DAY * DAY
            with self._without_key("lifecycle.rollup_1h"):
                self._rollups("lifecycle.rollup_1h", ids, HOUR, self.start_ms, self.now_ms, 360)
            with self._without_key("lifecycle.rollup_5m"):
                self._rollups("lifecycle.rollup_5m", few, 300_000, self.start_ms, self.now_ms, 30)
            self._rollups("lifecycle.rollup_1m", few, 60_000, today - DAY, self.now_ms, 6)
            self._samples(few, today - DAY, self.now_ms)
            self._samples(ids, self.now_ms, self.now_ms + 300_000)
            self._connection.execute(
                "INSERT INTO telemetry.touched (bucket, series) SELECT %s, %s FROM generate_series(1, 30)",
                (moment(self.now_ms), ids.tolist()),
            )
            self._connection.execute("UPDATE lifecycle.tier SET complete_before = %s", (moment(self.now_ms),))
            self._trips()
            self._tell("ANALYZE")
            self._connection.execute("VACUUM (ANALYZE)")

    def sizes(self) -> str:
        """Rows and bytes of each table."""
        with psycopg.connect(self._database.admin_url, autocommit=True) as connection:
            lines = []
            for table, rows in self.rows.items():
                found = connection.execute(
                    "SELECT coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size(%s)) FROM pg_partition_tree(%s)",
                    (table, table),
                ).fetchone()
                lines.append(f"{table:24} {rows:>12,} rows {int(found[0] if found else 0) / 1e6:>8,.0f} MB")
        return "\n".join(lines)

    def _register(self) -> None:
        self._tell("devices and series")
        run = self._connection.execute
        run("SET outrider.tenant = '*'")
        run("INSERT INTO registry.tenant (name) VALUES ('bench')")
        run(
            "INSERT INTO registry.device (id, tenant, type, tags) SELECT 'vehicle-' || lpad(n::text, 5, '0'), 'bench', "
            "CASE n %% 4 WHEN 0 THEN 'truck' ELSE 'van' END, CASE n %% 10 WHEN 0 THEN ARRAY['depot-7'] ELSE '{}' END "
            "FROM generate_series(1, %s) n",
            (self._devices,),
        )
        run(
            "INSERT INTO telemetry.series (tenant, device, metric, kind) SELECT 'bench', 'vehicle-' || lpad(n::text, 5, '0'), m, "
            "'number' FROM generate_series(1, %s) n CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS u(m, o) ORDER BY n, o",
            (self._devices, list(METRICS)),
        )
        days = [moment(self.start_ms + n * DAY).date() for n in range(self._days + 1)]
        for table in ("lifecycle.rollup_1h", "lifecycle.rollup_5m", "lifecycle.rollup_1m", "telemetry.sample"):
            run("SELECT runtime.ensure_partitions(%s, %s)", (table, days))

    @contextmanager
    def _without_key(self, table: str) -> Iterator[None]:
        """The primary key is made afterwards, which is what a month of work in small steps comes to, and much quicker."""
        name = table.rpartition(".")[2] + "_pkey"
        self._connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        yield
        self._tell(f"{table}: primary key")
        self._connection.execute("SET maintenance_work_mem = '1GB'")
        self._connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY (series_id, ts)")

    def _rollups(self, table: str, ids: NDArray[np.int64], width: int, start: int, end: int, count: int) -> None:
        """In order of time and then of the series, as lifecycle makes them."""
        buckets = np.arange(start, end, width, dtype=np.int64)
        step = max(1, 500_000 // len(ids))
        for at in range(0, len(buckets), step):
            part = buckets[at : at + step]
            rows = np.zeros(len(part) * len(ids), ROLLUP)
            self._key(rows, np.tile(ids, len(part)), np.repeat(part, len(ids)), 8)
            for name in ("count", "sum", "min", "max", "first", "last"):
                rows[f"{name}_length"] = rows.dtype[name].itemsize
            middle = self._random.uniform(20, 90, len(rows))
            rows["count"], rows["sum"] = count, middle * count
            rows["min"], rows["max"], rows["first"], rows["last"] = middle - 9, middle + 9, middle - 2, middle + 2
            self._copy(table, "series_id, ts, count, sum, min, max, first, last", rows)
            self._tell(f"{table}: {moment(int(part[-1])):%Y-%m-%d %H:%M}")

    def _samples(self, ids: NDArray[np.int64], start: int, end: int) -> None:
        step = max(1, 500_000 // len(ids))
        times = np.arange(start, end, RAW_STEP_MS, dtype=np.int64)
        for at in range(0, len(times), step):
            part = times[at : at + step]
            rows = np.zeros(len(part) * len(ids), SAMPLE)
            self._key(rows, np.tile(ids, len(part)), np.repeat(part, len(ids)), 3)
            rows["value_length"], rows["value"] = 8, self._random.uniform(0, 120, len(rows))
            self._copy("telemetry.sample", "series_id, ts, value", rows)
            self._tell(f"telemetry.sample: {moment(int(part[-1])):%Y-%m-%d %H:%M}")

    def _key(self, rows: NDArray[Any], ids: NDArray[np.int64], times: NDArray[np.int64], fields: int) -> None:
        rows["n"], rows["id_length"], rows["ts_length"] = fields, 4, 8
        rows["id"], rows["ts"] = ids, (times - PG_EPOCH_MS) * 1000

    def _copy(self, table: str, columns: str, rows: NDArray[Any]) -> None:
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)") as copy,
        ):
            copy.write(COPY_HEAD)
            copy.write(rows.tobytes())
            copy.write(COPY_END)
        self.rows[table] = self.rows.get(table, 0) + len(rows)

    def _trips(self) -> None:
        run = self._connection.execute
        run(
            "INSERT INTO trips.vehicle (tenant, device, moves) SELECT tenant, id, true FROM registry.device WHERE tenant = 'bench'"
        )
        for n in range(self._days):
            day = self.start_ms + n * DAY
            run(TRIPS, {"trips": TRIPS_A_DAY, "day": moment(day)})
            self.rows["trips.trip"] = self.rows.get("trips.trip", 0) + TRIPS_A_DAY * self._devices
            self._tell(f"trips.trip: {moment(day):%Y-%m-%d}")


def questions(now_ms: int, start_ms: int, devices: int) -> list[Question]:
    """What docs/howto/query-api.md shows, over what was filled."""
    yesterday = now_ms // DAY * DAY - DAY
    end = now_ms + 300_000  # includes five minutes that are not rolled up yet

    def one(n: int) -> str:
        return f"devices/vehicle-{n % min(DETAILED, devices) + 1:05}/telemetry"

    def month(**more: Any) -> Callable[[int], dict[str, Any]]:
        return lambda _: {"metric": "speed_kmh", "from": start_ms, "to": end} | more

    def day(**more: Any) -> Callable[[int], dict[str, Any]]:
        return lambda _: {"metric": "speed_kmh", "from": yesterday, "to": yesterday + DAY} | more

    def at(path: str) -> Callable[[int], str]:
        return lambda _: path

    def each(path: str) -> Callable[[int], str]:
        return lambda n: path.replace("ID", f"vehicle-{n % devices + 1:05}")

    def over(**more: Any) -> Callable[[int], dict[str, Any]]:
        return lambda _: {"from": start_ms, "to": end} | more

    fleet, trips, every = at("fleet/telemetry"), at("fleet/trips"), ",".join(METRICS)
    raw = day(aggregate="raw", limit=10_000, metric=every)
    hour = month(step="5m") if now_ms - HOUR < start_ms else (lambda _: month(step="5m")(0) | {"from": end - HOUR})
    return [
        Question("one device, one day, step 5m", one, day(step="5m", aggregate="mean,min,max"), 60, 0.2),
        Question("one device, one day, step 1m, 3 metrics", one, day(step="1m", metric=every), 60, 0.2),
        Question("one device, one day, raw at 10 s, 3 metrics", one, raw, 40, 0.2),
        Question("one device, 30 days, step 1h", one, month(step="1h", aggregate="mean,min,max"), 40, 0.2),
        Question("latest values of one device", each("devices/ID/latest"), lambda _: {}, 60, 0.2),
        Question("latest values of 1,000 devices", at("latest"), lambda _: {"limit": 1000}, 5, 5),
        Question("fleet, 30 days, step 1d: mean, min, max", fleet, month(step="1d", aggregate="mean,min,max"), 5, 5),
        Question("fleet, 30 days, step 1h: mean", fleet, month(step="1h"), 5, 5),
        Question("fleet, 30 days, step 1d: p50, p95", fleet, month(step="1d", aggregate="p50,p95"), 5, 5),
        Question("a tenth of the fleet by tag, 30 days, step 1h", fleet, month(step="1h", tag="depot-7"), 5, 5),
        Question("fleet, 30 days, by device: top 10", fleet, month(by="device", aggregate="max", top=10), 5, 5),
        Question("fleet, the last hour, step 5m", fleet, hour, 5, 5),
        Question("trips of the fleet, 30 days, by day", trips, over(), 5, 5),
        Question("trips of the fleet, 30 days: top 10", trips, over(by="device", order="distance_km", top=10), 5, 5),
        Question("trips of one device, 30 days", each("devices/ID/trips"), over(), 40, 0.2),
    ]


def cpu_s(server: Postgres) -> float:
    """CPU seconds that the server and all its processes, also those that ended, have used so far."""
    postmaster = psutil.Process(server.pid)
    times = postmaster.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(child.cpu_times()[:2])
    return float(total)


async def measured(
    database: Database, server: Postgres, asked: list[Question], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Seconds of each question, CPU seconds of the database for it, and what its answer was read from."""
    url = database.service_urls["gateway"]
    settings = Settings(
        database_url=url,
        gateway_query_timeout_s=60,
        gateway_cache_status_s=0,
        gateway_cache_recent_s=0,
        gateway_cache_aggregates_s=0,
    )
    pool = Pool(url, "gateway/bench", 8)
    await pool.open()
    token = "otr_" + secrets.token_urlsafe(24)
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute("SET outrider.tenant = '*'")
        connection.execute(
            "INSERT INTO registry.account (tenant, name, role) VALUES ('bench', 'bench', 'admin') ON CONFLICT DO NOTHING"
        )
        connection.execute(
            "INSERT INTO registry.token (account, tenant, name, hash, scopes, expires_at) SELECT id, tenant, 'bench', %s, %s, "
            "now() + interval '1 day' FROM registry.account WHERE name = 'bench'",
            (digest(token), ["telemetry:read", "trips:read"]),
        )
    app = build_api(
        Gateway(settings, pool, Access(pool, url, 3600, 10), cast(Any, None), Queries(settings, pool), "http://bench")
    )
    results = []
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://bench/api/v1/",
        timeout=120,
        headers={"authorization": f"Bearer {token}", "accept-encoding": "identity"},
    ) as client:
        for question in asked:
            seconds: list[float] = []
            document: dict[str, Any] = {}
            size = 0
            before_s = 0.0
            for n in range(question.times + 1):
                if n == 1:
                    before_s = cpu_s(server)
                started = time.perf_counter()
                answer = await client.get(question.path(n), params=question.params(n))
                took = time.perf_counter() - started
                if answer.status_code != 200:
                    raise SystemExit(f"{question.name}: {answer.status_code} {answer.text}")
                document, size = answer.json(), len(answer.content)
                if n:  # the first one warms
                    seconds.append(took)
            result = {
                "question": question.name,
                "p50_s": float(np.percentile(seconds, 50)),
                "p95_s": float(np.percentile(seconds, 95)),
                "database_cpu_s": (cpu_s(server) - before_s) / question.times,
                "target_s": question.target_s,
                "times": question.times,
                "bytes": size,
                "source": document.get("source"),
                "rows_read": _rows_read(database, document, question.params(0)),
                "segments": document.get("segments"),
            }
            results.append(result)
            tell(line(result))
    await pool.close()
    return results


def _rows_read(database: Database, document: dict[str, Any], params: dict[str, Any]) -> int | None:
    """Rows of the tiers that the answer was made of."""
    segments = document.get("segments")
    if not segments:
        return None
    devices = None if "device" not in document else [document["device"]]
    tag = params.get("tag")
    total = 0
    for segment in segments:
        table = "telemetry.sample" if segment["tier"] == "raw" else f"lifecycle.rollup_{segment['tier']}"
        total += database.value(
            f"SELECT count(*) FROM {table} WHERE ts >= %s AND ts < %s AND series_id = ANY (ARRAY("
            "SELECT s.id FROM telemetry.series s JOIN registry.device d ON d.id = s.device WHERE s.metric = ANY (%s) "
            "AND (%s::text[] IS NULL OR s.device = ANY (%s)) AND (%s::text IS NULL OR d.tags @> ARRAY[%s]::text[])))",
            *(segment["from"], segment["to"], params["metric"].split(","), devices, devices, tag, tag),
        )
    return total


def line(result: dict[str, Any]) -> str:
    """A result for people."""
    rows = "" if result["rows_read"] is None else f"{result['rows_read']:,} rows"
    within = result["target_s"] is None or result["p95_s"] <= result["target_s"]
    return (
        f"{result['question']:50} p50 {result['p50_s'] * 1000:>7,.0f} ms  p95 {result['p95_s'] * 1000:>7,.0f} ms  "
        f"database {result['database_cpu_s'] * 1000:>6,.0f} ms CPU  "
        f"{result['source'] or '-':5} {rows:>16}  {'' if within else 'OVER ' + str(result['target_s']) + ' s'}"
    )


def moment(ms: int) -> datetime:
    """Epoch ms as a time."""
    return EPOCH + timedelta(milliseconds=ms)


def main(
    devices: Annotated[int, typer.Option(min=10, help="Devices of the fleet.")] = 10_000,
    days: Annotated[int, typer.Option(min=2, help="Days of rollups of 1 h.")] = 30,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    only: Annotated[str, typer.Option(help="Only questions with this word.")] = "",
    keep: Annotated[Path | None, typer.Option(help="Folder of the database, which is filled once and kept.")] = None,
) -> None:
    """Fill a database, ask the documented questions, print p50 and p95. Exit code 1 if a target is missed."""
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder:
        server = Postgres(Path(keep or folder) / "postgres")
        with server:
            database = prepare_database(server.url)
            filling = Filling(database, devices, days, _tell)
            state = Path(keep or folder) / "filled.json"
            started = time.perf_counter()
            if state.exists():
                told = orjson.loads(state.read_bytes())
                filling.now_ms, filling.start_ms, filling.rows = told["now_ms"], told["start_ms"], told["rows"]
            else:
                filling.all()
                told = {"now_ms": filling.now_ms, "start_ms": filling.start_ms, "rows": filling.rows}
                state.write_bytes(orjson.dumps(told))
            _tell("")
            print(f"{devices:,} devices, {days} days, filled in {time.perf_counter() - started:.0f} s:")
            print(filling.sizes())
            asked = [one for one in questions(filling.now_ms, filling.start_ms, devices) if only in one.name]
            results = asyncio.run(measured(database, server, asked, print))
        if output is not None:
            output.write_bytes(
                orjson.dumps({"devices": devices, "days": days, "rows": told["rows"], "questions": results})
            )
        if keep is None:
            server.wipe()
    if any(result["target_s"] is not None and result["p95_s"] > result["target_s"] for result in results):
        raise SystemExit(1)


def _tell(text: str) -> None:
    """How far it is, where somebody watches."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


if __name__ == "__main__":
    typer.run(main)
