"""The story of one vehicle: lock → window → segment → edits → what changed → write, outbox, clock; in one transaction.

Any replica takes the vehicle that waits longest. Whatever ends the transaction early leaves it waiting as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg

from outrider.runtime.backoff import Backoff
from outrider.runtime.database import Database
from outrider.runtime.errors import Transient
from outrider.trips import Behind, Checkpoint, Rules, Sample, Segmentation, follow
from outrider_trips import metrics, outbox, vehicles
from outrider_trips.changes import Changes, Stored, compare
from outrider_trips.overlay import Edit, Shown, segment_edited
from outrider_trips.profiles import Profiles
from outrider_trips.settings import Settings
from outrider_trips.vehicles import Vehicle
from outrider_trips.windows import Bounds, Loader, Window

log = logging.getLogger(__name__)

LOOK_S = 0.3
"""How often it is looked for vehicles that wait, while there are none."""
CANDIDATES = 100
INLINE_MAX_ROWS = 2_000
"""Larger windows are segmented in a thread, so that the broker's keepalives are answered meanwhile."""
SHARE = 0.05
"""Of a worker's time that one vehicle's open trip may take, as far as the longest interval allows."""


class Segmenter:
    """Segments vehicles until cancelled; several of its `run` may be at work at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._profiles = Profiles()
        self._queue: deque[int] = deque()
        self._at_work: set[int] = set()
        self._many = False
        """More wait than one look finds: each then waits the longest interval."""
        self._looking = asyncio.Lock()
        self._problem: str | None = None
        self._failing: dict[int, str] = {}

    def problem(self) -> str | None:
        """What keeps trips from being segmented."""
        return self._problem or next((f"vehicle {id_}: {why}" for id_, why in list(self._failing.items())), None)

    async def run(self) -> None:
        """Take vehicles, the one that waits longest first."""
        backoff = Backoff(max_s=5.0)
        while True:
            try:
                id_ = await self._next()
                if id_ is None:
                    await asyncio.sleep(LOOK_S)
                else:
                    await self._try(id_)
                self._problem = None
                backoff.reset()
            except Transient as error:
                self._problem = str(error)
                log.warning("segmentation_retried", extra={"reason": str(error)})
                await asyncio.sleep(backoff.next_s())

    async def _try(self, id_: int) -> None:
        """Segment a vehicle; one that cannot be waits a minute, and the others go on."""
        self._at_work.add(id_)
        try:
            await self.segment(id_)
            self._failing.pop(id_, None)
        except Transient:
            raise
        except Exception as error:
            self._failing[id_] = f"{type(error).__name__}: {error}"
            log.exception("segmentation_failed", extra={"vehicle": id_})
            async with self._database.transaction() as connection:
                await vehicles.postpone(connection, id_)
        finally:
            self._at_work.discard(id_)

    async def _next(self) -> int | None:
        async with self._looking:
            if not self._queue:
                async with self._database.transaction() as connection:
                    found = await vehicles.candidates(connection, CANDIDATES)
                self._many = len(found) == CANDIDATES
                self._queue.extend(id_ for id_ in found if id_ not in self._at_work)
            return self._queue.popleft() if self._queue else None

    async def segment(self, id_: int) -> bool:
        """Segment what was touched of a vehicle; False if there was nothing to do. Raises Transient."""
        started = time.monotonic()
        async with self._database.transaction() as connection:
            vehicle = await vehicles.take(connection, id_)
            if vehicle is None or (not vehicle.pieces and not vehicle.due):
                return False
            changes = await self._work(connection, vehicle) if vehicle.moves else None
            pause_s = (time.monotonic() - started) / SHARE
            settings = self._settings
            pause_s = min(max(pause_s, settings.trips_interval_min_s), settings.trips_interval_max_s)
            if self._many:
                pause_s = settings.trips_interval_max_s
            await vehicles.settle(connection, vehicle, pause_s)
        metrics.SECONDS.observe(time.monotonic() - started)
        for one in changes.written if changes else ():
            if one.event:
                metrics.EVENTS.labels(one.event).inc()
        metrics.EVENTS.labels("removed").inc(len(changes.removed) if changes else 0)
        return True

    async def _work(self, connection: psycopg.AsyncConnection, vehicle: Vehicle) -> Changes | None:
        if vehicle.first_ms is None or vehicle.last_ms is None:
            return None
        from_ms = vehicle.last_ms if vehicle.from_ms is None else vehicle.from_ms
        to_ms = vehicle.last_ms if vehicle.to_ms is None or vehicle.due else vehicle.to_ms
        if to_ms < vehicle.horizon_ms:
            if vehicle.due:
                _gone(vehicle)
            return None
        rules = await self._profiles.of(connection, vehicle.tenant, vehicle.device)
        as_of_ms = as_of(vehicle, int(self._settings.trips_settle_s * 1000))
        changes = await self._go_on(connection, vehicle, rules, as_of_ms, from_ms)
        if changes is not None:
            return changes
        bounds = Bounds(
            max(from_ms, vehicle.horizon_ms),
            to_ms,
            vehicle.first_ms,
            vehicle.last_ms,
            vehicle.horizon_ms,
            vehicle.hint_ms,
            self._settings.trips_window_max_rows,
        )
        window, stored, edits = await _load(connection, vehicle, rules, bounds)
        if window.frozen:
            _count_frozen(vehicle, window)
        if not window.samples:
            if vehicle.due:
                _gone(vehicle)
            return None
        shown, now, checkpoint = await _segment(window.samples, rules, as_of_ms, edits)
        _count(now, window.rows_read, clipped=window.clipped)
        if window.frozen or window.clipped:  # what reaches over the edge stays as it is
            over = max((trip.end_ms for trip in stored if trip.start_ms < window.left_ms), default=-1)
            stored = [trip for trip in stored if trip.start_ms >= window.left_ms]
            shown = [one for one in shown if one.trip.start_ms > over]
        if window.right_ms is None:
            exact = checkpoint is not None and not (window.frozen or window.clipped)
            vehicle.checkpoint = _packed(checkpoint, rules) if checkpoint and exact else None
            vehicle.hint_ms = window.resume_from_ms
            self._stands(vehicle, now, as_of_ms)
        return await _replace(connection, vehicle, stored, shown)

    async def _go_on(
        self, connection: psycopg.AsyncConnection, vehicle: Vehicle, rules: Rules, as_of_ms: int, from_ms: int
    ) -> Changes | None:
        """Segment from the vehicle's checkpoint on, as far as that is what its whole window gives; None: it takes that."""
        packed = vehicle.checkpoint
        if packed is None or packed["rules"] != _digest(rules) or packed["read_ms"] < vehicle.horizon_ms:
            return None
        if packed["read_ms"] < (vehicle.hint_ms or 0) < from_ms - rules.reach_ms:
            return None  # the window is smaller
        since = Checkpoint.from_json(packed)
        if await vehicles.edits(connection, vehicle.id, since.start_ms, None):
            return None
        samples = await vehicles.rows(connection, vehicle.id, since.read_ms, None)
        try:
            shown, now, checkpoint = await _segment(samples, rules, as_of_ms, [], since)
        except Behind:
            return None
        _count(now, len(samples), clipped=False)
        if checkpoint is not None and checkpoint != since:
            vehicle.checkpoint = _packed(checkpoint, rules)
        stored = await vehicles.trips(connection, vehicle.id, since.start_ms, None)
        self._stands(vehicle, now, as_of_ms)
        return await _replace(connection, vehicle, [trip for trip in stored if trip.start_ms >= since.start_ms], shown)

    def _stands(self, vehicle: Vehicle, now: Segmentation, as_of_ms: int) -> None:
        vehicle.state, vehicle.since_ms, vehicle.as_of_ms = now.state, now.since_ms, as_of_ms
        vehicle.due_ms = due(now.due_ms, vehicle, int(self._settings.trips_settle_s * 1000))


