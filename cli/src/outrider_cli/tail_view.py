"""Turns any message on the broker into one readable line; never raises on what it is given."""

from __future__ import annotations

import zlib
from typing import Any

import orjson
import zstandard
from rich.markup import escape

from outrider.contract import topics
from outrider.contract.batch import decode_records, decode_samples
from outrider.contract.limits import DECOMPRESSED_MAX_BYTES

MAX_CHARS = 600
_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP = b"\x1f\x8b"
_STREAM_COLOURS = {"telemetry": "green", "log": "cyan", "event": "magenta", "ack": "dim", "status": "yellow"}
_LEVEL_COLOURS = {"debug": "dim", "info": "green", "notice": "green", "warning": "yellow", "warn": "yellow"}
_NUMBERING = ("boot", "seq", "ts", "up_ms", "now_ms", "v", "t0")


def unpack(payload: bytes) -> tuple[bytes, str]:
    """The payload and how it was compressed ("" for not at all); what cannot be unpacked comes back as it is."""
    try:
        if payload[:4] == _ZSTD:
            return zstandard.ZstdDecompressor().stream_reader(payload).read(DECOMPRESSED_MAX_BYTES), "zstd"
        if payload[:2] == _GZIP:
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(payload, DECOMPRESSED_MAX_BYTES), "gzip"
        if len(payload) > 1 and payload[0] == 0x78 and (payload[0] << 8 | payload[1]) % 31 == 0:
            return zlib.decompressobj().decompress(payload, DECOMPRESSED_MAX_BYTES), "zlib"
    except (zlib.error, zstandard.ZstdError):
        return payload, "damaged or with a dictionary"
    return payload, ""


def read(payload: bytes) -> Any:
    """The payload's JSON, else its text; unpacked first."""
    body, _ = unpack(payload)
    try:
        return orjson.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def describe(topic: str, payload: bytes) -> str:
    """One line of rich markup: who, what, and the content in short."""
    values = topics.BUS_SAMPLES.parse(topic) or topics.BUS_LOGS.parse(topic) or topics.BUS_EVENTS.parse(topic)
    if values is not None:
        return f"[blue]bus[/] [dim]{escape(topic)}[/] {_bus(topic, payload)}"
    levels = topic.split("/")
    if len(levels) < 5 or levels[:2] != ["fleet", "v1"]:
        return f"[dim]{escape(topic)}[/] {_clip(_text(read(payload)))}"
    device, stream, rest = levels[3], levels[4], "/".join(levels[5:])
    colour = _STREAM_COLOURS.get(stream, "white")
    name = f"{stream}/{rest}" if rest else stream
    content = read(payload)
    _, packed = unpack(payload)
    how = f" [dim]({packed}, {len(payload)} B)[/]" if packed else ""
    return f"[bold]{escape(device):<14}[/] [{colour}]{escape(name):<10}[/] {_content(stream, content)}{how}"


def _content(stream: str, content: Any) -> str:
    if stream == "ack" and isinstance(content, dict):
        return _ack(content)
    if stream in ("log", "event"):
        records = content.get("records", [content]) if isinstance(content, dict) else content
        if isinstance(records, list):
            return " [dim]|[/] ".join(_record(record) for record in records[:5]) + _number_of(content)
    if isinstance(content, dict) and isinstance(content.get("gone"), list):
        return f"[red]gone[/] {escape(_text(content['gone']))} {escape(str(content.get('reason', '')))}"
    if isinstance(content, dict) and isinstance(content.get("series"), dict):
        return _compact(content) + _number_of(content)
    if isinstance(content, list) and content and all(isinstance(record, dict) for record in content):
        pairs = {}
        for record in content:
            if "n" in record or "bn" in record:
                value = next((record[key] for key in ("v", "vs", "vb", "vd") if key in record), None)
                pairs[f"{record.get('bn', '')}{record.get('n', '')}"] = value
            else:
                pairs.update(record)
        return _pairs(pairs) + _number_of(content[0])
    if isinstance(content, dict):
        return _pairs(content) + _number_of(content)
    return _clip(_text(content))


def _compact(content: dict[str, Any]) -> str:
    latest: dict[str, Any] = {}
    instants = 0
    for name, columns in content["series"].items():
        if isinstance(columns, list) and len(columns) == 2 and isinstance(columns[1], list) and columns[1]:
            instants = max(instants, len(columns[1]))
            latest[str(name)] = columns[1][-1]
    return f"[dim]{instants} instants ×[/] {_pairs(latest)}"


def _record(record: Any) -> str:
    if not isinstance(record, dict):
        return _clip(_text(record))
    label = str(record.get("level", record.get("type", "")))
    colour = _LEVEL_COLOURS.get(label, "red" if "level" in record else "magenta")
    text = str(record.get("msg", record.get("message", "")))
    rest = {key: value for key, value in record.items() if key not in ("level", "type", "msg", "message")}
    return f"[{colour}]{escape(label)}[/] {_clip(text)} {_pairs(rest)}".rstrip()


def _ack(content: dict[str, Any]) -> str:
    parts = [str(content.get("stream", "?"))]
    if content.get("seq"):
        parts.append(f"[green]acked[/] {escape(_ranges(content['seq']))}")
    for name, colour in (("rejected", "red"), ("digest", "red"), ("need", "yellow"), ("gone", "yellow")):
        if content.get(name):
            parts.append(f"[{colour}]{name}[/] {_clip(_text(content[name]))}")
    return " ".join(parts) + _number_of(content)


def _ranges(items: Any) -> str:
    try:
        return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in items)
    except (TypeError, ValueError):
        return _text(items)


def _bus(topic: str, payload: bytes) -> str:
    try:
        if topics.BUS_SAMPLES.parse(topic):
            samples = decode_samples(payload)
            devices = len({(header.tenant, header.device) for header in samples.headers})
            number, what = samples.number, f"{len(samples.headers)} messages, {sum(map(len, samples.samples))} samples"
        else:
            records = decode_records(payload)
            devices = len({(header.tenant, header.device) for header in records.headers})
            number = records.number
            what = f"{len(records.headers)} messages, {sum(len(items) for items in records.records)} records"
    except ValueError as error:
        return f"[red]{escape(str(error))}[/]"
    return f"batch {number.number} of slot {number.slot}/{number.epoch}: {what}, {devices} devices, {len(payload):,} B"


def _pairs(content: dict[str, Any]) -> str:
    text = " ".join(f"{key}={_text(value)}" for key, value in content.items() if key not in _NUMBERING)
    return _clip(text)


def _number_of(content: Any) -> str:
    if isinstance(content, dict) and content.get("seq") is not None and not isinstance(content["seq"], list):
        return f" [dim]#{escape(_text(content['seq']))}[/]"
    return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _clip(text: str) -> str:
    text = "".join(char if char.isprintable() else "·" for char in text[: MAX_CHARS + 1])
    return escape(text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + "…")
