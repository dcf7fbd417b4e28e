"""The story of one device message: read → whose is it → anchor → resolve times → keep what is refused → bus → ack."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Counted
from collections.abc import Sequence

import orjson
from prometheus_client import Counter

from outrider.contract import topics
from outrider.contract.reasons import Reason
from outrider.runtime.consumer import ConsumerSettings
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Delivery
from outrider.runtime.service import Chassis, Service
from outrider.runtime.slots import Lease
from outrider_ingest.bus import Bus, digest_acks
from outrider_ingest.directory import Directory
from outrider_ingest.messages import Message, digest_of, identify, read
from outrider_ingest.settings import Settings
from outrider_ingest.store import Anchors, Seen, Shards, keep_rejections, record_published

log = logging.getLogger(__name__)

GROUP = "ingest"
MESSAGES = Counter("outrider_ingest_messages", "Device messages put on the bus or rejected", ["stream"])
SAMPLES = Counter("outrider_ingest_samples", "Samples put on the bus")
PUBLISHED_INTERVAL_S = 2.0
SEEN_INTERVAL_S = 2.0


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → anchors, bus → consumer → handler."""
    settings, database, publisher = chassis.settings, chassis.database, chassis.publisher
    anchors = Anchors(database, settings.ingest_anchor_cache)
    bus = Bus(publisher, Shards(database))
    seen = Seen()
    directory = Directory(database, settings.database_url) if settings.ingest_directory == "registry" else None

    async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
        messages = [delivery.note or read(delivery) for delivery in deliveries]
        if directory is not None:
            await directory.check(messages)
        seen.note(messages)
        known = await anchors.of(messages)
        for message in messages:
            message.resolve(known)
        await keep_rejections(database, GROUP, messages)
        await bus.publish(lease, messages)
        await acknowledge_by_digest(messages)
        for stream, count in Counted(message.identity.stream for message in messages).items():
            MESSAGES.labels(stream).inc(count)
        SAMPLES.inc(sum([len(message.samples) for message in messages]))

    async def acknowledge_by_digest(messages: Sequence[Message]) -> None:
        for topic, ack in digest_acks(messages):
            await publisher.publish(topic, orjson.dumps(ack), qos=0)

    async def on_rejected(delivery: Delivery, reason: Reason) -> None:
        message = identify(delivery)
        message.digest = digest_of(delivery.payload, reason)
        if not message.rejections:
            await acknowledge_by_digest([message])

    async def report_published() -> None:
        while True:
            await asyncio.sleep(PUBLISHED_INTERVAL_S)
            try:
                async with database.transaction() as connection:
                    await record_published(connection, bus.published())
            except Transient as error:
                log.debug("published_not_recorded", extra={"reason": str(error)})

    async def report_seen() -> None:
        while True:
            await asyncio.sleep(SEEN_INTERVAL_S)
            try:
                await seen.write(database, time.time_ns() // 1_000_000)
            except Transient as error:
                log.debug("seen_not_recorded", extra={"reason": str(error)})

    if directory is not None:
        heard = directory
        chassis.health.checks["directory"] = lambda: heard.problem
        chassis.run_beside("directory", directory.listen)
    chassis.consume(
        ConsumerSettings(
            group=GROUP,
            slots=settings.ingest_slots,
            batch_max_messages=settings.ingest_batch_max_messages,
            batch_max_bytes=4 * 1024 * 1024,
            batch_max_age_s=settings.ingest_batch_max_age_s,
            receive_maximum=settings.ingest_receive_maximum,
        ),
        filters=lambda slot: [topics.share(GROUP, raw) for raw in topics.RAW_FILTERS],
        handle=handle,
        on_rejected=on_rejected,
    )
    chassis.run_beside("report_published", report_published)
    chassis.run_beside("report_seen", report_seen)


service = Service(GROUP, Settings, build, __doc__ or "")
