"""Retention: per tenant, by whole days, never before the rollups and the archive have it, and safe to stop anywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from outrider.runtime.errors import Transient
from outrider.testing.fixtures import Database
from outrider_lifecycle.context import Expiring, Lifecycle
from outrider_lifecycle.jobs import Progress
from outrider_lifecycle.late import merge_late
from outrider_lifecycle.retention import Retention
from outrider_lifecycle.rollups import Rollups

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest) -> Database:
    """Native partitions; hypertables too in the tests that ask for both."""
    template: Database = request.getfixturevalue(getattr(request, "param", "migrated"))
    return template


both = pytest.mark.parametrize("migrated", ["migrated", "timescaledb"], indirect=True, scope="session")


def days_ago(days: float) -> datetime:
    return TODAY - timedelta(days=days) + timedelta(hours=12)


def series_of(database: Database, tenant: str, device: str = "van", kind: str = "number") -> int:
    database.rows(
        "INSERT INTO telemetry.series (tenant, device, metric, kind) VALUES (%s, %s, 'n', %s) ON CONFLICT DO NOTHING",
        tenant,
        device,
        kind,
    )
    return int(
        database.value(
            "SELECT id FROM telemetry.series WHERE (tenant, device, kind) = (%s, %s, %s)", tenant, device, kind
        )
    )


def store(database: Database, series: int, days: list[float], value: float = 1.0) -> None:
    """A number at noon of each day, as the writer stores it."""
    times = [days_ago(day) for day in days]
    database.rows("SELECT runtime.ensure_partitions('telemetry.sample', %s)", [ts.date() for ts in times])
    database.rows(
        "INSERT INTO telemetry.sample SELECT %s, t, %s FROM unnest(%s::timestamptz[]) t", series, value, times
    )
    database.rows(
        "INSERT INTO telemetry.touched (bucket, series) SELECT date_bin('5 minutes', t, 'epoch'), ARRAY[%s::integer]"
        " FROM unnest(%s::timestamptz[]) t",
        series,
        times,
    )


def ages(database: Database, table: str, where: str = "true") -> list[int]:
    """How many days ago the rows are, each day once, youngest first."""
    query = f"SELECT DISTINCT (%s - ts::date) FROM {table} WHERE {where} ORDER BY 1"
    return [age for (age,) in database.rows(query, TODAY.date())]


async def retain(lifecycle: Lifecycle) -> None:
    await Retention(lifecycle, Rollups(lifecycle)).run(Progress(lifecycle, "retention", {}))


@both
async def test_raw_samples_go_after_a_week_and_their_rollups_stay(lifecycle: Lifecycle, database: Database) -> None:
    store(database, series_of(database, "demo"), [1, 6, 7, 8, 20, 29])
    seen: list[Expiring] = []

    async def hook(expiring: Expiring) -> None:
        seen.append(expiring)
        assert database.value(
            "SELECT count(*) FROM telemetry.sample WHERE ts >= %s AND ts < %s", expiring.start, expiring.end
        )
        assert database.value("SELECT count(*) FROM telemetry.touched") == 0, "rolled up before"

    lifecycle.before_drop.append(hook)
    await retain(lifecycle)
    assert ages(database, "telemetry.sample") == [1, 6, 7]
    assert ages(database, "lifecycle.rollup_1m") == [1, 6, 7, 8, 20, 29]
    day = TODAY.date()
    assert [(e.table, e.start, e.end, e.tenants, e.but_not) for e in seen] == [
        ("telemetry.sample", day - timedelta(days=age), day - timedelta(days=age - 1), None, ()) for age in (29, 20, 8)
    ]
    assert database.value(
        "SELECT starts_on FROM runtime.partitioned WHERE name = 'telemetry.sample'"
    ) == day - timedelta(days=7)
    await retain(lifecycle)
    assert len(seen) == 3


async def test_nothing_goes_while_somebody_wants_it_first(lifecycle: Lifecycle, database: Database) -> None:
    store(database, series_of(database, "demo"), [2, 10])

    async def not_yet(expiring: Expiring) -> None:
        raise Transient("the archive is full")

    lifecycle.before_drop.append(not_yet)
    with pytest.raises(Transient, match="full"):
        await retain(lifecycle)
    assert ages(database, "telemetry.sample") == [2, 10]
    lifecycle.before_drop.clear()
    await retain(lifecycle)
    assert ages(database, "telemetry.sample") == [2]


@both
async def test_each_tenant_keeps_its_rows_as_long_as_it_says(lifecycle: Lifecycle, database: Database) -> None:
    ids = {tenant: series_of(database, tenant) for tenant in ("brief", "demo", "long")}
    for of in ids.values():
        store(database, of, [1, 3, 5, 10, 15, 25])
    database.rows(
        "SELECT lifecycle.set_policy('brief', '{\"raw_days\": 2}'), lifecycle.set_policy('long', '{\"raw_days\": 20}')"
    )
    seen: list[Expiring] = []

    async def hook(expiring: Expiring) -> None:
        seen.append(expiring)

    lifecycle.before_drop.append(hook)
    await retain(lifecycle)
    left = {tenant: ages(database, "telemetry.sample", f"series_id = {of}") for tenant, of in ids.items()}
    assert left == {"brief": [1], "demo": [1, 3, 5], "long": [1, 3, 5, 10, 15]}
    by_day = {(TODAY.date() - e.start).days: (e.tenants, e.but_not) for e in seen}
    assert by_day[25] == (None, ())
    assert by_day[10] == (None, ("long",))
    assert by_day[5] == (("brief",), ())
    assert ages(database, "lifecycle.rollup_1m") == [1, 3, 5, 10, 15, 25]
    # Longer from now on: what is gone stays gone, what is there stays.
    database.rows("SELECT lifecycle.set_policy('brief', '{\"raw_days\": 9}')")
    await retain(lifecycle)
    assert ages(database, "telemetry.sample", f"series_id = {ids['brief']}") == [1]
    assert database.value("SELECT runtime.horizon_of('telemetry.sample', 'brief')") == TODAY - timedelta(days=2)


@both
async def test_late_rows_find_a_place_however_far_retention_came(lifecycle: Lifecycle, database: Database) -> None:
    """starts_on follows the horizon: rows of dropped days go to the shared partition, not into tables of their own."""
    of = series_of(database, "demo")
    store(database, of, [1, 12, 25])
    await retain(lifecycle)
    ancient = [days_ago(age) for age in (8, 12, 25, 400, 3000)]
    database.rows("SELECT runtime.ensure_partitions('telemetry.sample', %s)", [ts.date() for ts in ancient])
    database.rows("INSERT INTO telemetry.sample SELECT %s, t, 1 FROM unnest(%s::timestamptz[]) t", of, ancient)
    assert (
        database.value("SELECT count(DISTINCT tableoid) FROM telemetry.sample WHERE ts < %s", TODAY - timedelta(days=7))
        == 1
    )


async def test_retention_broken_anywhere_is_finished_by_the_next_run(
    lifecycle: Lifecycle, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {tenant: series_of(database, tenant) for tenant in ("demo", "long")}
    for of in ids.values():
        store(database, of, [2, 9, 12])
    database.rows("SELECT lifecycle.set_policy('long', '{\"raw_days\": 10}')")
    whole = lifecycle.transaction
    left = 0

    def dying() -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Transient("killed")
        return whole()

    monkeypatch.setattr(lifecycle, "transaction", dying)
    broken = 0
    for limit in range(1, 400, 9):
        left = limit
        try:
            await retain(lifecycle)
            break
        except Transient:
            broken += 1
    assert broken > 5
    assert {tenant: ages(database, "telemetry.sample", f"series_id = {of}") for tenant, of in ids.items()} == {
        "demo": [2],
        "long": [2, 9],
    }
    assert ages(database, "lifecycle.rollup_5m") == [2, 9, 12]


@both
async def test_events_logs_and_texts_expire_by_their_own_days(lifecycle: Lifecycle, database: Database) -> None:
    database.rows('SELECT lifecycle.set_policy(\'*\', \'{"text_days": 20, "event_days": 10, "log_days": 5}\')')
    database.rows("SELECT lifecycle.set_policy('long', '{\"log_days\": 12}')")
    columns = (
        "(tenant, device, ts, {label}, message, fields, item, received_at) SELECT %s, 'van', t, '', '', '{{}}', 0, t"
    )
    for table, label in (("telemetry.event", "type"), ("logs.line", "level")):
        times = [days_ago(age) for age in (1, 4, 8, 15, 25)]
        database.rows("SELECT runtime.ensure_partitions(%s, %s)", table, [ts.date() for ts in times])
        for tenant in ("demo", "long"):
            insert = f"INSERT INTO {table} {columns.format(label=label)} FROM unnest(%s::timestamptz[]) t"
            database.rows(insert, tenant, times)
    text = series_of(database, "demo", kind="string")
    database.rows(
        "SELECT runtime.ensure_partitions('telemetry.sample_text', %s)", [days_ago(25).date(), days_ago(15).date()]
    )
    database.rows(
        "INSERT INTO telemetry.sample_text VALUES (%s, %s, 'x'), (%s, %s, 'y')", text, days_ago(25), text, days_ago(15)
    )
    await retain(lifecycle)
    assert ages(database, "telemetry.event") == [1, 4, 8]
    assert ages(database, "logs.line", "tenant = 'demo'") == [1, 4]
    assert ages(database, "logs.line", "tenant = 'long'") == [1, 4, 8]
    assert ages(database, "telemetry.sample_text") == [15]


async def test_the_horizon_waits_for_a_writer_that_stores_old_rows(lifecycle: Lifecycle, database: Database) -> None:
    """And a writer that comes after it knows of it: no row is stored where the next moment removes it unseen."""
    with psycopg.connect(database.service_urls["writer-timeseries"]) as storing:
        assert storing.execute("SELECT * FROM runtime.horizons(ARRAY['telemetry.sample'])").fetchall() == []
        with psycopg.connect(database.admin_url) as moving:
            moving.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                moving.execute(
                    "SELECT runtime.raise_horizon('telemetry.sample', '*', %s)", (TODAY - timedelta(days=7),)
                )
        storing.rollback()
        database.rows("SELECT runtime.raise_horizon('telemetry.sample', '*', %s)", TODAY - timedelta(days=7))
        known = storing.execute("SELECT tenant, before FROM runtime.horizons(ARRAY['telemetry.sample'])").fetchall()
        assert known == [("*", TODAY - timedelta(days=7))]


def test_the_last_day_is_never_dropped(database: Database) -> None:
    for statement, argument in (
        ("SELECT runtime.drop_partitions('telemetry.sample', %s)", TODAY.date()),
        ("SELECT runtime.raise_horizon('telemetry.sample', '*', %s)", TODAY),
        ("SELECT runtime.raise_horizon('telemetry.sample', '*', %s)", days_ago(5)),
    ):
        with pytest.raises(psycopg.errors.RaiseException):
            database.rows(statement, argument)


async def test_trips_go_after_their_positions(lifecycle: Lifecycle, database: Database) -> None:
    database.rows("SELECT lifecycle.set_policy('demo', '{\"position_days\": 5, \"trip_days\": 10}')")
    for tenant in ("demo", "other"):
        database.rows("INSERT INTO trips.vehicle (tenant, device) VALUES (%s, %s)", tenant, tenant)
        vehicle = database.value("SELECT id FROM trips.vehicle WHERE tenant = %s", tenant)
        times = [days_ago(age) for age in (2, 7, 12)]
        database.rows("SELECT runtime.ensure_partitions('trips.position', %s)", [ts.date() for ts in times])
        database.rows(
            "INSERT INTO trips.position (vehicle, ts) SELECT %s, t FROM unnest(%s::timestamptz[]) t", vehicle, times
        )
        database.rows(
            "INSERT INTO trips.trip (id, vehicle, tenant, device, state, micro, edited, start_at, end_at, duration_s,"
            " start_reason, confidence, evidence, detail) SELECT gen_random_uuid(), %s, %s, %s, 'final', false, false, t, t, 1,"
            " '', 1, 'speed', '{}' FROM unnest(%s::timestamptz[]) t",
            vehicle,
            tenant,
            tenant,
            times,
        )
    await retain(lifecycle)
    position = "vehicle IN (SELECT id FROM trips.vehicle WHERE tenant = '{}')"
    assert ages(database, "trips.position", position.format("demo")) == [2]
    assert ages(database, "trips.position", position.format("other")) == [2, 7, 12]
    left = "SELECT tenant, array_agg(%s - end_at::date ORDER BY end_at DESC) FROM trips.trip GROUP BY 1 ORDER BY 1"
    assert database.rows(left, TODAY.date()) == [("demo", [2, 7]), ("other", [2, 7, 12])]


async def test_late_samples_wait_only_for_what_is_to_be_rolled_up_of_their_own_series(
    lifecycle: Lifecycle, database: Database
) -> None:
    """A tenant that keeps samples for a day only has a horizon above what others' devices send of yesterday, all day long."""
    own, other = series_of(database, "short"), series_of(database, "long")
    database.rows("SELECT runtime.raise_horizon('telemetry.sample', 'short', %s)", TODAY - timedelta(days=2))
    database.rows("INSERT INTO telemetry.late_sample VALUES (%s, %s, 1)", own, days_ago(4))
    touch = "INSERT INTO telemetry.touched (bucket, series) VALUES (%s, %s) RETURNING id"
    database.rows(touch, days_ago(4), [other])
    before = database.value(touch, days_ago(4) + timedelta(minutes=55), [other, own])
    assert not await merge_late(lifecycle), "the hour would be composed anew without the late sample"
    database.rows("DELETE FROM telemetry.touched WHERE id = %s", before)
    assert await merge_late(lifecycle)
    assert database.rows("SELECT series_id, count FROM lifecycle.rollup_1h") == [(own, 1)]
    assert not await merge_late(lifecycle)
