"""Decodes what devices publish, recognised by content: bytes in, samples or records or reasons out; no I/O, no clock.

A format is a module with `decode(body, document) -> Decoded | None`: `body` is the unpacked payload, `document` its
JSON or None where it is not JSON, and None says "not mine". A new format is its file and one entry in `TELEMETRY`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import orjson

from outrider.contract.batch import Range, Value
from outrider.contract.limits import DEVICE_MESSAGE_MAX_BYTES, MESSAGE_MAX_SAMPLES
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import compact, flat, gone, influx, json_text, records, senml, senml_cbor
from outrider_ingest.formats.compression import unpack
from outrider_ingest.formats.decoded import Decoded, RawRecord, RawSample, shown
from outrider_ingest.formats.names import METRICS, name_problem
from outrider_ingest.formats.values import check_value

__all__ = [
    "Decoded",
    "Range",
    "RawRecord",
    "RawSample",
    "Refused",
    "Value",
    "decode_event",
    "decode_log",
    "decode_scalar",
    "decode_telemetry",
]

Format: TypeAlias = Callable[[bytes, Any], Decoded | None]

TELEMETRY: tuple[Format, ...] = (
    gone.decode,
    compact.decode,
    senml.decode,
    flat.decode,
    senml_cbor.decode,
    influx.decode,
)
"""Tried in this order; the first that knows the payload decodes it. Flat JSON takes any object, so it is the last for JSON;
no JSON begins like a CBOR array, and line protocol takes only text that is no JSON."""

OUTPUT_MAX_BYTES = 2 * 1024 * 1024
"""What one message may grow to on the bus, half of the broker's packet: `1e15` is written out as 1000000000000000.0,
so that 1 MiB of such numbers would become 4 MiB, a batch that no broker takes however often ingest tries."""


def decode_telemetry(payload: bytes) -> Decoded:
    """The samples of a message on `telemetry`. Raises Refused only where its (boot, seq) cannot be read.

    Whatever else is wrong stands in `refused`, naming the metric, and the rest of the message stays. null is no
    value; a message with nothing in it at all is refused as unknown_format.
    """
    return _decode(
        payload,
        TELEMETRY,
        "send JSON (an object, an array of objects, SenML, a compact batch), SenML CBOR or line protocol",
    )


def decode_scalar(metric: str, payload: bytes) -> Decoded:
    """The one sample of a message on `telemetry/{metric}`: a JSON number, boolean or text; never numbered.

    Raises Refused where the payload is not JSON at all; a bad name or value stands in `refused`.
    """
    return _decode(payload, (partial(_scalar, metric),), "send one number, true, false or a quoted text")


def decode_log(payload: bytes) -> Decoded:
    """The log lines of a message on `log`, levels as RFC 5424 names them; Refused is raised as for telemetry."""
    return _decode_records(payload, records.log_label)


def decode_event(payload: bytes) -> Decoded:
    """The events of a message on `event`; Refused is raised as for telemetry."""
    return _decode_records(payload, records.event_label)


def _decode_records(payload: bytes, label: records.Label) -> Decoded:
    def whole(body: bytes, document: Any) -> Decoded | None:
        return records.decode_records(document, label)

    def lines(body: bytes, document: Any) -> Decoded | None:
        return records.decode_lines(body, label) if document is None and b"\n" in body.strip() else None

    return _decode(payload, (gone.decode, whole, lines), "send an object, an array of objects or one object a line")


def _scalar(metric: str, body: bytes, document: Any) -> Decoded | None:
    if document is None and body.strip() != b"null":
        return None
    decoded = Decoded()
    name = METRICS[metric]
    if not name:
        decoded.refuse(Reason.BAD_NAME, f"metric {shown(metric)}: {name_problem(metric)}")
    elif document is not None:
        try:
            check_value(document)
            decoded.samples.append((name, None, None, document))
        except Refused as error:
            decoded.refuse(error.reason, f"metric {shown(metric)}: {error.detail}")
    return decoded


def _decode(payload: bytes, formats: Sequence[Format], expected: str) -> Decoded:
    if len(payload) > DEVICE_MESSAGE_MAX_BYTES:
        raise Refused(Reason.TOO_LARGE, f"{len(payload)} bytes, at most {DEVICE_MESSAGE_MAX_BYTES} are accepted")
    body = unpack(payload)
    failure: Refused | None = None
    try:
        document = json_text.load(body)
    except Refused as error:
        document, failure = None, error
    for decode in formats:
        decoded = decode(body, document)
        if decoded is not None:
            break
    else:
        raise failure or Refused(Reason.UNKNOWN_FORMAT, f"{shown(document)}: {expected}")
    if len(decoded.samples) > MESSAGE_MAX_SAMPLES:
        decoded.refuse_all(Reason.TOO_MANY_SAMPLES, f"more than {MESSAGE_MAX_SAMPLES} samples in one message")
    elif not decoded.samples and not decoded.records and not decoded.refused and not decoded.gone:
        if not _has_null(document):
            decoded.refuse_all(Reason.UNKNOWN_FORMAT, f"nothing in it: {expected}")
    elif len(body) > DEVICE_MESSAGE_MAX_BYTES:
        _check_output(decoded)
    decoded.finish()
    return decoded


def _has_null(document: Any) -> bool:
    """True if a value of the document is null: its sender had a metric in mind, and nothing to say about it."""
    pending = [document]
    while pending:
        item = pending.pop()
        if item is None:
            return True
        if type(item) is dict:
            pending.extend(item.values())
        elif type(item) is list:
            pending.extend(item)
    return False


def _check_output(decoded: Decoded) -> None:
    size = len(orjson.dumps((decoded.samples, decoded.records)))
    if size > OUTPUT_MAX_BYTES:
        decoded.refuse_all(Reason.TOO_LARGE, f"{size} bytes when written out; send smaller messages")
