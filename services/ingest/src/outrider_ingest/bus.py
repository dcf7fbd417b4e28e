"""Puts messages on the sharded bus in numbered batches; returns only when the broker has taken every one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from outrider.contract import limits, topics
from outrider.contract.batch import NO_SAMPLES, BatchNumber, Header, Shape, Stream, encode_records, encode_samples
from outrider.runtime.errors import NotStored, Transient
from outrider.runtime.session import Publisher
from outrider.runtime.slots import Lease
from outrider_ingest.messages import Message
from outrider_ingest.store import Shards

BYTES_PER_SAMPLE = 12
BYTES_PER_RUN = 24
"""What a run takes in a batch the first time its shape comes."""
"""What a sample takes in a batch, about; batches are cut by this estimate and not measured while they grow."""
CUT_BYTES = 2 * limits.BUS_BATCH_MAX_BYTES
"""A batch that came out larger (long texts) is divided: the broker takes 4 MiB and writers count on this size."""

TOPIC: dict[Stream, topics.Topic] = {
    "telemetry": topics.BUS_SAMPLES,
    "log": topics.BUS_LOGS,
    "event": topics.BUS_EVENTS,
}
WRITER: dict[Stream, str] = {"telemetry": "writer-timeseries", "log": "writer-logs", "event": "writer-timeseries"}

Item = tuple[Message, Header]


class Bus:
    """The bus side of ingest: shards, batch numbers, PUBACKs."""

    def __init__(self, publisher: Publisher, shards: Shards) -> None:
        self._publisher = publisher
        self._shards = shards
        self._numbers: dict[tuple[int, int, str], int] = {}

    async def publish(self, lease: Lease, messages: Sequence[Message]) -> None:
        """Publish all messages that have a header and mark each delivery done once the broker took its batch.

        Raises Transient when a batch was not taken; the messages of the others are done and are not sent again.
        """
        groups: dict[tuple[Stream, int], list[Item]] = {}
        shards: dict[Stream, int] = {}
        failure: Transient | None = None
        for stream in {message.identity.stream for message in messages}:
            try:
                shards[stream] = await self._shards.of(WRITER[stream])
            except Transient as error:
                failure = error
        for message in messages:
            header = message.header()
            identity = message.identity
            if header is None:
                message.delivery.done = True
            elif identity.stream in shards:
                key = identity.stream, identity.hash % shards[identity.stream]
                groups.setdefault(key, []).append((message, header))
        results = await asyncio.gather(
            *(
                self._send(topic, shard, payload, sent)
                for (stream, shard), items in groups.items()
                for topic in [TOPIC[stream].name(shard=shard)]
                for chunk in _chunks(items)
                for payload, sent in self._batches(lease, topic, chunk)
            ),
            return_exceptions=True,
        )
        for result in (*results, failure):
            if isinstance(result, BaseException):
                raise result

    def published(self) -> dict[tuple[int, int, str], int]:
        """Newest batch number per (slot, lease epoch, topic)."""
        return dict(self._numbers)

    def _batches(self, lease: Lease, topic: str, items: Sequence[Item]) -> Iterator[tuple[bytes, Sequence[Item]]]:
        key = (lease.slot, lease.epoch, topic)
        if key not in self._numbers:
            for old in [known for known in self._numbers if known[0] == lease.slot and known[1] < lease.epoch]:
                del self._numbers[old]
        number = self._numbers.get(key, 0) + 1
        batch = BatchNumber(lease.slot, lease.epoch, number)
        stream = items[0][1].stream
        seconds = [second for message, _ in items if message.envelope and (second := message.second_header())]
        if stream == "telemetry":
            samples = [(header, message.samples) for message, header in items]
            payload = encode_samples(batch, samples + [(header, NO_SAMPLES) for header in seconds])
        else:
            records = [(header, message.records) for message, header in items]
            payload = encode_records(batch, records + [(header, ()) for header in seconds])
        if len(payload) > CUT_BYTES and len(items) > 1:
            middle = len(items) // 2
            yield from self._batches(lease, topic, items[:middle])
            yield from self._batches(lease, topic, items[middle:])
            return
        self._numbers[key] = number
        yield payload, items

    async def _send(self, topic: str, shard: int, payload: bytes, items: Sequence[Item]) -> None:
        writer = WRITER[items[0][1].stream]
        try:
            await self._publisher.publish_stored(topic, payload, group=writer, slot=shard)
        except NotStored as error:
            self._shards.forget(writer)  # its slots may have been retired just now
            raise Transient(f"{error}: {writer} has not run on this broker yet; start it") from error
        for message, _ in items:
            message.delivery.done = True


def _chunks(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Batches of about BUS_BATCH_MAX_BYTES; one message is never divided (delivery rule 8)."""
    chunk: list[Item] = []
    shapes: set[Shape] = set()
    size = 0
    for message, header in items:
        chunk.append((message, header))
        size += 60 + BYTES_PER_SAMPLE * len(message.samples) + (len(message.delivery.payload) if message.records else 0)
        shape = message.samples.shape
        if shape not in shapes:
            shapes.add(shape)
            size += BYTES_PER_RUN * len(shape.runs)
        if size >= limits.BUS_BATCH_MAX_BYTES:
            yield chunk
            chunk, size = [], 0
            shapes.clear()
    if chunk:
        yield chunk


def digest_acks(messages: Sequence[Message]) -> list[tuple[str, dict[str, Any]]]:
    """Acks by payload digest for messages whose number could not be read (delivery rule 6), and for those that are
    counted under another tenant than they were sent to: (topic, document) each."""
    acks: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for message in messages:
        if message.digest is not None:
            acks.setdefault((message.ack_topic, message.stream), []).append(message.digest)
    return [(topic, {"stream": stream, "digest": digests}) for (topic, stream), digests in acks.items()]