def _gone(vehicle: Vehicle) -> None:
    """Its newest rows are."""
    vehicle.state, vehicle.since_ms, vehicle.due_ms, vehicle.hint_ms = "idle", None, None, None


async def _replace(
    connection: psycopg.AsyncConnection, vehicle: Vehicle, stored: list[Stored], shown: list[Shown]
) -> Changes:
    changes = compare(stored, shown, late=vehicle.late)
    await vehicles.remove(connection, [trip.id for trip in changes.removed])
    await vehicles.write(connection, vehicle, changes.written)
    await outbox.put(connection, vehicle, changes)
    return changes


def _packed(checkpoint: Checkpoint, rules: Rules) -> dict[str, Any]:
    return checkpoint.to_json() | {"rules": _digest(rules)}


def _digest(rules: Rules) -> str:
    return hashlib.blake2b(repr(rules).encode(), digest_size=8).hexdigest()


async def _load(
    connection: psycopg.AsyncConnection, vehicle: Vehicle, rules: Rules, bounds: Bounds
) -> tuple[Window, list[Stored], list[Edit]]:
    """The window with the stored trips and edits in it, made wider until none reaches over its edges."""
    loader = Loader(
        lambda low_ms, high_ms: vehicles.rows(connection, vehicle.id, low_ms, high_ms),
        lambda at_ms, later: vehicles.neighbour(connection, vehicle.id, at_ms, later),
        rules,
        bounds,
    )
    stored: list[Stored] = []
    edits: list[Edit] = []

    async def reach(window: Window) -> tuple[int, int]:
        nonlocal stored, edits
        stored = await vehicles.trips(connection, vehicle.id, window.left_ms, window.right_ms)
        edits = await vehicles.edits(connection, vehicle.id, window.left_ms, window.right_ms)
        return (
            min([*(trip.start_ms for trip in stored), *(edit.from_ms for edit in edits), window.left_ms]),
            max([*(trip.end_ms for trip in stored), *(edit.to_ms for edit in edits), 0]),
        )

    window = await loader.load_all(reach)
    return window, stored, edits


