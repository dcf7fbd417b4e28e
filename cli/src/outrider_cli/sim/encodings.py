"""Writes samples in the formats of the wire contract: flat JSON, SenML and compact batches under zstd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson
import zstandard

from outrider.device.messages import Document, encode_json
from outrider_cli.sim.sources import Value, Values

Encoding: TypeAlias = Literal["flat", "senml", "compact", "scalar"]
NUMBERED: tuple[Encoding, ...] = ("flat", "senml", "compact")

_UNITS = {"temp_c": "Cel", "humidity_pct": "%RH", "lat": "lat", "lon": "lon", "alt_m": "m", "battery_v": "V"}
_compressor = zstandard.ZstdCompressor(level=3)


@dataclass(frozen=True)
class Frame:
    """The values of one instant: epoch ms, or uptime in ms of a device without a clock."""

    time_ms: int
    values: Values


def document_of(encoding: Encoding, frames: Sequence[Frame], *, clockless: bool) -> Document:
    """One message with all frames, not yet numbered. `frames` is not empty and its times grow."""
    if encoding == "senml":
        return _senml(frames, clockless=clockless)
    if encoding == "compact":
        return _compact(frames)
    return _flat(frames, clockless=clockless)


def encoder_of(encoding: Encoding) -> Any:
    """The function that turns a numbered document into bytes."""
    return encode_zstd if encoding == "compact" else encode_json


def encode_zstd(document: Document) -> bytes:
    """Compact JSON, compressed: the same document gives the same bytes."""
    return _compressor.compress(orjson.dumps(document))


def _flat(frames: Sequence[Frame], *, clockless: bool) -> Document:
    time = "up_ms" if clockless else "ts"
    records = [{time: frame.time_ms, **frame.values} for frame in frames]
    return records[0] if len(records) == 1 else {"records": records}


def _senml(frames: Sequence[Frame], *, clockless: bool) -> Document:
    start_ms = frames[0].time_ms
    pack: list[dict[str, Any]] = []
    for frame in frames:
        for name, value in frame.values.items():
            record: dict[str, Any] = {"n": name, _senml_key(value): value}
            if clockless:
                record["up_ms"] = frame.time_ms
            elif frame.time_ms != start_ms:
                record["t"] = (frame.time_ms - start_ms) / 1000
            if name in _UNITS:
                record["u"] = _UNITS[name]
            pack.append(record)
    if not clockless:
        pack[0] = {"bt": start_ms / 1000, **pack[0]}
    return pack


def _senml_key(value: Value) -> str:
    return "vb" if isinstance(value, bool) else "vs" if isinstance(value, str) else "v"


def _compact(frames: Sequence[Frame]) -> Document:
    start_ms = frames[0].time_ms
    series: dict[str, tuple[list[int], list[Value]]] = {}
    latest: dict[str, int] = {}
    for frame in frames:
        for name, value in frame.values.items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(frame.time_ms - latest.get(name, start_ms))
            values.append(value)
            latest[name] = frame.time_ms
    return {"v": 1, "t0": start_ms, "series": series}
