"""Rollups equal what is computed from scratch, whatever came when, and wherever a step was interrupted."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outrider.runtime.errors import Transient
from outrider.testing.fixtures import Database
from outrider_lifecycle import rollups as module
from outrider_lifecycle.context import Lifecycle, NoLongerTheOne
from outrider_lifecycle.rollups import Rollups
from outrider_lifecycle.touched import Pass, gather

STEPS_S = {"1m": 60, "5m": 300, "1h": 3600}
Sample = tuple[int, datetime, float]
"""(series id, time, value)"""


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest) -> Database:
    """Native partitions; hypertables too in the tests that ask for both."""
    template: Database = request.getfixturevalue(getattr(request, "param", "migrated"))
    return template


def store(database: Database, samples: Sequence[Sample]) -> None:
    """As the writer does, in one transaction: samples, and the five minutes they touch."""
    days = sorted({ts.date() for _, ts, _ in samples})
    database.rows("SELECT runtime.ensure_partitions('telemetry.sample', %s)", days)
    database.rows(
        """
        WITH sent AS (SELECT * FROM unnest(%s::integer[], %s::timestamptz[], %s::float8[]) AS k(series_id, ts, value)),
        stored AS (INSERT INTO telemetry.sample SELECT * FROM sent ON CONFLICT DO NOTHING)
        INSERT INTO telemetry.touched (bucket, series)
        SELECT date_bin('5 minutes', ts, 'epoch'), array_agg(DISTINCT series_id) FROM sent GROUP BY 1
        """,
        *(list(column) for column in zip(*samples, strict=True)),
    )


def rollups(database: Database, tier: str) -> dict[tuple[int, datetime], tuple[Any, ...]]:
    """What is there: (series id, start) → count, sum, min, max, first, last."""
    rows = database.rows(f"SELECT series_id, ts, count, sum, min, max, first, last FROM lifecycle.rollup_{tier}")
    return {(series, ts.astimezone(UTC)): tuple(values) for series, ts, *values in rows}


def from_scratch(samples: Sequence[Sample], tier: str) -> dict[tuple[int, datetime], tuple[Any, ...]]:
    """What should be there."""
    found: dict[tuple[int, datetime], list[tuple[datetime, float]]] = defaultdict(list)
    for series, ts, value in set(samples):
        seconds = int(ts.timestamp()) // STEPS_S[tier] * STEPS_S[tier]
        found[series, datetime.fromtimestamp(seconds, UTC)].append((ts, value))
    result: dict[tuple[int, datetime], tuple[Any, ...]] = {}
    for key, rows in found.items():
        values = [value for _, value in sorted(rows)]
        result[key] = len(values), sum(values), min(values), max(values), values[0], values[-1]
    return result


def compare(database: Database, samples: Sequence[Sample], tiers: Sequence[str] = ("1m", "5m", "1h")) -> None:
    """Values are whole numbers in these tests, so that sums are exact in any order."""
    for tier in tiers:
        assert rollups(database, tier) == from_scratch(samples, tier)


def yesterday() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def random_samples(chance: random.Random, start: datetime, hours: float, count: int, series: int = 4) -> list[Sample]:
    times = {
        (chance.randrange(1, series + 1), start + timedelta(milliseconds=chance.randrange(int(hours * 3_600_000))))
        for _ in range(count)
    }
    return [(of, ts, float(chance.randrange(-1000, 1000))) for of, ts in sorted(times)]


@pytest.mark.parametrize(
    ("migrated", "seed"), [("migrated", 1), ("timescaledb", 2)], indirect=["migrated"], scope="session"
)
async def test_late_data_in_any_order_gives_what_a_computation_from_scratch_gives(
    lifecycle: Lifecycle, database: Database, seed: int
) -> None:
    """Fault 17, the rollups' part: passes between any two batches, batches in any order, some of them twice."""
    chance = random.Random(seed)
    samples = random_samples(chance, yesterday() - timedelta(days=3), 4 * 24.0, 1500)
    made = Rollups(lifecycle)
    left = samples[:]
    chance.shuffle(left)
    while left:
        batch, left = left[:400], left[400:]
        store(database, batch)
        if chance.random() < 0.3:
            store(database, batch[:50])
        await made.catch_up()
    compare(database, samples)
    assert database.value("SELECT count(*) FROM telemetry.touched") == 0
    assert database.value("SELECT count(*) FROM lifecycle.touched_hour") == 0


