"""The story of one bus batch: decode → rows of evidence, with the vehicles they touch, in one transaction.

Beside it each replica segments touched vehicles, publishes what became of them, and tells how far its slots have come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from outrider.contract import batch, limits, topics
from outrider.contract.reasons import Reason
from outrider.runtime.consumer import ConsumerSettings
from outrider.runtime.errors import Rejected
from outrider.runtime.mqtt import Delivery
from outrider.runtime.service import Chassis, Service
from outrider.runtime.slots import Lease
from outrider_trips import metrics
from outrider_trips.evidence import Reader
from outrider_trips.housekeeping import Housekeeping
from outrider_trips.progress import Progress
from outrider_trips.publishing import Publishing
from outrider_trips.segmenter import Segmenter
from outrider_trips.settings import Settings
from outrider_trips.store import Positions

log = logging.getLogger(__name__)

GROUP = "trips"
SHARDS_MAX = 256
"""As many as writer-timeseries can have slots."""


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → positions → consumer → handler; segmenter, publishing and housekeeping beside it."""
    settings = chassis.settings
    reader, positions = Reader(), Positions(chassis.database, settings.trips_refresh_s)
    progress = Progress(positions)

    async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
        evidence = reader.gather(decode(deliveries))
        for reason, count in evidence.ignored.items():
            metrics.IGNORED.labels(reason).inc(count)
        if evidence.devices:  # a batch without any costs no transaction
            stored = await positions.store(evidence, lease.slot)
            metrics.POSITIONS.inc(stored.rows)
            metrics.FROZEN.inc(stored.frozen)
            metrics.IGNORED.labels("erased").inc(stored.erased)
        progress.handled(lease.slot, evidence.received_ms)
        if evidence.received_ms:
            metrics.LAG.set(time.time() - evidence.received_ms / 1000)

    chassis.consume(
        ConsumerSettings(
            group=GROUP,
            slots=settings.trips_slots,
            batch_max_messages=settings.trips_batch_max_messages,
            batch_max_bytes=2 * 1024 * 1024,
            batch_max_age_s=settings.trips_batch_max_age_s,
            # Rule 12: window x largest batch x slots stays within in_hand_max_bytes.
            receive_maximum=max(
                16, settings.in_hand_max_bytes // (2 * limits.BUS_BATCH_MAX_BYTES * settings.trips_slots)
            ),
        ),
        filters=lambda slot: [topics.BUS_SAMPLES.name(shard=shard) for shard in shards_of(slot, settings.trips_slots)],
        handle=handle,
    )
    progress.consumer = chassis.consumers[-1]
    segmenter = Segmenter(chassis.database, settings)
    publishing = Publishing(chassis.database, chassis.publisher)
    housekeeping = Housekeeping(chassis.database, settings.trips_slots)
    chassis.health.checks["segmenter"] = segmenter.problem
    chassis.health.checks["publishing"] = publishing.problem
    chassis.health.checks["shards"] = housekeeping.problem
    chassis.run_beside("publishing", publishing.run)
    chassis.run_beside("progress", progress.run)
    chassis.run_beside("housekeeping", housekeeping.run)
    for worker in range(settings.trips_workers):
        chassis.run_beside(f"segmenter-{worker}", segmenter.run)


def shards_of(slot: int, slots: int) -> range:
    """The shards a slot reads: the bus may have more shards than this group has slots, and may get more at any time."""
    return range(slot, SHARDS_MAX, slots) if slot < slots else range(slot, slot + 1)


def decode(deliveries: Sequence[Delivery]) -> list[batch.SampleBatch]:
    """The bus batches. Raises Rejected for a payload that is none, which the runtime isolates and keeps."""
    try:
        return [batch.decode_samples(delivery.payload) for delivery in deliveries]
    except ValueError as error:
        raise Rejected(Reason.UNKNOWN_FORMAT, str(error)) from error


service = Service(GROUP, Settings, build, __doc__ or "")
