"""The vocabulary of the timelines: what can be done to PostgreSQL and to the transactions of services."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg

from tests.chaos.actions import stay_frozen
from tests.chaos.devices import TENANT
from tests.chaos.stage import WRITABLE, Stage, signal_to
from tests.chaos.timeline import Action

ATTEMPTS = 30
FOUND_S = 20.0
"""How long a session of a service may take to meet a lock that is in its way."""
CHANGE = f"UPDATE telemetry.sequence SET last_at = last_at WHERE tenant = '{TENANT}'"
DEADLOCK = "deadlock detected"
SERIALIZATION = "could not serialize access"


def read_only(for_s: float) -> Action:
    """PostgreSQL takes no writes."""

    async def run(stage: Stage) -> None:
        stage.counts["read-only"] += 1
        await stage.admin("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(for_s)
            refuses = await asyncio.to_thread(_is_read_only, stage.admin_url)
            assert refuses, "PostgreSQL went on taking writes"
        finally:
            await stage.admin("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")

    return Action(f"PostgreSQL read-only for {for_s:g} s", run)


def _is_read_only(url: str) -> bool:
    with psycopg.connect(url, connect_timeout=5) as connection:
        return connection.execute("SHOW transaction_read_only").fetchone() == ("on",)


FILL = """
INSERT INTO telemetry.sample (series_id, ts, value)
SELECT s.id, now() - interval '1 second' * n / 1000, 0 FROM
    (SELECT id FROM telemetry.series WHERE tenant = 'filler') s, generate_series(1, 600000) n ON CONFLICT DO NOTHING
