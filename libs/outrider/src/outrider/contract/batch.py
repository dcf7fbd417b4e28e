"""The bus batch: columnar JSON between ingest and the writers, readable with `mosquitto_sub | jq`.

All samples of one device message travel in one batch, so that one commit acknowledges the message whole
(delivery rule 8). `messages` has one entry a device message. What a message measured is its *shape*, which devices of one
kind share: `shapes` lists each once, and `messages.shape[i]` names that of message i. Values come in the order of
their messages; `samples.dt[i]` are the times of message i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, groupby, repeat
from sys import intern
from typing import Any, ClassVar, Literal, TypeAlias

import orjson

VERSION = 2

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
    reasons: Sequence[str] = ()
    gone: Sequence[Range] = ()
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


Run: TypeAlias = tuple[str, Kind, int]
"""(metric, kind, how many samples of it follow)"""

_SHAPES_MAX_RUNS = 200_000
_intern: Callable[[Any], Any] = intern


class Shape:
    """What a message measured, without times and values: runs of samples of one metric and kind, in their order.

    `Shape.of` gives the same object for equal runs, so that a shape is compared and looked up by identity.
    """

    __slots__ = ("note", "runs", "size")

    _known: ClassVar[dict[tuple[Run, ...], Shape]] = {}
    _known_runs: ClassVar[int] = 0

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self.runs = runs
        self.size = sum([count for *_, count in runs])
        """Number of samples."""
        self.note: Any = None
        """Whatever a reader wants to find again at the same shape."""

    @classmethod
    def of(cls, runs: tuple[Run, ...]) -> Shape:
        """The shape of these runs. A bounded number is remembered; beyond it, equal shapes are other objects."""
        shape = cls._known.get(runs)
        if shape is None:
            if cls._known_runs > _SHAPES_MAX_RUNS:
                cls._known.clear()
                cls._known_runs = 0
            shape = cls._known[runs] = cls(runs)
            cls._known_runs += 1 + len(runs)
        return shape


@dataclass(slots=True)
class Samples:
    """The samples of one message as columns.

    `value[i]` in the order of the shape; `ts` (epoch ms) begins anew until it covers them: one time for all, or one
    each, or the times of one run where all runs were sampled together.
    """

    shape: Shape
    ts: list[int]
    value: list[Value]

    @classmethod
    def of(cls, rows: Sequence[Sample]) -> Samples:
        """Columns of samples that came one by one."""
        runs = tuple([(*key, len(list(same))) for key, same in groupby(rows, key=_metric_and_kind)])
        times = [ts for _, _, ts, _ in rows]
        if times and times.count(times[0]) == len(times):
            del times[1:]
        return cls(Shape.of(runs), times, [value for *_, value in rows])

    def rows(self) -> Iterator[Sample]:
        """The samples one by one."""
        names = chain.from_iterable(repeat((metric, kind), count) for metric, kind, count in self.shape.runs)
        for (metric, kind), ts, value in zip(names, cycle(self.ts), self.value, strict=False):
            yield metric, kind, ts, value

    def __len__(self) -> int:
        return len(self.value)


NO_SAMPLES = Samples(Shape.of(()), [], [])


def _metric_and_kind(sample: Sample) -> tuple[str, Kind]:
    return sample[0], sample[1]


@dataclass(slots=True)
class SampleBatch:
    """Samples of many devices: `samples[i]` belong to `headers[i]`."""

    number: BatchNumber
    headers: list[Header]
    samples: list[Samples]


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
        header.reasons = extra.get("reasons", ())
        header.gone = [(first, last) for first, last in extra["gone"]] if "gone" in extra else ()
        header.gone_reason = extra.get("gone_reason")
    return headers


def encode_samples(number: BatchNumber, messages: Sequence[tuple[Header, Samples]]) -> bytes:
    """Bus payload of telemetry messages with their samples; times are deltas to `t0` (ms), which halves their bytes."""
    devices: dict[tuple[str, str], int] = {}
    columns = _headers_out([header for header, _ in messages], devices)
    shapes: dict[Shape, int] = {}
    values: list[Value] = []
    columns["shape"] = [shapes.setdefault(samples.shape, len(shapes)) for _, samples in messages]
    for _, samples in messages:
        values += samples.value
    times = [samples.ts for _, samples in messages]
    t0 = min([min(ts) for ts in times if ts], default=0)
    return orjson.dumps(
        {
            "v": VERSION,
            "stream": "telemetry",
            "batch": (number.slot, number.epoch, number.number),
            "devices": list(devices),
            "messages": columns,
            "shapes": [shape.runs for shape in shapes],
            "t0": t0,
            "samples": {"dt": [ts[0] - t0 if len(ts) == 1 else [t - t0 for t in ts] for ts in times], "value": values},
        }
    )


def decode_samples(payload: bytes) -> SampleBatch:
    """The batch in a bus payload. Raises ValueError (KeyError, TypeError among its causes) for anything else."""
    try:
        document = orjson.loads(payload)
        _check_version(document)
        headers = _headers_in(document)
        shapes = [
            # Interned, because a fleet has few names and a reader may remember many shapes.
            Shape.of(tuple([(_intern(metric), _intern(kind), count) for metric, kind, count in runs]))
            for runs in document["shapes"]
        ]
        if any(count < 1 for shape in shapes for *_, count in shape.runs):
            raise ValueError("a run of no samples")
        t0, values = document["t0"], document["samples"]["value"]
        samples: list[Samples] = []
        at = 0
        for index, dt in zip(document["messages"]["shape"], document["samples"]["dt"], strict=True):
            if index < 0:
                raise ValueError("no such shape")
            shape = shapes[index]
            ts = [t0 + dt] if type(dt) is int else [t0 + t for t in dt]
            if shape.size % len(ts) if ts else shape.size:
                raise ValueError("times that do not cover their samples")
            samples.append(Samples(shape, ts, values[at : at + shape.size]))
            at += shape.size
        if at != len(values) or len(samples) != len(headers):
            raise ValueError("columns of different lengths")
        return SampleBatch(BatchNumber(*document["batch"]), headers, samples)
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
        if document["v"] < VERSION:
            raise ValueError(f"version {document['v']} is of an older ingest; {VERSION} is known: update ingest too")
        raise ValueError(f"version {document['v']} is not {VERSION}: update this service first, then ingest")
