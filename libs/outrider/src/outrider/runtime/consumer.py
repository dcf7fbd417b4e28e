"""Batches from leased slots to a handler, under the one ack rule: stored or rejected → ack; neither → retry, un-acked.

A handler gets a batch and returns when all of it is stored or rejected. It raises `Transient` when it may work
later: the same batch is tried again with backoff, and the broker holds back what follows. It raises `Rejected` (or
anything unforeseen) when some message cannot be handled: the batch is bisected and that message kept with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from outrider.contract import topics
from outrider.contract.reasons import Reason
from outrider.runtime import metrics, rejects
from outrider.runtime.backoff import Backoff
from outrider.runtime.database import POISON, Database
from outrider.runtime.errors import Rejected, Transient
from outrider.runtime.mqtt import Delivery
from outrider.runtime.session import Session
from outrider.runtime.slots import Lease, Slots

log = logging.getLogger(__name__)

UNFORESEEN_ATTEMPTS = 3
"""An unforeseen error may pass (or be a bug): so many tries of a batch before it is bisected for the culprit."""
STOP_GRACE_S = 6.0
"""How long a stopping slot may finish its batch in hand; past it the batch stays un-acked and comes again."""

Handler = Callable[[Lease, Sequence[Delivery]], Awaitable[None]]
Filters = Callable[[int], Sequence[str]]
OnRejected = Callable[[Delivery, Reason], Awaitable[None]]
"""Called once the runtime itself has kept a message: the place to tell its sender."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """How a group consumes: `slots` fixed slots; a batch closes at the first of the three limits."""

    group: str
    slots: int
    batch_max_messages: int
    batch_max_bytes: int
    batch_max_age_s: float
    receive_maximum: int
    must_store: bool = False
    """Whoever publishes for this group asks the broker whether its slots are there (`Publisher.publish_stored`)."""


class Consumer:
    """One consumer group of this replica: leases slots, attends their sessions and settles every message."""

    def __init__(
        self,
        settings: ConsumerSettings,
        filters: Filters,
        handle: Handler,
        *,
        mqtt_url: str,
        database: Database,
        replica: str,
        lease_timeout_s: float,
        in_hand_max_bytes: int,
        on_rejected: OnRejected | None = None,
    ) -> None:
        self.settings = settings
        self._filters = filters
        self._handle = handle
        self._on_rejected = on_rejected
        self._mqtt_url = mqtt_url
        self._database = database
        self._session_max_bytes = in_hand_max_bytes // settings.slots
        self._sessions: dict[int, Session] = {}
        self.slots = Slots(database, settings.group, settings.slots, replica, lease_timeout_s, self._attend)
        self._retrying: dict[int, str] = {}

    def problem(self) -> str | None:
        """What keeps this group from consuming, in one sentence; None when all its held slots are attended.

        Called by the thread of the health endpoints.
        """
        if self.slots.problem:
            return self.slots.problem
        away = [session.client_id for session in list(self._sessions.values()) if not session.connected]
        if away:
            return f"not connected to the broker: {', '.join(away)}"
        return next((f"slot {slot} retries: {why}" for slot, why in list(self._retrying.items())), None)

    def idle(self) -> list[int]:
        """Slots whose session is up and has nothing in hand: what the broker gave so far is settled."""
        return [slot for slot, session in self._sessions.items() if session.connected and session.in_hand[0] == 0]

    def observe(self) -> None:
        """Refresh the gauges of what is in hand."""
        in_hand = [session.in_hand for session in self._sessions.values()]
        oldest = min((s.oldest_ms for s in self._sessions.values() if s.oldest_ms is not None), default=None)
        group = self.settings.group
        metrics.IN_HAND_MESSAGES.labels(group).set(sum(messages for messages, _ in in_hand))
        metrics.IN_HAND_BYTES.labels(group).set(sum(size for _, size in in_hand))
        metrics.OLDEST_SECONDS.labels(group).set(max(0.0, time.time() - oldest / 1000) if oldest is not None else 0)

    async def run(self) -> None:
        """Consume until cancelled; then finish the batches in hand, acknowledge them and keep the sessions."""
        await self.slots.run()

    async def _attend(self, lease: Lease) -> None:
        session = Session(
            self._mqtt_url,
            lease.client_id,
            [*self._filters(lease.slot), *self._own_topics(lease)],
            receive_maximum=self.settings.receive_maximum,
            max_bytes=self._session_max_bytes,
            may_connect=lease.renewal.confirmed,
        )
        self._sessions[lease.slot] = session
        stopping = asyncio.Event()
        connection = asyncio.create_task(session.run(), name=f"{lease.client_id}:session")
        work = asyncio.create_task(self._work(lease, session, stopping), name=f"{lease.client_id}:work")
        retire = asyncio.create_task(self._retire(lease, session), name=f"{lease.client_id}:retire")
        try:
            done, _ = await asyncio.wait({connection, work, retire}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stopping.set()
            retire.cancel()
            await asyncio.shield(self._stop(lease, session, connection, work))

    def _own_topics(self, lease: Lease) -> list[str]:
        return [topics.ATTENDED.name(group=lease.group, slot=lease.slot)] if self.settings.must_store else []

    async def _retire(self, lease: Lease, session: Session) -> None:
        await lease.retiring.wait()
        await session.retire()
        lease.retired.set()

    async def _stop(
        self, lease: Lease, session: Session, connection: asyncio.Task[None], work: asyncio.Task[None]
    ) -> None:
        # Stop taking, finish the batch in hand, ack, disconnect without UNSUBSCRIBE: the broker keeps the rest.
        if not work.done():
            await asyncio.wait([work], timeout=STOP_GRACE_S if lease.slot not in self._retrying else 1.0)
        for task in (work, connection):
            task.cancel()
        await asyncio.wait([work, connection])
        await session.close(end_session=lease.retired.is_set())
        self._sessions.pop(lease.slot, None)
        self._retrying.pop(lease.slot, None)

    async def _work(self, lease: Lease, session: Session, stopping: asyncio.Event) -> None:
        limits = self.settings
        while not stopping.is_set():
            take = asyncio.create_task(
                session.take(limits.batch_max_messages, limits.batch_max_bytes, limits.batch_max_age_s)
            )
            stop = asyncio.create_task(stopping.wait())
            try:
                await asyncio.wait({take, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not take.done():
                    return
                batch = take.result()
            finally:
                stop.cancel()
                take.cancel()
            started = time.monotonic()
            await self._settle(lease, batch, session)
            metrics.BATCH_SECONDS.labels(limits.group).observe(time.monotonic() - started)

    async def _settle(self, lease: Lease, batch: Sequence[Delivery], session: Session) -> None:
        """Acknowledge each message once it is stored or rejected; give up only when their connection died, because
        then the broker sends them again."""
        group = self.settings.group
        backoff = Backoff(max_s=5.0)
        unforeseen = 0
        while True:
            try:
                await self._handle(lease, batch)
                metrics.CONSUMED.labels(group, "stored").inc(len(batch))
                session.ack(batch)
                return
            except Transient as error:
                reason = str(error)
            except Rejected as error:
                await self._bisect(lease, batch, session, error.reason, error.detail)
                return
            except POISON as error:
                await self._bisect(lease, batch, session, Reason.BAD_VALUE, str(error).strip().split("\n", 1)[0])
                return
            except Exception as error:
                unforeseen += 1
                reason = f"{type(error).__name__}: {error}"
                log.exception("batch_failed", extra={"group": group, "slot": lease.slot, "attempt": unforeseen})
                if unforeseen >= UNFORESEEN_ATTEMPTS:
                    await self._bisect(lease, batch, session, Reason.UNPROCESSABLE, reason)
                    return
            session.ack([delivery for delivery in batch if delivery.done])
            batch = [delivery for delivery in batch if not delivery.done]
            if not batch or not await self._wait_to_retry(lease, batch, backoff, reason):
                return

    async def _wait_to_retry(self, lease: Lease, batch: Sequence[Delivery], backoff: Backoff, reason: str) -> bool:
        group, connection = self.settings.group, batch[0].connection
        delay_s = backoff.next_s()
        metrics.RETRIES.labels(group).inc()
        log.warning(
            "batch_retried",
            extra={
                "group": group,
                "slot": lease.slot,
                "attempt": backoff.attempt,
                "retry_s": round(delay_s, 2),
                "reason": reason,
            },
        )
        self._retrying[lease.slot] = reason
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await connection.closed.wait()
            if connection.closed.is_set():
                metrics.CONSUMED.labels(group, "redelivered").inc(len(batch))
                return False
            return True
        finally:
            self._retrying.pop(lease.slot, None)

    async def _bisect(
        self, lease: Lease, batch: Sequence[Delivery], session: Session, reason: Reason, detail: str
    ) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._settle(lease, batch[:middle], session)
            await self._settle(lease, batch[middle:], session)
            return
        delivery = batch[0]
        backoff = Backoff(max_s=5.0)
        rejection = rejects.from_topic(delivery.topic, delivery.payload, delivery.received_ms, reason, detail)
        while True:
            try:
                async with self._database.transaction() as connection:
                    await rejects.keep(connection, self.settings.group, [rejection])
                log.error("message_rejected", extra={"topic": delivery.topic, "reason": reason, "detail": detail})
                metrics.CONSUMED.labels(self.settings.group, "rejected").inc()
                if self._on_rejected is not None:
                    with contextlib.suppress(Transient):  # like any ack: a lost one costs a resend
                        await self._on_rejected(delivery, reason)
                session.ack(batch)
                return
            except Transient as error:
                if not await self._wait_to_retry(lease, batch, backoff, str(error)):
                    return