async def _segment(
    samples: Sequence[Sample], rules: Rules, as_of_ms: int, edits: Sequence[Edit], since: Checkpoint | None = None
) -> tuple[list[Shown], Segmentation, Checkpoint | None]:
    def work() -> tuple[list[Shown], Segmentation, Checkpoint | None]:
        if edits:
            return (*segment_edited(samples, rules, as_of_ms, edits), None)
        now, checkpoint = follow(samples, rules, as_of_ms, since)
        return [Shown(trip) for trip in now.trips], now, checkpoint

    return work() if len(samples) <= INLINE_MAX_ROWS else await asyncio.to_thread(work)


def _count(now: Segmentation, rows_read: int, *, clipped: bool) -> None:
    metrics.SEGMENTATIONS.inc()
    metrics.WINDOW_ROWS.inc(rows_read)
    metrics.CLIPPED.inc(clipped)
    for reason, count in now.filtered.items():
        metrics.FILTERED.labels(reason).inc(count)


def _count_frozen(vehicle: Vehicle, window: Window) -> None:
    """Rows behind the horizon of a window that begins before it; those before it were counted when they were stored."""
    begins_ms = window.left_ms if window.samples else math.inf
    late = sum(rows for _, to_ms, rows in vehicle.pieces if vehicle.horizon_ms <= to_ms < begins_ms)
    vehicle.frozen += late
    metrics.FROZEN.inc(late)


def as_of(vehicle: Vehicle, settle_ms: int) -> int:
    """The time that a vehicle's trips are judged at.

    Never later than what is stored of its slot. While its data still comes, the clock is that of the data: the newest row,
    plus the time since that was received. Late rows do not put the clock back.
    """
    assert vehicle.last_ms is not None
    clock_ms = vehicle.clock_ms or vehicle.last_ms
    if vehicle.received_ms is None or clock_ms - vehicle.received_ms >= settle_ms:
        return clock_ms
    held_ms = min(clock_ms, vehicle.last_ms + max(0, clock_ms - vehicle.received_ms))
    advanced = vehicle.to_ms is not None and vehicle.to_ms >= vehicle.last_ms
    return held_ms if advanced or vehicle.as_of_ms is None else min(clock_ms, max(held_ms, vehicle.as_of_ms))


def due(due_ms: int | None, vehicle: Vehicle, settle_ms: int) -> int | None:
    """When the slot's clock makes `as_of` reach a time."""
    if due_ms is None or vehicle.received_ms is None or vehicle.last_ms is None:
        return due_ms
    return max(due_ms, vehicle.received_ms + min(due_ms - vehicle.last_ms, settle_ms))
