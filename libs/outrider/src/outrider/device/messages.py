"""What an outbox holds and hands out: numbered messages, announced losses, payloads to publish, counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from outrider.contract import limits

Document: TypeAlias = Mapping[str, Any] | list[dict[str, Any]]
"""A message before it is numbered: an outer object, or a SenML pack (a list whose first record takes the numbering)."""
Encode: TypeAlias = Callable[[Document], bytes]
Key: TypeAlias = tuple[str, int, int]
"""(stream, boot, seq)"""


@dataclass(slots=True, frozen=True)
class Outgoing:
    """One payload to publish now on its stream's topic with QoS 1.

    `seq` is None for a `gone` message; `attempt` counts from 1.
    """

    stream: str
    boot: int
    seq: int | None
    payload: bytes
    attempt: int


@dataclass(slots=True)
class Message:
    """A numbered message that the outbox holds. `reasons` are those of its ack, empty where all of it was stored."""

    stream: str
    boot: int
    seq: int
    order: int
    payload: bytes
    """The encoded message; for a message without a clock its form without `now_ms`."""
    clockless: Document | None = None
    encode: Encode | None = None
    attempts: int = 0
    first_sent_s: float = 0.0
    due_s: float = 0.0
    resend_s: float = 0.0
    acked_s: float | None = None
    reasons: list[str] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    @property
    def key(self) -> Key:
        """(stream, boot, seq)."""
        return self.stream, self.boot, self.seq


@dataclass(slots=True)
class Gone:
    """Ranges of one (stream, boot, reason) that this device cannot deliver, announced until the platform notes them."""

    stream: str
    boot: int
    reason: str
    pending: list[tuple[int, int]] = field(default_factory=list)
    announced: list[tuple[int, int]] = field(default_factory=list)
    digest: str = ""
    attempts: int = 0
    due_s: float = 0.0
    resend_s: float = 0.0


@dataclass(slots=True)
class Counts:
    """What happened so far, in messages."""

    added: int = 0
    sent: int = 0
    """Messages sent at least once; `resent` counts every further sending."""
    resent: int = 0
    acked: int = 0
    rejected: int = 0
    """Acked messages that were refused, wholly or in part."""
    discarded: int = 0
    """Un-acked messages given up for lack of room; each is announced by `gone`."""
    gone_acked: int = 0
    """Sequence numbers whose loss the platform has noted."""
    needed: int = 0
    """Acked messages sent again because the platform asked."""
    offered_again: int = 0
    """Acked messages sent again because the ledger was restored."""
    acks_malformed: int = 0
    acks_stale: int = 0
    """Acks of a ledger that has been replaced since."""
    acks_stray: int = 0
    """Acks that named nothing in flight: repeated, late, or meant for another."""
    reasons: Counter[str] = field(default_factory=Counter)


def encode_json(document: Document) -> bytes:
    """The document as compact JSON."""
    return orjson.dumps(document)


def with_keys(document: Document, extra: Mapping[str, Any]) -> Document:
    """A copy with `extra` where the contract puts numbering keys: on the outer object or the pack's first record."""
    if isinstance(document, list):
        return [{**extra, **document[0]}, *document[1:]]
    return {**extra, **document}


def digest_of(payload: bytes) -> str:
    """The name of a payload in a digest ack: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(payload).hexdigest()[:16]


def back_off(item: Message | Gone, now_s: float) -> None:
    """Count a sending and set the next one: after 30 s, doubling to 5 min."""
    item.attempts += 1
    item.resend_s = min(item.resend_s * 2, limits.RESEND_MAX_S) if item.resend_s else limits.RESEND_FIRST_S
    item.due_s = now_s + item.resend_s