async def test_a_backlog_of_30_days_across_the_change_of_clocks_equals_the_run_in_order(
    lifecycle: Lifecycle, database: Database
) -> None:
    """Fault 17: buckets are of UTC; the session's time zone, with its day of 25 hours, moves none."""
    database.rows(f"ALTER DATABASE {database.value('SELECT current_database()')} SET timezone = 'Europe/Berlin'")
    chance = random.Random(17)
    day = datetime(2026, 10, 25, tzinfo=UTC)
    while day > datetime.now(UTC) - timedelta(days=2):
        day = day.replace(year=day.year - 1)
    samples = random_samples(chance, day - timedelta(days=15), 30 * 24.0, 600, 2)
    samples += random_samples(chance, day, 4.0, 400, 2)
    samples = [(of, ts, value) for (of, ts), value in {(of, ts): value for of, ts, value in samples}.items()]
    shuffled = samples[:]
    chance.shuffle(shuffled)
    made = Rollups(lifecycle)
    for at in range(0, len(shuffled), 500):
        store(database, shuffled[at : at + 500])
        await made.catch_up()
    compare(database, samples)


async def test_only_what_was_touched_is_computed(lifecycle: Lifecycle, database: Database) -> None:
    start = yesterday()
    samples: list[Sample] = [(1, start + timedelta(minutes=m), 1.0) for m in range(60)]
    store(database, samples)
    made = Rollups(lifecycle)
    await made.catch_up()
    database.rows("UPDATE lifecycle.rollup_1m SET sum = -1")
    database.rows("UPDATE lifecycle.rollup_5m SET sum = -1")
    store(database, [(1, start + timedelta(minutes=11, seconds=30), 5.0)])
    await made.catch_up()
    renewed = {ts: values[1] for (_, ts), values in rollups(database, "1m").items() if values[1] >= 0}
    assert renewed == {start + timedelta(minutes=m): 6.0 if m == 11 else 1.0 for m in range(10, 15)}
    assert {ts: v[:2] for (_, ts), v in rollups(database, "5m").items() if v[1] >= 0} == {
        start + timedelta(minutes=10): (6, 10.0)
    }


async def test_five_minutes_that_are_not_over_wait(database: Database, lifecycle: Lifecycle) -> None:
    now = datetime.now(UTC)
    store(database, [(1, now + timedelta(minutes=10), 1.0), (1, now - timedelta(hours=3), 2.0)])
    await Rollups(lifecycle).catch_up()
    assert [values[0] for values in rollups(database, "5m").values()] == [1]
    assert database.value("SELECT count(*) FROM telemetry.touched") == 1
    complete = dict(database.rows("SELECT name, complete_before FROM lifecycle.tier"))
    assert now - timedelta(minutes=6) < complete["5m"] <= datetime.now(UTC)
    assert now - timedelta(minutes=62) < complete["1h"] <= complete["1m"]


