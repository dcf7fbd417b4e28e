"""Reads the payload of a device's ack topic (delivery rules 5 and 6) without trusting a byte of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from outrider.contract import limits
from outrider.contract.topics import STREAMS

ACK_MAX_ENTRIES = 4_096
"""Entries in one list of an ack; a longer one is no ack of ours."""


@dataclass(slots=True, frozen=True)
class Ack:
    """A well-formed ack; `boot` is 0 where the ack names none (digest acks)."""

    stream: str
    boot: int
    ledger: str | None
    seq: list[tuple[int, int]]
    rejected: list[tuple[int, str]]
    need: list[tuple[int, int]]
    gone: list[tuple[int, int]]
    digest: list[tuple[str, str]]


def parse_ack(payload: bytes | Mapping[str, Any]) -> Ack | None:
    """The ack in a payload (or a decoded payload), None for anything else; unknown fields are ignored. Never raises."""
    try:
        document = orjson.loads(payload) if isinstance(payload, bytes | bytearray | memoryview | str) else payload
        boot = document.get("boot", 0)
        ledger = document.get("ledger")
        ack = Ack(
            stream=document["stream"],
            boot=boot,
            ledger=ledger,
            seq=_ranges(document, "seq"),
            rejected=[(_number(seq), _text(reason)) for seq, reason in _list(document, "rejected")],
            need=_ranges(document, "need"),
            gone=_ranges(document, "gone"),
            digest=[(_text(digest), _text(reason)) for digest, reason in _list(document, "digest")],
        )
        if ack.stream not in STREAMS or not isinstance(ledger, str | None):
            return None
        if boot != 0 or ack.seq or ack.rejected or ack.need or ack.gone:
            _number(boot)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return ack


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > ACK_MAX_ENTRIES:
        raise ValueError(name)
    return value


def _ranges(document: Mapping[str, Any], name: str) -> list[tuple[int, int]]:
    out = [(_number(first), _number(last)) for first, last in _list(document, name)]
    if any(first > last for first, last in out):
        raise ValueError(name)
    return out


def _number(value: object) -> int:
    if type(value) is not int or not 1 <= value <= limits.NUMBER_MAX:
        raise ValueError("not a sequence number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value
