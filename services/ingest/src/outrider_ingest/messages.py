"""One device message on its way through ingest: whose it is, what it says, when, and what is refused of it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from outrider.contract import topics
from outrider.contract.batch import NO_SAMPLES, Header, Record, Samples, Stream
from outrider.contract.reasons import Reason, Refused
from outrider.runtime import replay
from outrider.runtime.mqtt import Delivery
from outrider.runtime.rejects import Rejection, from_topic
from outrider_ingest import envelope
from outrider_ingest.envelope import Envelope
from outrider_ingest.formats import Decoded, decode_event, decode_log, decode_scalar, decode_telemetry, plain
from outrider_ingest.times import anchor_candidate, drift_ms, resolve_records, resolve_samples

BootKey = tuple[str, str, int]
"""(tenant, device, boot)"""

_TELEMETRY = ("telemetry",)
_KNOWN_TOPIC_MAX_CHARS = 256
"""Longer ones are no device's; remembering them would let a few topics of 64 KiB fill the memory."""


class Identity(NamedTuple):
    """What a topic tells, remembered for each."""

    tenant: str
    device: str
    stream: Stream
    levels: tuple[str, ...]
    """Topic levels behind the device."""
    hash: int
    """Decides the shard: the same for all messages of a device."""
    problem: str | None
    """Why tenant or device is no name."""


