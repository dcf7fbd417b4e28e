"""What the demo shows: numbers from the simulator's lines, the services' metrics and the database."""

from __future__ import annotations

import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from outrider_cli.platform import is_ready
from outrider_cli.state import State

VEHICLES_SHOWN = 12
STORED = "outrider_writer_timeseries_samples_total"
LAG = "outrider_writer_timeseries_lag_seconds"

REJECTED = "SELECT (SELECT count(*) FROM rejected.message) + coalesce((SELECT sum(messages) FROM rejected.overflow), 0)"
DEPTH = "SELECT coalesce(sum(batches), 0) FROM runtime.depth"
VEHICLES = """
SELECT device, max(ts) AS seen,
       max(value::text) FILTER (WHERE metric = 'speed_kmh')::float AS speed_kmh,
       max(value::text) FILTER (WHERE metric = 'lat')::float AS lat,
       max(value::text) FILTER (WHERE metric = 'lon')::float AS lon
FROM telemetry.latest
WHERE device = ANY (%s) AND metric IN ('speed_kmh', 'lat', 'lon') AND kind = 'number'
GROUP BY device ORDER BY device
"""
HAS_TRIPS = "SELECT to_regclass('trips.tenant_trip') IS NOT NULL"
SEE_ALL = "SELECT set_config('outrider.tenant', '*', false)"
TRIPS = """
SELECT count(*) FILTER (WHERE state = 'driving'), count(*) FILTER (WHERE state = 'paused'),
       count(*) FILTER (WHERE state = 'final' AND NOT micro),
       coalesce(sum((detail->>'distance_km')::float8) FILTER (WHERE NOT micro), 0)
FROM trips.tenant_trip WHERE end_at >= date_trunc('day', now())
"""
LAST_TRIPS = """
SELECT DISTINCT ON (device) device, state, coalesce((detail->>'distance_km')::float8, 0), end_at
FROM trips.tenant_trip WHERE device = ANY (%s) AND end_at > now() - interval '1 day' ORDER BY device, start_at DESC
"""


@dataclass(frozen=True)
class Trip:
    """The newest trip of a vehicle."""

    state: str
    km: float
    ended: datetime


@dataclass(frozen=True)
class Trips:
    """Today's trips of the whole fleet."""

    driving: int
    paused: int
    final: int
    km: float


@dataclass(frozen=True)
class Vehicle:
    """The latest known of one vehicle."""

    device: str
    seen: datetime
    speed_kmh: float | None
    lat: float | None
    lon: float | None


@dataclass
class Picture:
    """One look at everything; what could not be asked keeps its last value."""

    sim: dict[str, Any] = field(default_factory=dict)
    messages_per_s: float = 0.0
    stored_per_s: float = 0.0
    ledger_lag_ms: float | None = None
    rejected: int = 0
    depth: int = 0
    ready: dict[str, bool] = field(default_factory=dict)
    vehicles: list[Vehicle] = field(default_factory=list)
    trips: Trips | None = None
    """None: no service of trips ever ran here."""
    last_trips: dict[str, Trip] = field(default_factory=dict)
    database_problem: str = ""


class SimLines:
    """Reads the JSON lines of a simulator (started with a pipe) in a thread.

    `latest` is the last one, `ended` is set when there are no more.
    """

    def __init__(self, sim: subprocess.Popen[bytes]) -> None:
        self.latest: dict[str, Any] = {}
        self.ended = threading.Event()
        self._stream = sim.stdout
        threading.Thread(target=self._read, name="sim-lines", daemon=True).start()

    def _read(self) -> None:
        for line in self._stream or ():
            if line.startswith(b"{"):
                self.latest = orjson.loads(line)
        self.ended.set()


class Watch:
    """Looks at a running platform and simulator again and again."""

    def __init__(self, state: State, sim: SimLines, vehicles: list[str]) -> None:
        self._state = state
        self._sim = sim
        self._vehicles = vehicles
        self._connection: psycopg.Connection | None = None
        self._before: tuple[float, int, float] | None = None
        self.picture = Picture()

    def look(self) -> Picture:
        """Ask everybody; a service or database that is away is shown as such, never an error."""
        picture = self.picture
        picture.sim = self._sim.latest
        picture.ready = {
            name: bool(process.ready_url and is_ready(process.ready_url))
            for name, process in self._state.services.items()
        }
        samples = self._scrape()
        self._rates(samples)
        if LAG in samples:
            picture.ledger_lag_ms = max(samples[LAG]) * 1000
        try:
            self._ask_database()
            picture.database_problem = ""
        except psycopg.Error as error:
            picture.database_problem = str(error).splitlines()[0]
            self.close()
        return picture

    def close(self) -> None:
        """Give the database connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rates(self, samples: Mapping[str, list[float]]) -> None:
        sim = self.picture.sim
        now = (time.monotonic(), sim.get("sent", 0) + sim.get("unnumbered", 0), sum(samples.get(STORED, ())))
        if self._before is not None and now[0] > self._before[0]:
            passed_s = now[0] - self._before[0]
            self.picture.messages_per_s = max(0, now[1] - self._before[1]) / passed_s
            self.picture.stored_per_s = max(0, now[2] - self._before[2]) / passed_s
        self._before = now

    def _scrape(self) -> dict[str, list[float]]:
        """Values of the metrics the demo needs, over all processes."""
        found: dict[str, list[float]] = {}
        for process in self._state.services.values():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{process.http_port}/metrics", timeout=2) as response:
                    text = response.read().decode()
            except OSError:
                continue
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name in (STORED, LAG):
                        found.setdefault(sample.name, []).append(sample.value)
        return found

    def _ask_database(self) -> None:
        if self._connection is None:
            self._connection = psycopg.connect(self._state.database_url, autocommit=True, connect_timeout=2)
            self._connection.execute(SEE_ALL)
        ask = self._connection.execute
        self.picture.rejected = int((ask(REJECTED).fetchone() or (0,))[0])
        self.picture.depth = int((ask(DEPTH).fetchone() or (0,))[0])
        self.picture.vehicles = [Vehicle(*row) for row in ask(VEHICLES, (self._vehicles,)).fetchall()]
        if (ask(HAS_TRIPS).fetchone() or (False,))[0]:
            self.picture.trips = Trips(*(ask(TRIPS).fetchone() or (0, 0, 0, 0.0)))
            rows = ask(LAST_TRIPS, (self._vehicles,)).fetchall()
            self.picture.last_trips = {device: Trip(state, km, ended) for device, state, km, ended in rows}
