"""The story of one log batch: decode → PostgreSQL, in one transaction with its accounting → application ack."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter

from outrider.contract import batch, limits, topics
from outrider.contract.reasons import Reason
from outrider.runtime.acks import Acknowledger
from outrider.runtime.consumer import ConsumerSettings
from outrider.runtime.errors import Rejected
from outrider.runtime.mqtt import Delivery
from outrider.runtime.service import Chassis, Service
from outrider.runtime.slots import Lease
from outrider.runtime.verdicts import acknowledge
from outrider_writer_logs.settings import Settings
from outrider_writer_logs.store import LogStore

GROUP = "writer-logs"
LINES = Counter("outrider_writer_logs_lines", "Log lines committed")


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → store → consumer → handler."""
    settings = chassis.settings
    store = LogStore(chassis.database, GROUP)
    acks = Acknowledger(chassis.publisher.publish_all)

    async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
        ledger, verdicts, lines = await store.store(decode(deliveries))
        acknowledge(verdicts, acks, ledger)
        LINES.inc(lines)

    chassis.consume(
        ConsumerSettings(
            group=GROUP,
            slots=settings.logs_slots,
            batch_max_messages=settings.logs_batch_max_messages,
            batch_max_bytes=4 * 1024 * 1024,
            batch_max_age_s=settings.logs_batch_max_age_s,
            receive_maximum=max(
                16, settings.in_hand_max_bytes // (2 * limits.BUS_BATCH_MAX_BYTES * settings.logs_slots)
            ),
            must_store=True,
        ),
        filters=lambda slot: [topics.BUS_LOGS.name(shard=slot)],
        handle=handle,
    )
    chassis.run_beside("acks", acks.run)
    chassis.run_beside("ask_for_gaps", lambda: acks.ask_for_gaps(store.needs))


def decode(deliveries: Sequence[Delivery]) -> list[tuple[str, batch.RecordBatch]]:
    """Bus batches with their topics. Raises Rejected for one that is none, which the runtime isolates and keeps."""
    try:
        return [(delivery.topic, batch.decode_records(delivery.payload)) for delivery in deliveries]
    except ValueError as error:
        raise Rejected(Reason.UNKNOWN_FORMAT, str(error)) from error


service = Service(GROUP, Settings, build, __doc__ or "")