class Message:
    """A delivery with everything ingest finds out about it, filled in step by step."""

    # Defaults stand on the class: most messages change few of them, and making one is in the way of every message.
    replayed = False
    envelope: Envelope | None = None
    """Number and time beside the payload."""
    foreign = False
    """It does not come from an enabled device of its tenant; nothing of it is stored."""
    decoded: Decoded | None = None
    number: tuple[int, int] | None = None
    """(boot, seq) in a plain message's payload, which has nothing else to be decoded."""
    samples: Samples = NO_SAMPLES
    records: Sequence[Record] = ()
    resolved = False
    kept = False
    """The rejections are stored."""
    boot_key: BootKey | None = None
    """Whose anchor the message needs or offers; None where every time in it is real or receive time."""
    digest: tuple[str, str] | None = None
    """(first 16 hex of the payload's SHA-256, reason) where the message's number could not be read."""

    def __init__(self, delivery: Delivery, identity: Identity) -> None:
        self.delivery = delivery
        self.identity = identity
        self.received_ms = delivery.received_ms
        self.rejections: list[Rejection] = []

    @property
    def ack_topic(self) -> str:
        """Where its sender listens: under the tenant it sent to."""
        _, _, tenant, device, *_ = self.delivery.topic.split("/")
        return str(topics.ACK.name(tenant=tenant, device=device))

    @property
    def stream(self) -> Stream:
        """Of which stream it is."""
        return self.identity.stream

    def anchor_candidate(self) -> int | None:
        """Wall time of uptime 0 by this message, for the first one of its boot."""
        return anchor_candidate(self.decoded, self.received_ms) if self.decoded is not None else None

    def drift_ms(self, anchor_ms: int | None) -> int | None:
        """Evidence of the device's clock drifting from the anchor."""
        return drift_ms(self.decoded, self.received_ms, anchor_ms) if self.decoded is not None else None

    def resolve(self, anchors: Mapping[BootKey, int]) -> None:
        """Give every sample and record its final time, once; what has none is refused."""
        if self.decoded is None or self.resolved:
            return
        self.resolved = True
        anchor_ms = anchors.get(self.boot_key) if self.boot_key else None
        server_ms = self.delivery.received_ms
        if self.stream == "telemetry":
            rows, refused = resolve_samples(self.decoded, self.received_ms, anchor_ms, server_ms)
            self.samples = Samples.of(rows)
        else:
            self.records, refused = resolve_records(self.decoded, self.received_ms, anchor_ms, server_ms)
        for reason, detail in (*self.decoded.refused, *refused):
            self._refuse(reason, detail)

    def header(self) -> Header | None:
        """What the bus carries of it; None where there is nothing to store, count or acknowledge."""
        decoded, identity = self.decoded, self.identity
        if decoded is None and self.samples:
            boot, seq = self.number or self._outer_number() or (None, None)
            return Header(identity.tenant, identity.device, identity.stream, boot, seq, self.received_ms)
        if decoded is None:
            return None
        boot, seq = decoded.boot, decoded.seq
        if seq is None and not decoded.gone:
            boot, seq = self._outer_number() or (None, None)
        if not (self.samples or self.records or decoded.gone or seq is not None):
            return None
        return Header(
            identity.tenant,
            identity.device,
            identity.stream,
            boot,
            seq,
            self.received_ms,
            decoded.now_ms,
            self._reasons(),
            decoded.gone,
            decoded.gone_reason,
        )

    def second_header(self) -> Header | None:
        """The header without content of a message that has another number beside its payload than in it.

        It is counted and acknowledged under both: whoever made the payload waits for the one, who passed it on for the
        other. It travels in the batch of the first header.
        """
        outer = self._outer_number()
        if outer is None:
            return None
        decoded, identity = self.decoded, self.identity
        if decoded is None:
            inner, gone = self.number, False
        else:
            inner = (decoded.boot or 0, decoded.seq) if decoded.seq is not None else None
            gone = bool(decoded.gone)
        if inner == outer or (inner is None and not gone):
            return None
        return Header(
            identity.tenant, identity.device, identity.stream, *outer, self.received_ms, None, self._reasons()
        )

    def _outer_number(self) -> tuple[int, int] | None:
        return self.envelope.number if self.envelope is not None else None

    def _reasons(self) -> Sequence[str]:
        return list(dict.fromkeys(rejection.reason for rejection in self.rejections)) if self.rejections else ()

    def refuse_whole(self, reason: Reason, detail: str, owner: str | None = None) -> None:
        """Refuse everything in it because of who sent it; its number stays, so that it is counted and acknowledged.

        What is kept and counted belongs to `owner`, if that is another tenant than the topic's: whom it was sent to
        gets nothing of it. Its sender, who listens there, is then told by the payload's digest.
        """
        boot, seq = (self.decoded.boot, self.decoded.seq) if self.decoded is not None else (self.number or (None, None))
        gone, gone_reason = (self.decoded.gone, self.decoded.gone_reason) if self.decoded is not None else ([], None)
        self.foreign = self.resolved = True
        self.decoded = Decoded(boot, seq, gone=gone, gone_reason=gone_reason, envelope=self.envelope)
        self.samples, self.records, self.rejections, self.boot_key = NO_SAMPLES, (), [], None
        self.kept = False  # what was kept of it in an earlier try was less
        if self.digest is not None or owner is not None:
            self.digest = digest_of(self.delivery.payload, reason)
        if owner is not None:
            self.identity = self.identity._replace(tenant=owner)
        self._refuse(reason, detail)
        self.rejections[0].tenant = self.identity.tenant

    def _refuse(self, reason: Reason, detail: str) -> None:
        # One row per message and reason: numbered ones are unique on it, so a redelivery changes nothing.
        for rejection in self.rejections:
            if rejection.reason == reason:
                rejection.detail += f"; {detail}"
                return
        rejection = from_topic(self.delivery.topic, self.delivery.payload, self.received_ms, reason, detail)
        if self.decoded is not None and self.decoded.seq is not None:
            rejection.boot, rejection.seq = self.decoded.boot, self.decoded.seq
        elif outer := self._outer_number():
            rejection.boot, rejection.seq = outer
        self.rejections.append(rejection)

    def _refuse_unread(self, reason: Reason, detail: str) -> None:
        self._refuse(reason, detail)
        self.digest = digest_of(self.delivery.payload, reason)


def digest_of(payload: bytes, reason: Reason) -> tuple[str, str]:
    """How a digest ack names a message: the first 16 hex of its payload's SHA-256, and why it was refused."""
    return hashlib.sha256(payload).hexdigest()[:16], reason


