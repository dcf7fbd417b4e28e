"""Jobs: one replica works, another takes over, progress is kept, and the service runs them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from outrider.runtime.database import Database as Pool
from outrider.runtime.errors import Transient
from outrider.runtime.session import Publisher
from outrider.runtime.slots import Lease
from outrider.servers import Mosquitto
from outrider.testing.fixtures import Database
from outrider.testing.services import running
from outrider.testing.waiting import eventually
from outrider_lifecycle.app import service
from outrider_lifecycle.context import GROUP, Lifecycle
from outrider_lifecycle.jobs import Job, Jobs, Progress
from outrider_lifecycle.partitions import make_ahead
from outrider_lifecycle.settings import Settings

LEASE_TIMEOUT_S = 1.0


@contextlib.asynccontextmanager
async def replica(
    database: Database, name: str, run: Any, interval_s: float = 3600.0
) -> AsyncIterator[asyncio.Task[None]]:
    """A replica with one job, `work`."""
    pool = Pool(database.service_urls[GROUP], f"lifecycle/{name}/1")
    await pool.open()
    settings = Settings(replica=name, lease_timeout_s=LEASE_TIMEOUT_S)
    lifecycle = Lifecycle(settings, pool, Publisher("mqtt://127.0.0.1:1", f"svc:lifecycle:{name}"))
    task = asyncio.create_task(Jobs(lifecycle, [Job("work", interval_s, run)]).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await pool.close()


async def test_one_of_two_replicas_works_and_the_other_takes_over_where_it_stopped(database: Database) -> None:
    """Fault: the one that works ends without a word; its progress is the other's."""
    done: list[tuple[str, int]] = []
    hold = asyncio.Event()

    def work(name: str) -> Any:
        async def run(progress: Progress) -> bool:
            step = int(progress.values.get("step", 0)) + 1
            await progress.save(step=step)
            done.append((name, step))
            if step == 3 and not hold.is_set():
                hold.set()
                await asyncio.sleep(3600)
            return step < 5

        return run

    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(replica(database, "a", work("a")))
        await hold.wait()
        await stack.enter_async_context(replica(database, "b", work("b")))
        with contextlib.suppress(AssertionError):  # while the first one lives the second does nothing
            await eventually(lambda: any(name == "b" for name, _ in done), 2 * LEASE_TIMEOUT_S)
        assert done == [("a", 1), ("a", 2), ("a", 3)]
        first.cancel()
        await eventually(lambda: len(done) >= 5, 10)
        await eventually(
            lambda: database.value("SELECT finished_at IS NOT NULL FROM lifecycle.job WHERE name = 'work'")
        )
    assert done == [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("b", 5)]


async def test_a_job_runs_when_somebody_wants_it_and_says_what_keeps_it(database: Database) -> None:
    runs = 0
    full = False

    async def run(progress: Progress) -> bool:
        nonlocal runs
        if full:
            raise Transient("the disk is full")
        runs += 1
        return False

    async with replica(database, "a", run):
        await eventually(lambda: runs == 1)
        await eventually(lambda: database.value("SELECT count(*) FROM lifecycle.job WHERE finished_at IS NOT NULL"))
        full = True
        database.rows("SELECT lifecycle.want('work')")
        await eventually(lambda: database.value("SELECT problem FROM lifecycle.job") == "the disk is full")
        full = False
        await eventually(lambda: runs == 2)  # it is tried again
        await eventually(lambda: database.value("SELECT problem IS NULL FROM lifecycle.job"))


async def test_a_job_with_a_mistake_in_it_does_not_keep_the_others(database: Database, lifecycle: Lifecycle) -> None:
    tried = asyncio.Event()

    async def bad(progress: Progress) -> bool:
        tried.set()
        raise ValueError("a mistake of ours")

    async def good(progress: Progress) -> bool:
        await tried.wait()
        async with lifecycle.transaction() as connection:
            await connection.execute("SELECT pg_sleep(0.3)")
        return False

    jobs = Jobs(lifecycle, [Job("bad", 3600.0, bad), Job("good", 3600.0, good)])
    working = asyncio.create_task(jobs.work(Lease(GROUP, 0, 1)))
    try:
        await eventually(
            lambda: database.value(
                "SELECT count(*) FROM lifecycle.job WHERE name = 'good' AND finished_at IS NOT NULL"
            ),
            5,
        )
        problem = database.value("SELECT problem FROM lifecycle.job WHERE name = 'bad'")
        assert problem == "ValueError: a mistake of ours"
        assert not working.done()
    finally:
        working.cancel()
        await asyncio.wait([working])


async def test_partitions_are_there_before_their_days(database: Database, lifecycle: Lifecycle) -> None:
    tables = await make_ahead(lifecycle)
    assert tables == database.value("SELECT count(*) FROM runtime.partitioned")
    today = database.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    for table, days in database.rows("SELECT name, days FROM runtime.partitioned"):
        for ahead in (0, lifecycle.settings.partitions_ahead_days):
            start = today + timedelta(days=ahead)
            start = database.value("SELECT runtime.partition_start(%s, %s)", start, days)
            assert database.value("SELECT to_regclass(%s) IS NOT NULL", f"{table}_{start:%Y%m%d}"), (table, start)


@pytest.mark.servers
async def test_the_service_rolls_up_what_the_ledger_got(mosquitto: Mosquitto, database: Database) -> None:
    database.rows("SELECT runtime.ensure_partitions('telemetry.sample', ARRAY[(now() - interval '1 hour')::date])")
    database.rows("INSERT INTO telemetry.sample VALUES (1, now() - interval '1 hour', 5)")
    database.rows(
        "INSERT INTO telemetry.touched (bucket, series)"
        " VALUES (date_bin('5 minutes', now() - interval '1 hour', 'epoch'), '{1}')"
    )
    async with running(service, mosquitto.url, database.service_urls[GROUP]):
        await eventually(lambda: database.value("SELECT count(*) FROM lifecycle.rollup_5m") == 1)
        names = (
            "SELECT count(*) FROM lifecycle.job WHERE finished_at IS NOT NULL AND problem IS NULL AND name = ANY (%s)"
        )
        await eventually(lambda: database.value(names, ["partitions", "rollups", "retention"]) == 3)
