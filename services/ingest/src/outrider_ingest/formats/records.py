"""Log lines and events: `{"ts", "level", "msg", …}` and `{"ts", "type", …}`, alone, in arrays, packs or one a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outrider.contract.limits import DEVICE_MESSAGE_MAX_BYTES, EVENT_TYPE_MAX_CHARS, MESSAGE_MAX_RECORDS
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import json_text
from outrider_ingest.formats.decoded import Decoded, check_numbering, read_header, read_times, shown
from outrider_ingest.formats.names import RESERVED
from outrider_ingest.formats.values import check_json, text_problem

LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
"""RFC 5424 severities; the index is the number."""

_ALIASES = {
    **{level: level for level in LEVELS},
    **{str(number): level for number, level in enumerate(LEVELS)},
    **dict.fromkeys(("emerg", "panic"), "emergency"),
    **dict.fromkeys(("crit", "fatal"), "critical"),
    **dict.fromkeys(("err", "eror", "severe", "e"), "error"),
    **dict.fromkeys(("warn", "w"), "warning"),
    **dict.fromkeys(("information", "informational", "inf", "i"), "info"),
    **dict.fromkeys(("dbg", "trace", "verbose", "d", "v"), "debug"),
}
_ENVELOPE = frozenset({"boot", "seq", "now_ms", "records"})
_TEXT_KEYS = ("msg", "message", "text")
_LEVEL_KEYS = ("level", "severity")

Label = Callable[[dict[str, Any]], tuple[str, str]]
"""Gives (label, text) of a record and takes out of it the fields they came from."""


def decode_records(document: object, label: Label, decoded: Decoded | None = None) -> Decoded | None:
    """The records of an object, an array, or `{"boot", "seq", "now_ms", "records": […]}`; None for anything else.

    Numbering of a bare array stands in its first object. Records are taken or refused whole.
    """
    records: list[Any]
    if type(document) is dict:
        decoded = read_header(document)
        if type(document.get("records")) is list:
            refuse_strangers(document, decoded)
            records, depth = document["records"], 3
        else:
            records, depth = [document], 1
    elif type(document) is list:
        decoded = read_header(document[0]) if document and type(document[0]) is dict else Decoded()
        records, depth = document, 2
    else:
        return None
    _read_all(records, depth, label, decoded)
    return decoded


def decode_lines(body: bytes, label: Label) -> Decoded | None:
    """The records of JSON objects, one a line, numbered by the first; None where no line is JSON.

    Lines that are not JSON are refused, the others stay.
    """
    lines: list[Any] = []
    failures: list[Refused] = []
    for line in body.splitlines():
        if line.strip():
            if len(lines) + len(failures) > MESSAGE_MAX_RECORDS:
                break
            try:
                lines.append(json_text.load(line))
            except Refused as error:
                failures.append(error)
    if not lines:
        return None
    decoded = read_header(lines[0]) if type(lines[0]) is dict else Decoded()
    if len(lines) + len(failures) > MESSAGE_MAX_RECORDS:
        decoded.refuse_all(Reason.TOO_MANY_SAMPLES, f"more than {MESSAGE_MAX_RECORDS} lines in one message")
        return decoded
    for failure in failures:
        decoded.refuse(failure.reason, f"a line: {failure.detail}")
    _read_all(lines, 1, label, decoded)
    return decoded


def log_label(fields: dict[str, Any]) -> tuple[str, str]:
    """(level, text) of a log line: `level` by name, alias or number 0 … 7, `info` without one; `msg` must be there."""
    level = next((fields.pop(key) for key in _LEVEL_KEYS if fields.get(key) is not None), "info")
    name = None
    if type(level) is str:
        name = _ALIASES.get(level.strip().lower()) if len(level) < 32 else None
    elif type(level) is int and 0 <= level < len(LEVELS):
        name = LEVELS[level]
    if name is None:
        raise Refused(Reason.BAD_VALUE, f"level {shown(level)} is not one of {', '.join(LEVELS)} or 0 to 7")
    text = _take_text(fields)
    if text is None:
        raise Refused(Reason.BAD_VALUE, "a log line needs msg, a text")
    return name, text


def event_label(fields: dict[str, Any]) -> tuple[str, str]:
    """(type, text) of an event: `type` is a text of 1 … 128 characters, `msg` may be absent."""
    kind = fields.pop("type", None)
    if type(kind) is not str or not 1 <= len(kind) <= EVENT_TYPE_MAX_CHARS:
        raise Refused(Reason.BAD_VALUE, f"an event needs type, a text of 1 to {EVENT_TYPE_MAX_CHARS} characters")
    if problem := text_problem(kind, 4 * EVENT_TYPE_MAX_CHARS):
        raise Refused(Reason.BAD_VALUE, f"type {problem}")
    return kind, _take_text(fields) or ""


def refuse_strangers(document: dict[str, Any], decoded: Decoded, known: frozenset[str] = _ENVELOPE) -> None:
    """Refuse what stands beside `records` (or other `known` keys): it belongs to no record and must not just vanish."""
    for key, value in document.items():
        if key not in known and value is not None:
            decoded.refuse(Reason.UNKNOWN_FORMAT, f"{shown(key)} has no place beside {', '.join(sorted(known))}")


def _take_text(fields: dict[str, Any]) -> str | None:
    for key in _TEXT_KEYS:
        if type(fields.get(key)) is str:
            text: str = fields.pop(key)
            if problem := text_problem(text, DEVICE_MESSAGE_MAX_BYTES):
                raise Refused(Reason.BAD_VALUE, f"{key} {problem}")
            return text
    return None


def _read_all(records: list[Any], depth: int, label: Label, decoded: Decoded) -> None:
    if len(records) > MESSAGE_MAX_RECORDS:
        decoded.refuse_all(Reason.TOO_MANY_SAMPLES, f"{len(records)} records in one message")
        return
    for record in records:
        try:
            if type(record) is not dict:
                raise Refused(Reason.UNKNOWN_FORMAT, f"{shown(record)} stands where an object is expected")
            check_numbering(record, decoded)
            ts, up_ms = read_times(record, decoded)
            fields = {key: value for key, value in record.items() if key not in RESERVED}
            if fields or depth > 1:
                name, text = label(fields)
                check_json(fields, depth, DEVICE_MESSAGE_MAX_BYTES)
                decoded.records.append((ts, up_ms, name, text, fields))
        except Refused as error:
            decoded.refuse(error.reason, error.detail)
