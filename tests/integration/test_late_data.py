"""Rule 17 through the real writer: what comes after its day was removed is counted once, merged and archived."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from outrider.contract.batch import BatchNumber, Header, Kind, Samples, decode_samples, encode_samples
from outrider.runtime.database import Database as Pool
from outrider.runtime.session import Publisher
from outrider.testing.fixtures import Database
from outrider_lifecycle.context import GROUP, Expiring, LateRow, Lifecycle
from outrider_lifecycle.jobs import Progress
from outrider_lifecycle.late import merge_late
from outrider_lifecycle.retention import Retention
from outrider_lifecycle.rollups import Rollups
from outrider_lifecycle.settings import Settings
from outrider_writer_timeseries.store import Ledger, Work

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
Send = Callable[..., Any]


def days_ago(days: float) -> datetime:
    return TODAY - timedelta(days=days) + timedelta(hours=12)


@pytest.fixture
async def lifecycle(database: Database) -> AsyncIterator[Lifecycle]:
    pool = Pool(database.service_urls[GROUP], "lifecycle-test")
    await pool.open()
    database.rows("INSERT INTO runtime.slot (group_name, slot, holder) VALUES (%s, 0, 'lifecycle-test')", GROUP)
    yield Lifecycle(Settings(rollup_grace_s=0), pool, Publisher("mqtt://127.0.0.1:1", "svc:lifecycle:test"))
    await pool.close()


@pytest.fixture
async def send(database: Database) -> AsyncIterator[Send]:
    """Stores a message of numbers and texts."""
    pool = Pool(database.service_urls["writer-timeseries"], "writer-test")
    await pool.open()
    ledger = Ledger(pool, "writer-timeseries", 10_000)

    async def one(seq: int | None, samples: list[tuple[str, Kind, datetime, Any]]) -> None:
        header = Header("demo", "van-1", "telemetry", 7 if seq else None, seq, int(NOW.timestamp() * 1000))
        rows = [(metric, kind, int(ts.timestamp() * 1000), value) for metric, kind, ts, value in samples]
        payload = encode_samples(BatchNumber(0, 1, 1), [(header, Samples.of(rows))])
        await ledger.store(Work(samples=[("outrider/v1/samples/0", decode_samples(payload))]))

    yield one
    await pool.close()


async def retain(lifecycle: Lifecycle) -> None:
    await Retention(lifecycle, Rollups(lifecycle)).run(Progress(lifecycle, "retention", {}))


async def test_a_late_message_is_merged_once_and_archived(lifecycle: Lifecycle, database: Database, send: Send) -> None:
    """Rule 17: below the horizon a counted message is a duplicate; another one is added to the rollups, and told to the archive."""
    day = TODAY - timedelta(days=10)
    first: list[tuple[str, Kind, datetime, Any]] = [
        ("n", "number", day + timedelta(seconds=s), float(s)) for s in (0, 30, 90)
    ]
    await send(1, [*first, ("t", "string", day, "x")])
    await retain(lifecycle)
    assert database.value("SELECT count(*) FROM telemetry.sample") == 0
    told: list[LateRow] = []

    async def on_late(connection: psycopg.AsyncConnection, rows: Any) -> None:
        told.extend(rows)

    lifecycle.on_late.append(on_late)
    await send(1, [*first, ("t", "string", day, "x")])  # again, as after a lost ack
    late = [("n", "number", day + timedelta(seconds=s), float(s)) for s in (10, 100, 400)]
    for _ in range(2):
        await send(2, late)
    stored = database.rows("SELECT stored::text, duplicates, conflicts FROM telemetry.sequence")
    assert stored == [("{[1,3)}", 2, 0)]
    assert database.value("SELECT count(*) FROM rejected.message") == 0
    assert database.value("SELECT count(*) FROM telemetry.sample") == 0
    await Rollups(lifecycle).catch_up()
    assert database.value("SELECT count(*) FROM telemetry.late_sample") == 0
    assert [(tenant, metric, value) for tenant, _, metric, _, _, value in told] == [
        ("demo", "n", v) for v in (10.0, 100.0, 400.0)
    ]
    expected = {
        "1m": [
            (3, 40.0, 0.0, 30.0, 0.0, 30.0),
            (2, 190.0, 90.0, 100.0, 90.0, 90.0),
            (1, 400.0, 400.0, 400.0, 400.0, 400.0),
        ],
        "5m": [(5, 230.0, 0.0, 100.0, 0.0, 90.0), (1, 400.0, 400.0, 400.0, 400.0, 400.0)],
        "1h": [(6, 630.0, 0.0, 400.0, 0.0, 400.0)],
    }
    for tier, rows in expected.items():
        found = database.rows(f"SELECT count, sum, min, max, first, last FROM lifecycle.rollup_{tier} ORDER BY ts")
        assert found == rows, tier


async def test_a_late_sample_of_a_tier_that_is_gone_reaches_the_longer_ones(
    lifecycle: Lifecycle, database: Database, send: Send
) -> None:
    await send(1, [("n", "number", days_ago(100), 1.0)])
    await retain(lifecycle)
    assert [database.value(f"SELECT count(*) FROM lifecycle.rollup_{tier}") for tier in ("1m", "5m", "1h")] == [0, 1, 1]
    await send(2, [("n", "number", days_ago(100) + timedelta(seconds=1), 5.0)])
    await Rollups(lifecycle).catch_up()
    assert database.value("SELECT count(*) FROM lifecycle.rollup_1m") == 0
    for tier in ("5m", "1h"):
        assert database.rows(f"SELECT count, sum, max FROM lifecycle.rollup_{tier}") == [(2, 6.0, 5.0)]


async def test_a_late_sample_waits_until_what_was_there_before_is_rolled_up(
    lifecycle: Lifecycle, database: Database, send: Send
) -> None:
    """The race: stored before the horizon moved, told to the rollups after they had looked."""
    day = days_ago(10)
    made = Rollups(lifecycle)
    fives, closed_s = await made.begin()
    await send(1, [("n", "number", day, 1.0)])
    database.rows("SELECT runtime.raise_horizon('telemetry.sample', '*', %s)", TODAY - timedelta(days=7))
    await send(2, [("n", "number", day + timedelta(seconds=5), 2.0)])
    assert database.value("SELECT count(*) FROM telemetry.late_sample") == 1
    await made.five_minutes(fives)
    await made.finish(closed_s)
    assert not await merge_late(lifecycle)
    assert database.value("SELECT count(*) FROM telemetry.late_sample") == 1
    await made.catch_up()
    assert database.rows("SELECT count, sum FROM lifecycle.rollup_1m") == [(2, 3.0)]


async def test_late_texts_and_events_are_stored_and_removed_again(
    lifecycle: Lifecycle, database: Database, send: Send
) -> None:
    await retain(lifecycle)
    await send(1, [("t", "string", days_ago(200), "x"), ("t", "string", days_ago(2), "y")])
    assert database.rows("SELECT ts FROM telemetry.sample_text ORDER BY ts") == [(days_ago(200),), (days_ago(2),)]
    assert database.rows("SELECT name, tenant FROM runtime.expired") == [("telemetry.sample_text", "demo")]
    seen: list[Expiring] = []

    async def hook(expiring: Expiring) -> None:
        seen.append(expiring)

    lifecycle.before_drop.append(hook)
    await retain(lifecycle)
    assert database.rows("SELECT ts FROM telemetry.sample_text") == [(days_ago(2),)]
    assert [(e.table, e.tenants, e.start) for e in seen] == [("telemetry.sample_text", ("demo",), days_ago(200).date())]
    assert database.rows("SELECT * FROM runtime.expired") == []