async def test_a_pass_that_breaks_anywhere_is_made_good_by_the_next_one(
    lifecycle: Lifecycle, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction in turn is the last before a kill -9; what it had not committed is as if it had never begun."""
    chance = random.Random(5)
    samples = random_samples(chance, yesterday(), 3.0, 200)
    made = Rollups(lifecycle)
    whole = lifecycle.transaction
    left = 0

    def dying() -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Transient("killed")
        return whole()

    monkeypatch.setattr(lifecycle, "transaction", dying)
    steps = 0
    for at in range(0, len(samples), 50):
        store(database, samples[at : at + 50])
        for limit in range(1, 100):
            left = limit
            try:
                await made.catch_up()
                break
            except Transient:
                steps += 1
    assert steps > 20
    compare(database, samples)


async def test_a_transaction_killed_in_the_middle_changes_nothing(lifecycle: Lifecycle, database: Database) -> None:
    samples = random_samples(random.Random(6), yesterday(), 2.0, 100)
    store(database, samples)
    made = Rollups(lifecycle)
    of, _ = await made.begin()
    touched = await gather(lifecycle, of, 1000)
    await made._ensure(("lifecycle.rollup_1m", "lifecycle.rollup_5m"), touched)
    async with lifecycle.transaction() as connection:
        await module._write(connection, module.FROM_SAMPLES, made._parts(touched)[0])
        await connection.rollback()
    assert rollups(database, "1m") == {}
    await made.catch_up()
    compare(database, samples)


async def test_whole_buckets_are_gathered_however_many_transactions_and_pages_they_are_in(
    lifecycle: Lifecycle, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider_lifecycle.touched.PAGE_ROWS", 7)
    start = yesterday()
    for n in range(20):
        store(
            database,
            [(1 + n % 3, start + timedelta(seconds=n), float(n)), (9, start + timedelta(hours=1, seconds=n), 0.0)],
        )
    of = Pass("telemetry.touched", int(datetime.now(UTC).timestamp()), 2**40)
    first = await gather(lifecycle, of, 1)
    assert (first.series.tolist(), len(first.ids)) == ([1, 2, 3], 20)
    assert set(first.bucket.tolist()) == {int(start.timestamp())}
    both = await gather(lifecycle, of, 4)
    assert (both.series.tolist(), len(both.ids)) == ([1, 2, 3, 9], 40)


async def test_a_rollup_that_is_there_unexpectedly_stops_nothing(lifecycle: Lifecycle, database: Database) -> None:
    samples = random_samples(random.Random(9), yesterday(), 1.0, 60)
    store(database, samples)
    made = Rollups(lifecycle)
    await made.catch_up()
    database.rows("DELETE FROM lifecycle.rollup_5m")
    store(database, samples)
    await made.catch_up()
    compare(database, samples)


async def test_the_greatest_numbers_have_a_sum(lifecycle: Lifecycle, database: Database) -> None:
    """A broken sensor must not stop the rollups of everybody: a sum that has no place counts no more than 1e290 each."""
    start = yesterday()
    store(database, [(1, start + timedelta(seconds=n), value) for n, value in enumerate([1.7e308, 1.7e308, -1.7e308])])
    await Rollups(lifecycle).catch_up()
    assert set(rollups(database, "1h").values()) == {(3, 1e290, -1.7e308, 1.7e308, 1.7e308, -1.7e308)}


async def test_a_replica_that_lost_the_lease_does_nothing_more(lifecycle: Lifecycle, database: Database) -> None:
    store(database, [(1, yesterday(), 1.0)])
    database.rows("UPDATE runtime.slot SET holder = 'another' WHERE group_name = 'lifecycle'")
    with pytest.raises(NoLongerTheOne):
        await Rollups(lifecycle).catch_up()
    assert rollups(database, "1m") == {}


async def test_two_passes_at_once_do_the_work_once(lifecycle: Lifecycle, database: Database) -> None:
    samples = random_samples(random.Random(8), yesterday(), 2.0, 300)
    store(database, samples)
    made = Rollups(lifecycle)
    await asyncio.gather(made.catch_up(), made.catch_up())
    compare(database, samples)


async def test_rollups_are_seen_one_tenant_at_a_time(lifecycle: Lifecycle, database: Database) -> None:
    for tenant in ("acme", "demo"):
        database.rows(
            "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES (%s, %s, 'n', 'number')", tenant, tenant
        )
    ids = dict(database.rows("SELECT tenant, id FROM telemetry.series"))
    store(database, [(of, yesterday(), 1.0) for of in ids.values()])
    await Rollups(lifecycle).catch_up()
    for tier in STEPS_S:
        query = f"SELECT series_id FROM lifecycle.tenant_rollup_{tier}"
        assert database.rows(query) == []
        database.rows(f"ALTER DATABASE {database.value('SELECT current_database()')} SET outrider.tenant = 'acme'")
        assert database.rows(query) == [(ids["acme"],)]
        database.rows(f"ALTER DATABASE {database.value('SELECT current_database()')} RESET outrider.tenant")


async def test_partitions_that_a_restore_took_away_are_made_again(lifecycle: Lifecycle, database: Database) -> None:
    samples = [(1, yesterday() + timedelta(hours=3), 1.0)]
    store(database, samples)
    made = Rollups(lifecycle)
    await made.catch_up()
    for tier in STEPS_S:
        find = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
        for (partition,) in database.rows(
            f"{find} AND inhrelid::regclass::text ~ '[0-9]$'", f"lifecycle.rollup_{tier}"
        ):
            database.rows(f"DROP TABLE {partition}")
    samples += [(1, yesterday() + timedelta(hours=3, seconds=1), 2.0)]
    store(database, samples)
    with pytest.raises(Transient, match="partition"):
        await made.catch_up()
    await made.catch_up()
    compare(database, samples)