"""


def fill_disk(for_s: float) -> Action:
    """PostgreSQL cannot extend its tables: see `Stage.full_disk`."""

    async def run(stage: Stage) -> None:
        await stage.admin(
            "INSERT INTO telemetry.series (tenant, device, metric, kind) "
            "VALUES ('filler', 'filler', 'm', 'number') ON CONFLICT DO NOTHING",
            FILL,
        )
        with stage.full_disk():
            await asyncio.sleep(for_s)
        assert _said(stage, "could not extend file"), "PostgreSQL met no full disk"

    return Action(f"disk of PostgreSQL full for {for_s:g} s", run)


def end_sessions(service: str) -> Action:
    """PostgreSQL ends the sessions of a service, whatever they are doing."""
    query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '{service}/%'"

    async def run(stage: Stage) -> None:
        ((ended,),) = await stage.admin(query)
        assert isinstance(ended, int)
        assert ended, f"{service} had no database session"
        stage.counts["database session ended"] += ended

    return Action(f"end the database sessions of {service}", run)


def lose_commit_replies(service: str, times: int) -> Action:
    """The next commits of a service succeed, and its connection dies before the reply."""

    async def run(stage: Stage) -> None:
        proxy = await stage.reply_proxy(service)
        before = proxy.swallowed
        proxy.lose_reply_to(b"COMMIT\0", times)
        deadline = time.monotonic() + 20
        while proxy.swallowed - before < times and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        stage.counts["commit reply lost"] += proxy.swallowed - before
        assert proxy.swallowed - before == times, f"only {proxy.swallowed - before} replies were lost"

    return Action(f"lose the replies to {times} commits of {service}", run)


def database_outage(for_s: float) -> Action:
    """PostgreSQL is away, and no service may end for it: they wait."""

    async def run(stage: Stage) -> None:
        before = await stage.service_pids()
        async with stage.without("postgres"):
            await asyncio.sleep(for_s)
        stage.note_worst("PostgreSQL stopped", for_s)
        after = await stage.service_pids()
        ended = [name for name, pid in before.items() if after.get(name) != pid]
        assert not ended, f"did not outlive {for_s:g} s without PostgreSQL: {', '.join(ended)}"

    return Action(f"stop postgres for {for_s:g} s; no service may end", run)


def deadlock(service: str) -> Action:
    """A session takes the accounting's rows in the opposite order; PostgreSQL ends the transaction of the service."""

    async def run(stage: Stage) -> None:
        names = sorted(device.name for device in stage.fleet.devices)
        middle, before = names[len(names) // 2], _said(stage, DEADLOCK)
        for _ in range(ATTEMPTS):
            with suppress(psycopg.errors.DeadlockDetected):
                async with _in_the_way(stage, service, _rows(f"device >= '{middle}'", "DESC")) as (admin, _):
                    await admin.execute(_rows(f"device < '{middle}'", "DESC").encode())
            if _said(stage, DEADLOCK) > before:
                stage.counts["deadlock"] += 1
                return
        raise AssertionError(f"no transaction of {service} held one row and waited for another")

    return Action(f"deadlock with a transaction of {service}", run)


def serialization_failures(service: str, times: int) -> Action:
    """Transactions are serializable for a while, and rows they count in change under them."""

    async def run(stage: Stage) -> None:
        before = _said(stage, SERIALIZATION)
        await stage.admin("ALTER SYSTEM SET default_transaction_isolation = 'serializable'", "SELECT pg_reload_conf()")
        try:
            for _ in range(ATTEMPTS):
                async with _in_the_way(stage, service, _rows("true")) as (admin, _):
                    await admin.execute(CHANGE.encode())
                    await admin.commit()
                failed = _said(stage, SERIALIZATION) - before
                if failed >= times:
                    break
                await asyncio.sleep(0.1)
        finally:
            await stage.admin("ALTER SYSTEM RESET default_transaction_isolation", "SELECT pg_reload_conf()")
        stage.counts["serialization failure"] += failed
        assert failed >= times, f"only {failed} transactions could not be serialized"

    return Action(f"{times} serialization failures of {service}", run)


def end_in_transaction(service: str) -> Action:
    """In the middle of their transactions one session of a service is cancelled and the others are ended."""

    async def run(stage: Stage) -> None:
        async with _in_the_way(stage, service, _rows("true")) as (_, waiting):
            cancelled, *ended = (backend for backend, _ in waiting)
            await stage.admin(f"SELECT pg_cancel_backend({cancelled})")
            await stage.admin(f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{ended}::int[]) AS pid")
        stage.counts["transaction cancelled"] += 1
        stage.counts["database session ended"] += len(ended)

    return Action(f"cancel or end the transactions of {service}", run)


def freeze_in_copy(service: str, for_s: float) -> Action:
    """SIGSTOP for a process that is certainly in the middle of a COPY into the ledger, and SIGCONT later."""
    # The lock keeps PostgreSQL from answering "go on, copy" until the process cannot hear it.
    return _freeze_in(service, for_s, "mid-COPY", "LOCK TABLE ONLY telemetry.sample IN SHARE MODE", "COPY%")


def freeze_in_lease(service: str, for_s: float) -> Action:
    """SIGSTOP for a process that has just renewed its leases and not committed it, and SIGCONT later."""
    statement = f"SELECT FROM runtime.slot WHERE group_name = '{service}' ORDER BY slot FOR UPDATE"
    return _freeze_in(service, for_s, "its lease round", statement, "%UPDATE runtime.slot SET heartbeat_at%")


def _freeze_in(service: str, for_s: float, where: str, lock: str, waiting_query: str) -> Action:
    async def run(stage: Stage) -> None:
        await stage.until_shared(service)
        async with _in_the_way(stage, service, lock, waiting_query) as (_, waiting):
            backend, holder = stage.random.choice(waiting)
            pid = int(holder.rpartition("/")[2].partition("-")[0])
            assert signal_to(pid, signal.SIGSTOP), f"{holder} is gone"
        try:
            await stage.eventually(
                f"SELECT count(*) FROM pg_stat_activity WHERE pid = {backend} AND xact_start IS NOT NULL "
                f"AND wait_event = 'ClientRead' AND query LIKE '{waiting_query}'",
                1,
                5,
            )
        except BaseException:
            signal_to(pid, signal.SIGCONT)
            raise
        stage.counts[f"frozen in {where}"] += 1
        await stay_frozen(stage, service, pid, for_s)

    return Action(f"freeze {service} in {where} for {for_s:g} s", run)


@asynccontextmanager
async def _in_the_way(
    stage: Stage, service: str, statement: str, waiting_query: str = "%"
) -> AsyncIterator[tuple[psycopg.AsyncConnection, list[tuple[int, str]]]]:
    """A session that holds what `statement` locks, and (backend, application name) of the service's sessions that wait
    for it, at least one. In a deadlock it hardly ever gives way: the other one looks for it sooner."""
    options = f"{WRITABLE} -c deadlock_timeout=5s -c default_transaction_isolation=read\\ committed"
    async with await psycopg.AsyncConnection.connect(stage.admin_url, connect_timeout=5, options=options) as admin:
        await admin.execute(statement.encode())
        query = (
            "SELECT pid, application_name FROM pg_stat_activity WHERE query LIKE %s AND application_name LIKE %s "
            "AND %s = ANY (pg_blocking_pids(pid))"
        )
        async with await psycopg.AsyncConnection.connect(
            stage.admin_url, autocommit=True, connect_timeout=5
        ) as looking:
            deadline = time.monotonic() + FOUND_S
            while True:
                cursor = await looking.execute(query, (waiting_query, f"{service}/%", admin.info.backend_pid))
                waiting = [(int(pid), str(name)) for pid, name in await cursor.fetchall()]
                if waiting:
                    break
                assert time.monotonic() < deadline, f"no session of {service} met the lock of {statement}"
                await asyncio.sleep(0.02)
        yield admin, waiting
        await admin.rollback()


def _rows(condition: str, order: str = "ASC") -> str:
    """Locks rows of the writer's accounting, which itself takes them in ascending order."""
    return (
        f"SELECT FROM telemetry.sequence WHERE tenant = '{TENANT}' AND {condition} "
        f"ORDER BY device {order}, stream {order}, boot {order} FOR UPDATE"
    )


def _said(stage: Stage, text: str) -> int:
    """How often PostgreSQL has written this into its log."""
    return (stage.platform.data_dir / "logs" / "postgres.log").read_text(errors="replace").count(text)