def read(delivery: Delivery) -> Message:
    """Identity from the topic, content from the payload; never raises for anything a device may send.

    The message is noted on the delivery, so that a retry neither decodes nor keeps its rejections again.
    """
    message = identify(delivery)
    identity = message.identity
    plainly = not message.rejections and not message.replayed
    if message.envelope is not None and message.envelope.problem is not None:
        plainly = False
    if plainly and identity.levels == _TELEMETRY:
        found = plain.read(delivery.payload, delivery.received_ms)
        if found is not None:
            message.number, message.samples = found
            message.resolved = True
            delivery.note = message
            return message
    if not message.rejections:
        try:
            message.decoded = _decode(identity.levels, delivery.payload)
        except Refused as refused:
            if message._outer_number() is None:
                message._refuse_unread(refused.reason, refused.detail)
            else:
                message.decoded = Decoded()
                message.decoded.refuse(refused.reason, refused.detail)
    if message.decoded is not None:
        message.decoded.envelope = message.envelope
        if message.envelope is not None and message.envelope.problem is not None:
            message.decoded.refuse(Reason.CLOCK_INVALID, message.envelope.problem)
        message.boot_key = _boot_key(identity.tenant, identity.device, message.decoded)
    if message.replayed and message.decoded is not None:
        message.decoded.seq = None  # replays travel unnumbered: the number was acknowledged with the rejection
    delivery.note = message  # only now: what was half read when an error struck must be read again
    return message


def identify(delivery: Delivery) -> Message:
    """Whose message it is, of which stream and when it came, without a look into it."""
    topic = delivery.topic
    message = Message(delivery, _known_identity(topic) if len(topic) <= _KNOWN_TOPIC_MAX_CHARS else _identity(topic))
    if delivery.properties:
        properties = dict(delivery.properties.get("user_property", ()))
        if replay.REPLAYED in properties:
            message.replayed = True
            original = properties.get(replay.RECEIVED_MS, "")
            if original.isdecimal() and len(original) < 20:
                message.received_ms = min(int(original), delivery.received_ms)
        else:
            _read_envelope(message, properties)
    if message.identity.problem is not None:
        message._refuse(Reason.BAD_NAME, message.identity.problem)
    return message


def _read_envelope(message: Message, properties: Mapping[str, str]) -> None:
    try:
        message.envelope = envelope.read(properties)
    except Refused as refused:
        message._refuse_unread(refused.reason, refused.detail)


def _identity(topic: str) -> Identity:
    _, _, tenant, device, *levels = topic.split("/")
    stream: Stream = "log" if levels == ["log"] else "event" if levels == ["event"] else "telemetry"
    bad = next((name for name in (tenant, device) if not topics.is_name(name)), None)
    problem = f"{bad[:70]!r} is no tenant or device name: [a-z0-9][a-z0-9-]{{0,62}}" if bad is not None else None
    return Identity(tenant, device, stream, tuple(levels), zlib.crc32(device.encode()), problem)


# A tenth of ingest's time went into checking the same names letter by letter.
_known_identity = lru_cache(maxsize=131_072)(_identity)


def _boot_key(tenant: str, device: str, decoded: Decoded) -> BootKey | None:
    if decoded.boot is None:
        return None
    if decoded.now_ms is None:
        clockless = any(ts is None or up is not None for _, ts, up, _ in decoded.samples) or any(
            ts is None or up is not None for ts, up, *_ in decoded.records
        )
        if not clockless:
            return None
    return tenant, device, decoded.boot


def _decode(levels: Sequence[str], payload: bytes) -> Decoded:
    if levels == _TELEMETRY:
        return decode_telemetry(payload)
    if levels == ("log",):
        return decode_log(payload)
    if levels == ("event",):
        return decode_event(payload)
    if len(levels) == 2:
        return decode_scalar(levels[1], payload)
    raise Refused(Reason.BAD_NAME, f"no such topic: .../{'/'.join(levels)[:100]}; a metric is one level")
