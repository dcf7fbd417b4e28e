"""The bus batch: columnar JSON between ingest and the writers, readable with `mosquitto_sub | jq`.

All samples of one device message travel in one batch, so that one commit acknowledges the message whole
(delivery rule 8). `messages` has one entry a device message; samples name their series by its index in `series`
and come in the order of their messages, `messages.samples[i]` of them for message i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

VERSION = 1

Stream: TypeAlias = Literal["telemetry", "log", "event"]
Kind: TypeAlias = Literal["number", "boolean", "string", "json"]
Value: TypeAlias = float | int | bool | str | dict[str, Any] | list[Any]
Range: TypeAlias = tuple[int, int]
"""Inclusive range of sequence numbers, as on the wire: [from, to]."""


@dataclass(slots=True)
class Header:
    """One device message to account for and acknowledge.

    `boot` and `seq` are None for an unnumbered message. `reasons`: why ingest refused the message or parts of it
    (already kept in `rejected.message`). `gone`: ranges that the device says it discarded; such a header has no seq.
    """

    tenant: str
    device: str
    stream: Stream
    boot: int | None
    seq: int | None
    received_ms: int
    now_ms: int | None = None
    reasons: list[str] = field(default_factory=list)
    gone: list[Range] = field(default_factory=list)
    gone_reason: str | None = None


Sample: TypeAlias = tuple[str, Kind, int, Value]
"""(metric, kind, epoch ms, value), ready to store."""


@dataclass(slots=True)
class Record:
    """One log line or event: epoch ms, `level` (log) or `type` (event), its text, and every other field as sent."""

    ts: int
    label: str
    text: str
    fields: dict[str, Any]


@dataclass(slots=True, frozen=True)
class BatchNumber:
    """Who numbered a batch: ingest slot, that slot's lease epoch, and a count per (slot, epoch, topic)."""

    slot: int
    epoch: int
    number: int


@dataclass(slots=True)
class SampleBatch:
    """Samples of many devices as columns.

    `series[k] = (tenant, device, metric, kind)`; `series_index`, `ts` (epoch ms) and `value` run in parallel.
    """

    number: BatchNumber
    headers: list[Header]
    counts: list[int]
    series: list[tuple[str, str, str, Kind]]
    series_index: list[int]
    ts: list[int]
    value: list[Value]


@dataclass(slots=True)
class RecordBatch:
    """Log lines or events of many devices: `records[i]` belong to `headers[i]`."""

    number: BatchNumber
    headers: list[Header]
    records: list[list[Record]]


def _headers_out(headers: Sequence[Header], devices: dict[tuple[str, str], int]) -> dict[str, Any]:
    extra = {
        str(i): {
            key: value
            for key, value in (("reasons", h.reasons), ("gone", h.gone), ("gone_reason", h.gone_reason))
            if value
        }
        for i, h in enumerate(headers)
        if h.reasons or h.gone
    }
    columns: dict[str, Any] = {
        "device": [devices.setdefault((h.tenant, h.device), len(devices)) for h in headers],
        "boot": [h.boot for h in headers],
        "seq": [h.seq for h in headers],
        "received_ms": [h.received_ms for h in headers],
        "now_ms": [h.now_ms for h in headers],
    }
    if extra:
        columns["extra"] = extra
    return columns


def _headers_in(document: dict[str, Any]) -> list[Header]:
    devices, stream, columns = document["devices"], document["stream"], document["messages"]
    headers = [
        Header(devices[device][0], devices[device][1], stream, boot, seq, received, now)
        for device, boot, seq, received, now in zip(
            columns["device"],
            columns["boot"],
            columns["seq"],
            columns["received_ms"],
            columns["now_ms"],
            strict=True,
        )
    ]
    for index, extra in columns.get("extra", {}).items():
        header = headers[int(index)]
        header.reasons = extra.get("reasons", [])
        header.gone = [(first, last) for first, last in extra.get("gone", [])]
        header.gone_reason = extra.get("gone_reason")
    return headers


def encode_samples(number: BatchNumber, messages: Sequence[tuple[Header, Sequence[Sample]]]) -> bytes:
    """Bus payload of telemetry messages with their samples; times are deltas to `t0` (ms), which halves their bytes."""
    devices: dict[tuple[str, str], int] = {}
    headers = [header for header, _ in messages]
    columns = _headers_out(headers, devices)
    series: dict[tuple[int, str, Kind], int] = {}
    index: list[int] = []
    times: list[int] = []
    values: list[Value] = []
    counts: list[int] = []
    for (_, samples), device in zip(messages, columns["device"], strict=True):
        counts.append(len(samples))
        for metric, kind, ts, value in samples:
            key = (device, metric, kind)
            at = series.get(key)
            if at is None:
                at = series[key] = len(series)
            index.append(at)
            times.append(ts)
            values.append(value)
    t0 = min(times, default=0)
    columns["samples"] = counts
    return orjson.dumps(
        {
            "v": VERSION,
            "stream": "telemetry",
            "batch": (number.slot, number.epoch, number.number),
            "devices": list(devices),
            "messages": columns,
            "series": list(series),
            "t0": t0,
            "samples": {"series": index, "dt": [ts - t0 for ts in times], "value": values},
        }
    )


def decode_samples(payload: bytes) -> SampleBatch:
    """The batch in a bus payload. Raises ValueError (KeyError, TypeError among its causes) for anything else."""
    try:
        document = orjson.loads(payload)
        _check_version(document)
        devices, samples, t0 = document["devices"], document["samples"], document["t0"]
        batch = SampleBatch(
            number=BatchNumber(*document["batch"]),
            headers=_headers_in(document),
            counts=document["messages"]["samples"],
            series=[(*devices[device], metric, kind) for device, metric, kind in document["series"]],
            series_index=samples["series"],
            ts=[t0 + dt for dt in samples["dt"]],
            value=samples["value"],
        )
        if not (
            sum(batch.counts) == len(batch.series_index) == len(batch.ts) == len(batch.value)
            and len(batch.counts) == len(batch.headers)
            and (not batch.series_index or 0 <= min(batch.series_index) <= max(batch.series_index) < len(batch.series))
        ):
            raise ValueError("columns of different lengths")
        return batch
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"not a bus batch of samples: {error}") from error


def encode_records(number: BatchNumber, messages: Sequence[tuple[Header, Sequence[Record]]]) -> bytes:
    """Bus payload of log or event messages (all of one stream) with their records."""
    devices: dict[tuple[str, str], int] = {}
    columns = _headers_out([header for header, _ in messages], devices)
    return orjson.dumps(
        {
            "v": VERSION,
            "stream": messages[0][0].stream,
            "batch": (number.slot, number.epoch, number.number),
            "devices": list(devices),
            "messages": columns,
            "records": [[(r.ts, r.label, r.text, r.fields) for r in records] for _, records in messages],
        }
    )


def decode_records(payload: bytes) -> RecordBatch:
    """The batch in a bus payload. Raises ValueError for anything else."""
    try:
        document = orjson.loads(payload)
        _check_version(document)
        headers = _headers_in(document)
        records = [[Record(*record) for record in records] for records in document["records"]]
        if len(headers) != len(records):
            raise ValueError("columns of different lengths")
        return RecordBatch(BatchNumber(*document["batch"]), headers, records)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"not a bus batch of records: {error}") from error


def _check_version(document: dict[str, Any]) -> None:
    if document["v"] != VERSION:
        raise ValueError(f"version {document['v']} is not {VERSION}: update this service first, then ingest")
