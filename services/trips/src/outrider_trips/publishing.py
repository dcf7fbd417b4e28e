"""The outbox to the broker: events in order, retained topics as they are last, both at least once; one replica at a time.

A broker that came back may have lost what was retained since it last saved: on every connection all is published again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

import psycopg

from outrider.contract import topics
from outrider.runtime.backoff import Backoff
from outrider.runtime.database import Database
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.session import Publisher
from outrider_trips import metrics

log = logging.getLogger(__name__)

LOOK_S = 0.25
AGAIN_S = 3600.0
"""All retained topics are published again so often, whatever happened unseen."""
BATCH = 200
LATE_S = 60.0
ALONE = "SELECT pg_try_advisory_xact_lock(7305442)"
EVENTS = "SELECT id, topic, payload FROM trips.outbox ORDER BY id LIMIT %s"
EVENTS_DONE = "DELETE FROM trips.outbox WHERE id = ANY (%s)"
RETAINED = """
SELECT tenant, device, payload, wanted FROM trips.retained WHERE wanted <> published ORDER BY tenant, device LIMIT %s
"""
RETAINED_DONE = """
UPDATE trips.retained r SET published = k.wanted FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS k(tenant, device, wanted)
WHERE (r.tenant, r.device) = (k.tenant, k.device)
"""
CLEARED = """
DELETE FROM trips.retained r USING unnest(%s::text[], %s::text[], %s::bigint[]) AS k(tenant, device, wanted)
WHERE (r.tenant, r.device, r.wanted) = (k.tenant, k.device, k.wanted) AND r.payload IS NULL
"""
AGAIN = "UPDATE trips.retained SET published = 0 WHERE published <> 0"
DEPTH = """
SELECT (SELECT count(*) FROM trips.outbox) + (SELECT count(*) FROM trips.retained WHERE wanted <> published),
       coalesce((SELECT extract(epoch FROM now() - min(at)) FROM trips.outbox), 0)::float8
"""


class Publishing:
    """Publishes what the outbox holds, until cancelled."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self._connections = 0
        self._again_at = 0.0
        self._problem: str | None = None

    def problem(self) -> str | None:
        """What keeps events from leaving."""
        return self._problem

    async def run(self) -> None:
        """Publish, until cancelled."""
        backoff = Backoff(max_s=5.0)
        looked = 0.0
        while True:
            try:
                published = 0
                if self._publisher.connected:
                    await self._again()
                    published = await self._publish()
                if time.monotonic() - looked > 2:
                    looked = time.monotonic()
                    await self._observe()
                backoff.reset()
                if not published:
                    await asyncio.sleep(LOOK_S)
            except Transient as error:
                log.warning("publishing_retried", extra={"reason": str(error)})
                await asyncio.sleep(backoff.next_s())

    async def _again(self) -> None:
        connections = self._publisher.connections
        if connections == self._connections and time.monotonic() < self._again_at:
            return
        async with self._database.transaction() as connection:
            await connection.execute(AGAIN)
        self._connections, self._again_at = connections, time.monotonic() + AGAIN_S

    async def _publish(self) -> int:
        """One batch; how many messages. What is published and not noted as such is published again."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(ALONE)).fetchone()
            if not (row and row[0]):
                return 0
            return await self._events(connection) + await self._retained(connection)

    async def _events(self, connection: psycopg.AsyncConnection) -> int:
        rows = await (await connection.execute(EVENTS, (BATCH,))).fetchall()
        for _, topic, payload in rows:
            with suppress(NotStored):  # nobody listens
                await self._publisher.publish(topic, payload.encode())
        if rows:
            await connection.execute(EVENTS_DONE, ([id_ for id_, *_ in rows],))
        return len(rows)

    async def _retained(self, connection: psycopg.AsyncConnection) -> int:
        rows = await (await connection.execute(RETAINED, (BATCH,))).fetchall()
        for tenant, device, payload, _ in rows:
            with suppress(NotStored):  # nobody listens now; who comes later gets it
                topic = topics.TRIP.name(tenant=tenant, device=device)
                await self._publisher.publish(topic, (payload or "").encode(), retain=True)
        for statement, done in (
            (RETAINED_DONE, [row for row in rows if row[2] is not None]),
            (CLEARED, [row for row in rows if row[2] is None]),
        ):
            if done:
                columns = ([t for t, *_ in done], [d for _, d, *_ in done], [wanted for *_, wanted in done])
                await connection.execute(statement, columns)
        return len(rows)

    async def _observe(self) -> None:
        async with self._database.transaction() as connection:
            depth, oldest_s = await (await connection.execute(DEPTH)).fetchone() or (0, 0.0)
        metrics.OUTBOX.set(depth)
        late = oldest_s > LATE_S
        self._problem = f"{depth} messages wait, the oldest for {oldest_s:.0f} s; is the broker up?" if late else None
