"""For tests: the service's parts without a broker. What is fed is what the bus brings, and the clock is the test's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from outrider.contract.batch import BatchNumber, Header, Samples, encode_samples
from outrider.contract.batch import decode_samples as decode
from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.testing.fixtures import Database
from outrider_trips import vehicles
from outrider_trips.evidence import Reader
from outrider_trips.segmenter import Segmenter
from outrider_trips.settings import Settings
from outrider_trips.store import Positions

T0 = 1_750_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE

Row = dict[str, Any]
"""One row of evidence: `ts` and metrics."""


def drive(start_ms: int, minutes: int = 10, lat: float = 52.0, every_s: int = 10) -> list[Row]:
    """A drive north at 60 km/h, and a minute of standing at its end."""
    steps = minutes * 60 // every_s
    moving = [
        {"ts": start_ms + i * every_s * 1000, "lat": lat + i * every_s / 60 * 0.009, "lon": 13.0, "speed_kmh": 60.0}
        for i in range(steps)
    ]
    last = moving[-1]
    standing = [{**last, "ts": last["ts"] + i * every_s * 1000, "speed_kmh": 0.0} for i in range(1, 60 // every_s + 1)]
    return [*moving, *standing]


class Crash(Transient):
    """The process died here."""


class _Counting:
    def __init__(self, connection: psycopg.AsyncConnection, pool: CrashingPool) -> None:
        self._connection = connection
        self._pool = pool

    async def execute(self, *arguments: Any) -> Any:
        self._pool.step()
        return await self._connection.execute(*arguments)

    def cursor(self, **options: Any) -> Any:
        self._pool.step()
        return self._connection.cursor(**options)


class CrashingPool(Pool):
    """A database whose client dies before statement number `at` of all that follow; 0: never."""

    at = 0
    steps = 0

    def crash_at(self, at: int) -> None:
        """Die once, before this statement."""
        self.at, self.steps = at, 0

    def step(self) -> None:
        """One statement."""
        self.steps += 1
        if self.steps == self.at:
            raise Crash(f"before statement {self.at}")

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with super().transaction() as connection:
            yield _Counting(connection, self)


@dataclass
class Fleet:
    """Feeds rows, lets the clock run, segments, and reads what came of it."""

    database: Database
    pool: CrashingPool
    settings: Settings
    reader: Reader = field(default_factory=Reader)

    def __post_init__(self) -> None:
        self.positions = Positions(self.pool, self.settings.trips_refresh_s)
        self.segmenter = Segmenter(self.pool, self.settings)

    async def feed(self, device: str, rows: Sequence[Row], received_ms: int | None = None, slot: int = 0) -> None:
        """One device message with these rows, stored as the consumer stores it."""
        await self.feed_all({device: rows}, received_ms, slot)

    async def feed_all(
        self, messages: Mapping[str, Sequence[Row]], received_ms: int | None = None, slot: int = 0
    ) -> None:
        """One message of each of these devices, stored at once."""
        parts = [self._message(device, rows, received_ms) for device, rows in messages.items()]
        evidence = self.reader.gather([decode(encode_samples(BatchNumber(0, 1, 1), parts))])
        if evidence.devices:
            await self.positions.store(evidence, slot)

    def _message(self, device: str, rows: Sequence[Row], received_ms: int | None) -> tuple[Header, Samples]:
        received_ms = max(row["ts"] for row in rows) if received_ms is None else received_ms
        samples = Samples.of(
            [
                (
                    name,
                    "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number",
                    row["ts"],
                    value,
                )
                for row in rows
                for name, value in row.items()
                if name != "ts"
            ]
        )
        return Header("demo", device, "telemetry", None, None, received_ms), samples

    async def clock(self, ms: int, slot: int = 0) -> None:
        """All that ingest received before is stored."""
        await self.positions.progressed({slot: ms})

    async def work(self) -> int:
        """Segment until no vehicle waits; how many times."""
        done = 0
        while True:
            async with self.pool.transaction() as connection:
                waiting = await vehicles.candidates(connection, 100)
            if not waiting:
                return done
            for id_ in waiting:
                done += await self.segmenter.segment(id_)

    def trips(self, device: str) -> list[dict[str, Any]]:
        """What is stored, oldest first, without ids."""
        rows = self.database.rows("SELECT rev, detail FROM trips.trip WHERE device = %s ORDER BY start_at", device)
        return [{"rev": rev, **detail} for rev, detail in rows]

    def events(self, device: str) -> list[str]:
        """Events in the outbox, in order."""
        query = "SELECT payload::jsonb->>'event' FROM trips.outbox WHERE device = %s ORDER BY id"
        return [event for (event,) in self.database.rows(query, device)]

    def call(self, statement: str, *arguments: Any, tenant: str = "demo") -> Any:
        """The value of a statement in a transaction of this tenant."""
        with psycopg.connect(self.database.admin_url) as connection:
            connection.execute("SELECT set_config('outrider.tenant', %s, true)", (tenant,))
            row = connection.execute(statement.encode(), arguments).fetchone()
            return row[0] if row else None
