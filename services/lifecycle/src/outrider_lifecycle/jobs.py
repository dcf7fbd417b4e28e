"""Jobs: what lifecycle does now and then, by the one replica that holds the lease, in steps that a crash cannot hurt.

The lease is the one of a consumer slot (delivery rule 12): a silent holder is replaced within seconds, its database
sessions are ended first, and if it wakes up again its transactions are refused (`Lifecycle.transaction`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
from prometheus_client import Counter, Gauge, Histogram

from outrider.runtime import cancelling
from outrider.runtime.backoff import Backoff
from outrider.runtime.database import POISON
from outrider.runtime.errors import Transient
from outrider.runtime.slots import Lease, Slots
from outrider_lifecycle.context import GROUP, Lifecycle

log = logging.getLogger(__name__)

STEPS = Counter("outrider_lifecycle_job_steps", "Steps done, by job", ["job"])
FAILURES = Counter("outrider_lifecycle_job_failures", "Steps that failed and are tried again, by job", ["job"])
STEP_SECONDS = Histogram("outrider_lifecycle_job_step_seconds", "Time of a step, by job", ["job"])
FINISHED = Gauge("outrider_lifecycle_job_finished_timestamp_seconds", "When a job last had nothing left to do", ["job"])

LOOK_S = 1.0
"""How often it is looked whether somebody wants a job."""

DECLARE = "INSERT INTO lifecycle.job (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
# The database's clock decides, so that a replica with another time takes over in step.
DUE = """
SELECT j.name FROM lifecycle.job j JOIN unnest(%s::text[], %s::float8[]) AS k(name, interval_s) USING (name)
WHERE j.finished_at IS NULL OR j.finished_at < clock_timestamp() - make_interval(secs => k.interval_s)
   OR j.started_at > j.finished_at OR j.wanted_at > j.started_at
"""
START = """
UPDATE lifecycle.job SET started_at = clock_timestamp(), holder = %s WHERE name = %s RETURNING progress
"""
FINISH = "UPDATE lifecycle.job SET finished_at = clock_timestamp(), problem = NULL WHERE name = %s"
FAIL = "UPDATE lifecycle.job SET failed_at = clock_timestamp(), problem = %s WHERE name = %s"
SAVE = "UPDATE lifecycle.job SET progress = %s WHERE name = %s"


class Progress:
    """What a job remembers between steps, runs and replicas; `values` is JSON and the job's own."""

    def __init__(self, lifecycle: Lifecycle, job: str, values: dict[str, Any]) -> None:
        self._lifecycle = lifecycle
        self._job = job
        self.values = values

    async def save(self, connection: psycopg.AsyncConnection | None = None, **changes: Any) -> None:
        """Remember; in the connection's transaction, so that it is true exactly when that is committed, or at once."""
        self.values = self.values | changes
        arguments = (orjson.dumps(self.values).decode(), self._job)
        if connection is not None:
            await connection.execute(SAVE, arguments)
            return
        async with self._lifecycle.transaction() as own:
            await own.execute(SAVE, arguments)


Run = Callable[[Progress], Awaitable[bool]]
"""One step; True: there is more to do at once. Raises Transient to be tried again later."""


@dataclass(frozen=True)
class Job:
    """Runs `interval_s` after it last had nothing left to do, and whenever `lifecycle.want(name)` asks for it.

    `run` does one step at a time. It may be cancelled or killed anywhere, and starts again with the progress it saved.
    """

    name: str
    interval_s: float
    run: Run


class Jobs:
    """Runs jobs while this replica is the one, each beside the others."""

    def __init__(self, lifecycle: Lifecycle, jobs: Sequence[Job]) -> None:
        self._lifecycle = lifecycle
        self._jobs = {job.name: job for job in jobs}
        self._wake = {job.name: asyncio.Event() for job in jobs}
        self._busy: set[str] = set()
        self._problems: dict[str, str] = {}
        settings = lifecycle.settings
        self.slots = Slots(lifecycle.database, GROUP, 1, settings.replica, settings.lease_timeout_s, self.work)

    def problem(self) -> str | None:
        """What keeps a job from being done; a replica that stands by has none."""
        problems = [f"{name}: {why}" for name, why in list(self._problems.items())]
        return self.slots.problem or "; ".join(problems) or None

    async def run(self) -> None:
        """Stand by and work in turn, until cancelled."""
        await self.slots.run()

    async def work(self, lease: Lease) -> None:
        """Do the jobs that are due, until cancelled."""
        tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._jobs.values()]
        look = asyncio.create_task(self._look(), name="look")
        try:
            done, _ = await asyncio.wait([*tasks, look], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a mistake of ours: told in the log, and begun anew with the next lease
        except Exception:
            log.exception("job_failed")
            raise
        finally:
            await cancelling.end([*tasks, look], 1.0)
            self._problems.clear()

    async def _look(self) -> None:
        names, intervals = list(self._jobs), [job.interval_s for job in self._jobs.values()]
        declared = False
        while True:
            busy = set(self._busy)  # what runs now is looked at again when it has ended
            try:
                async with self._lifecycle.transaction() as connection:
                    if not declared:
                        await connection.execute(DECLARE, (names,))
                    due = await (await connection.execute(DUE, (names, intervals))).fetchall()
                declared = True
                for (name,) in due:  # now that the jobs' rows are committed
                    if name not in busy:
                        self._wake[name].set()
                self._problems.pop("look", None)
            except Transient as error:
                self._problems["look"] = str(error)
            await asyncio.sleep(LOOK_S)

    async def _repeat(self, job: Job) -> None:
        backoff = Backoff(1.0, 60.0)
        while True:
            await self._wake[job.name].wait()
            self._busy.add(job.name)
            try:
                await self.once(job)
                self._problems.pop(job.name, None)
                backoff.reset()
            except Exception as error:
                reason = str(error).strip().split("\n", 1)[0]
                if not isinstance(error, (Transient, *POISON)):  # a mistake of ours: the other jobs go on meanwhile
                    reason = f"{type(error).__name__}: {reason}"
                    log.exception("job_failed", extra={"job": job.name})
                self._problems[job.name] = reason
                FAILURES.labels(job.name).inc()
                log.warning("job_interrupted", extra={"job": job.name, "reason": reason})
                await self._fail(job, reason)
                await asyncio.sleep(backoff.next_s())
            finally:
                self._wake[job.name].clear()
                self._busy.discard(job.name)

    async def once(self, job: Job) -> None:
        """Step by step until there is nothing left to do."""
        async with self._lifecycle.transaction() as connection:
            row = await (
                await connection.execute(START, (self._lifecycle.database.application_name, job.name))
            ).fetchone()
        progress = Progress(self._lifecycle, job.name, row[0] if row else {})
        more = True
        while more:
            started = time.monotonic()
            more = await job.run(progress)
            STEPS.labels(job.name).inc()
            STEP_SECONDS.labels(job.name).observe(time.monotonic() - started)
        async with self._lifecycle.transaction() as connection:
            await connection.execute(FINISH, (job.name,))
        FINISHED.labels(job.name).set(time.time())

    async def _fail(self, job: Job, reason: str) -> None:
        try:
            async with self._lifecycle.transaction() as connection:
                await connection.execute(FAIL, (reason[:1000], job.name))
        except Transient:
            return  # it is in the log and in /readyz
