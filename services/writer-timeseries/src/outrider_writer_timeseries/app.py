"""The story of one bus batch: decode → ledger, in one transaction with its accounting → application ack."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from outrider.contract import batch, limits, topics
from outrider.contract.reasons import Reason
from outrider.runtime.acks import Acknowledger
from outrider.runtime.consumer import ConsumerSettings
from outrider.runtime.errors import Rejected
from outrider.runtime.mqtt import Delivery
from outrider.runtime.service import Chassis, Service
from outrider.runtime.slots import Lease
from outrider.runtime.verdicts import acknowledge
from outrider_writer_timeseries.settings import Settings
from outrider_writer_timeseries.store import Ledger, Work

log = logging.getLogger(__name__)

GROUP = "writer-timeseries"
SAMPLES = Counter("outrider_writer_timeseries_samples", "Samples committed in the ledger")
EVENTS = Counter("outrider_writer_timeseries_events", "Events committed in the ledger")
LAG = Gauge("outrider_writer_timeseries_lag_seconds", "Receive time of the newest committed message to its commit")


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → ledger → consumer → handler."""
    settings = chassis.settings
    ledger = Ledger(chassis.database, GROUP, settings.writer_series_cache)
    acks = Acknowledger(chassis.publisher.publish_all)

    async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
        stored = await ledger.store(decode(deliveries))
        for verdicts in stored.verdicts:
            acknowledge(verdicts, acks, stored.ledger)
        SAMPLES.inc(stored.samples)
        EVENTS.inc(stored.events)
        if stored.newest_received_ms:
            LAG.set(time.time() - stored.newest_received_ms / 1000)

    chassis.consume(
        ConsumerSettings(
            group=GROUP,
            slots=settings.writer_slots,
            batch_max_messages=settings.writer_batch_max_messages,
            batch_max_bytes=512 * 1024,  # some 50,000 samples: larger transactions are no faster, and acks come later
            batch_max_age_s=settings.writer_batch_max_age_s,
            # Rule 12: window x largest batch x slots stays within in_hand_max_bytes.
            receive_maximum=max(
                16, settings.in_hand_max_bytes // (2 * limits.BUS_BATCH_MAX_BYTES * settings.writer_slots)
            ),
            must_store=True,
        ),
        filters=lambda slot: [topics.BUS_SAMPLES.name(shard=slot), topics.BUS_EVENTS.name(shard=slot)],
        handle=handle,
    )
    chassis.run_beside("acks", acks.run)
    chassis.run_beside("ask_for_gaps", lambda: acks.ask_for_gaps(ledger.needs))


def decode(deliveries: Sequence[Delivery]) -> Work:
    """Bus batches by kind. Raises Rejected for one that is none, which the runtime isolates and keeps."""
    work = Work()
    for delivery in deliveries:
        try:
            if topics.BUS_SAMPLES.parse(delivery.topic):
                work.samples.append((delivery.topic, batch.decode_samples(delivery.payload)))
            else:
                work.events.append((delivery.topic, batch.decode_records(delivery.payload)))
        except ValueError as error:
            raise Rejected(Reason.UNKNOWN_FORMAT, str(error)) from error
    return work


service = Service(GROUP, Settings, build, __doc__ or "")
