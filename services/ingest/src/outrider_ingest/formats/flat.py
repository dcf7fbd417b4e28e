"""Flat JSON: `{"speed_kmh": 51.2}`, ThingsBoard's `{"ts": …, "values": {…}}`, arrays of either, numbered packs of them.

Nested objects flatten with `_`, arrays stay JSON values, null is no value. Numbering of a bare array stands in its
first object. Keys that become the same metric give two samples; the ledger says what becomes of them.
"""

from __future__ import annotations

from math import inf
from typing import Any

from outrider.contract.limits import JSON_MAX_DEPTH, MESSAGE_MAX_SAMPLES, NUMBER_MAX, STRING_VALUE_MAX_BYTES
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats.decoded import Decoded, check_numbering, read_header, read_times, shown
from outrider_ingest.formats.names import METRICS, RESERVED, name_problem
from outrider_ingest.formats.records import refuse_strangers
from outrider_ingest.formats.values import check_json, number_problem, text_problem


def decode(body: bytes, document: object) -> Decoded | None:
    """The samples of any JSON object or array; None for anything else."""
    if type(document) is dict:
        decoded = read_header(document)
        records = document.get("records")
        if type(records) is list:
            refuse_strangers(document, decoded)
            _read_all(records, 3, decoded)
        else:
            _read_record(document, 1, decoded)
        return decoded
    if type(document) is list:
        first = document[0] if document else None
        decoded = read_header(first) if type(first) is dict else Decoded()
        _read_all(document, 2, decoded)
        return decoded
    return None


def _read_all(records: list[Any], depth: int, decoded: Decoded) -> None:
    if len(records) > MESSAGE_MAX_SAMPLES:
        decoded.refuse_all(Reason.TOO_MANY_SAMPLES, f"{len(records)} records in one message")
        return
    for record in records:
        if type(record) is not dict:
            decoded.refuse(Reason.UNKNOWN_FORMAT, f"{shown(record)} stands where an object with samples is expected")
        else:
            _read_record(record, depth, decoded)


def _read_record(record: dict[str, Any], depth: int, decoded: Decoded) -> None:
    try:
        if depth > 1 and ("boot" in record or "seq" in record or "now_ms" in record):
            check_numbering(record, decoded)
        ts, up_ms = read_times(record, decoded) if "ts" in record or "up_ms" in record else (None, None)
    except Refused as error:
        decoded.refuse(error.reason, error.detail)
        return
    _read_fields(record, "", depth, ts, up_ms, decoded)


def _read_fields(
    fields: dict[str, Any],
    prefix: str,
    depth: int,
    ts: int | None,
    up_ms: int | None,
    decoded: Decoded,
    inner: bool = False,
) -> None:
    # The hot path of ingest: no call per sample for numbers and booleans with known names.
    add = decoded.samples.append
    for key, value in fields.items():
        metric = METRICS[prefix + key] if prefix else METRICS[key]
        if metric:
            kind = type(value)
            if kind is float:
                if -inf < value < inf:
                    add((metric, ts, up_ms, value))
                    continue
            elif kind is int:
                if -NUMBER_MAX <= value <= NUMBER_MAX:
                    add((metric, ts, up_ms, value))
                    continue
            elif kind is bool:
                add((metric, ts, up_ms, value))
                continue
            elif value is None:
                continue
        elif not prefix and not inner and key in RESERVED:
            continue
        _read_other(prefix + key, metric, value, depth, ts, up_ms, decoded, inner)


def _read_other(
    key: str, metric: str, value: Any, depth: int, ts: int | None, up_ms: int | None, decoded: Decoded, inner: bool
) -> None:
    """Text, arrays, nested objects, and whatever has to be refused."""
    kind = type(value)
    if kind is dict:
        if depth >= JSON_MAX_DEPTH:
            decoded.refuse(Reason.TOO_DEEP, f"metric {shown(key)}: nested deeper than {JSON_MAX_DEPTH} levels")
        elif key == "values" and not inner:
            _read_fields(value, "", depth + 1, ts, up_ms, decoded, inner=True)
        else:
            _read_fields(value, key + "_", depth + 1, ts, up_ms, decoded, inner)
        return
    if not metric:
        decoded.refuse(Reason.BAD_NAME, f"metric {shown(key)}: {name_problem(key)}")
        return
    problem: str | None = None
    if kind is str:
        problem = text_problem(value, STRING_VALUE_MAX_BYTES)
    elif kind is list:
        try:
            check_json(value, depth + 1)
        except Refused as error:
            decoded.refuse(error.reason, f"metric {shown(key)}: {error.detail}")
            return
    else:
        problem = number_problem(value)
    if problem:
        decoded.refuse(Reason.BAD_VALUE, f"metric {shown(key)}: the value {problem}")
    else:
        decoded.samples.append((metric, ts, up_ms, value))
