"""Turns the times devices say into real ones (delivery rule 2); pure: receive time and boot anchor are passed in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

from outrider.contract.batch import Kind, Record, Sample
from outrider.contract.limits import CLOCK_AHEAD_MAX_MS, TIME_MAX_MS, TIME_MIN_MS
from outrider.contract.reasons import Reason
from outrider_ingest.formats.decoded import Decoded, clip, shown

Refusals: TypeAlias = list[tuple[Reason, str]]

KIND_OF: dict[type[Any], Kind] = {
    float: "number",
    int: "number",
    bool: "boolean",
    str: "string",
    list: "json",
    dict: "json",
}


def resolve_samples(
    decoded: Decoded, received_ms: int, anchor_ms: int | None, server_ms: int | None = None
) -> tuple[list[Sample], Refusals]:
    """Samples with their final epoch ms, and what had no acceptable time (one refusal a reason, saying how many).

    `anchor_ms` is the committed wall time of uptime 0 of `decoded.boot`, None if there is none yet. A real time wins;
    else uptime + anchor; else, unnumbered only, receive time (less the age, where `now_ms` tells it). A real time
    before 2000 or more than 5 minutes ahead gives way to uptime + anchor where the boot's anchor is known. A time beside
    the payload stands for the receive time, in numbered messages too. `server_ms` is the server's clock where that is
    not the receive time: a replay keeps its receive time and is judged by today's clock.
    """
    base = _uptime_base(decoded, received_ms, anchor_ms)
    server_ms = received_ms if server_ms is None else server_ms
    latest = min(server_ms + CLOCK_AHEAD_MAX_MS, TIME_MAX_MS)
    fallback = _sent_ms(decoded, received_ms)
    samples: list[Sample] = []
    problems = _Problems(server_ms)
    for metric, ts, up_ms, value in decoded.samples:
        if ts is None or not TIME_MIN_MS <= ts <= latest:
            ts = _choose(ts, up_ms, base, anchor_ms, fallback)
            if ts is None or not TIME_MIN_MS <= ts <= latest:
                problems.add(ts, latest, "metric " + shown(metric))
                continue
        samples.append((metric, KIND_OF[type(value)], ts, value))
    return samples, problems.refusals()


def resolve_records(
    decoded: Decoded, received_ms: int, anchor_ms: int | None, server_ms: int | None = None
) -> tuple[list[Record], Refusals]:
    """Log lines or events with their final epoch ms, and what had no acceptable time: the rules of resolve_samples."""
    base = _uptime_base(decoded, received_ms, anchor_ms)
    server_ms = received_ms if server_ms is None else server_ms
    latest = min(server_ms + CLOCK_AHEAD_MAX_MS, TIME_MAX_MS)
    fallback = _sent_ms(decoded, received_ms)
    records: list[Record] = []
    problems = _Problems(server_ms)
    for ts, up_ms, label, text, fields in decoded.records:
        if ts is None or not TIME_MIN_MS <= ts <= latest:
            ts = _choose(ts, up_ms, base, anchor_ms, fallback)
            if ts is None or not TIME_MIN_MS <= ts <= latest:
                problems.add(ts, latest, "record " + shown(label))
                continue
        records.append(Record(ts, label, text, fields))
    return records, problems.refusals()


def anchor_candidate(decoded: Decoded, received_ms: int) -> int | None:
    """Wall time (epoch ms) of uptime 0 of `decoded.boot` by this message, None where it cannot tell.

    Only a message with content and a valid `now_ms` of a named boot tells; the first candidate inserted wins.
    """
    if decoded.boot is None or decoded.now_ms is None or not (decoded.samples or decoded.records):
        return None
    sent_ms = received_ms
    if decoded.envelope is not None and decoded.envelope.ts_ms is not None:
        sent_ms = min(decoded.envelope.ts_ms, received_ms)
    anchor_ms = sent_ms - decoded.now_ms
    return anchor_ms if anchor_ms >= TIME_MIN_MS else None


def drift_ms(decoded: Decoded, received_ms: int, anchor_ms: int | None) -> int | None:
    """How far (ms) the device's real clock runs ahead of the boot's anchor, by its last entry with both times.

    Evidence only: it moves no stored sample. None without an anchor or such an entry; times that would be refused
    are no evidence.
    """
    if anchor_ms is None or decoded.boot is None:
        return None
    for ts, up_ms, *_ in reversed(decoded.records):
        if ts is not None and up_ms is not None and TIME_MIN_MS <= ts <= received_ms + CLOCK_AHEAD_MAX_MS:
            return ts - up_ms - anchor_ms
    for _, ts, up_ms, _ in reversed(decoded.samples):
        if ts is not None and up_ms is not None and TIME_MIN_MS <= ts <= received_ms + CLOCK_AHEAD_MAX_MS:
            return ts - up_ms - anchor_ms
    return None


def _sent_ms(decoded: Decoded, received_ms: int) -> int | None:
    """The time of what has none of its own: what stands beside the payload, else receive time, unnumbered only."""
    if decoded.envelope is not None and decoded.envelope.ts_ms is not None:
        return decoded.envelope.ts_ms
    return None if decoded.numbered else received_ms


def _uptime_base(decoded: Decoded, received_ms: int, anchor_ms: int | None) -> int | None:
    """What to add to an uptime. Numbered messages of a named boot use its committed anchor and nothing else: a resend
    must not move."""
    if decoded.now_ms is not None and (decoded.boot is None or not decoded.numbered):
        sent_ms = _sent_ms(decoded, received_ms)
        return None if sent_ms is None else sent_ms - decoded.now_ms
    return anchor_ms if decoded.boot is not None else None


def _choose(
    ts: int | None, up_ms: int | None, base: int | None, anchor_ms: int | None, fallback: int | None
) -> int | None:
    """The time of an entry whose own time is absent (None) or not acceptable; the caller checks what comes out."""
    if ts is not None:
        return ts if up_ms is None or anchor_ms is None or base is None else base + up_ms
    if up_ms is not None and base is not None:
        return base + up_ms
    return fallback


class _Problems:
    """Collects refused times: per reason the first entry in words and how many there were."""

    def __init__(self, server_ms: int) -> None:
        self._server_ms = server_ms
        self._first: dict[Reason, str] = {}
        self._count: dict[Reason, int] = {}

    def add(self, ts: int | None, latest: int, subject: str) -> None:
        if ts is None:
            reason, detail = Reason.NO_TIME, "has neither ts nor an uptime whose boot's anchor is known"
        elif ts > latest:
            ahead_s = (ts - self._server_ms) // 1000
            reason, detail = Reason.CLOCK_AHEAD, f"{_readable(ts)} is {ahead_s} s ahead of the server"
        else:
            reason, detail = Reason.CLOCK_INVALID, f"{_readable(ts)} lies before 2000-01-01"
        self._first.setdefault(reason, f"{subject}: {detail}")
        self._count[reason] = self._count.get(reason, 0) + 1

    def refusals(self) -> Refusals:
        return [
            (reason, clip(detail if self._count[reason] == 1 else f"{detail} (and {self._count[reason] - 1} more)"))
            for reason, detail in self._first.items()
        ]


def _readable(ts: int) -> str:
    if not 0 <= ts <= TIME_MAX_MS:
        return f"{ts} ms since 1970"
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
