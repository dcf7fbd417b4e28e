"""Keeps what cannot be stored: rows of `rejected.message`, written through the one function services may call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from outrider.contract import topics
from outrider.runtime import metrics

KEEP = "SELECT rejected.keep(%s, %s, %s, %s::bigint[], %s::bigint[], %s, %s, %s, %s::bytea[], %s::timestamptz[], %s)"


@dataclass(slots=True)
class Rejection:
    """One refused message, or the refused part of one, and why."""

    tenant: str
    device: str
    stream: str
    boot: int | None
    seq: int | None
    reason: str
    detail: str
    topic: str
    payload: bytes
    received_ms: int


def from_topic(topic: str, payload: bytes, received_ms: int, reason: str, detail: str) -> Rejection:
    """A rejection of a message that only its topic is known of; names are clipped, never trusted."""
    levels = [level[: topics.NAME_MAX_CHARS] for level in topic.split("/")]
    is_device = len(levels) > 4 and levels[:2] == ["fleet", "v1"]
    tenant, device, stream = (levels[2], levels[3], levels[4]) if is_device else ("-", "-", "-")
    return Rejection(tenant, device, stream, None, None, reason, detail, topic, payload, received_ms)


async def keep(connection: psycopg.AsyncConnection, service: str, rejections: Sequence[Rejection]) -> None:
    """Store rejections in the connection's transaction; past the quota they are counted per reason."""
    if not rejections:
        return
    columns: list[list[object]] = [
        [r.tenant for r in rejections],
        [r.device for r in rejections],
        [r.stream for r in rejections],
        [r.boot for r in rejections],
        [r.seq for r in rejections],
        [r.reason for r in rejections],
        [_text(r.detail)[:500] for r in rejections],
        [_text(r.topic)[:1000] for r in rejections],
        [r.payload for r in rejections],
        [datetime.fromtimestamp(r.received_ms / 1000, UTC) for r in rejections],
    ]
    await connection.execute(KEEP, (*columns, service))
    for r in rejections:
        metrics.REJECTED.labels(r.reason).inc()


def as_payload(parts: object) -> bytes:
    """JSON of a refused part, whatever is in it: NaN, lone surrogates and huge integers, which orjson refuses."""
    return json.dumps(parts, default=str, separators=(",", ":")).encode()


def _text(text: str) -> str:
    # PostgreSQL text holds neither NUL nor lone surrogates.
    return text.encode("utf-8", "replace").decode().replace("\0", "�")
