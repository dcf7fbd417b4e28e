"""What a device had to discard: `{"boot": …, "gone": [[from, to], …], "reason": …}` on the stream's topic."""

from __future__ import annotations

from typing import Any

from outrider.contract.limits import GONE_MAX_RANGES, NUMBER_MAX
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats.decoded import DETAIL_MAX_CHARS, Decoded, read_header, shown
from outrider_ingest.formats.records import refuse_strangers
from outrider_ingest.formats.values import text_problem

_KEYS = frozenset({"boot", "now_ms", "gone", "reason"})


def decode(body: bytes, document: object) -> Decoded | None:
    """The ranges of an object whose `gone` is an array; None for anything else.

    Raises Refused(bad_value) if a range, the reason or `boot` is wrong: such a message has no number to answer to.
    """
    if type(document) is not dict or type(document.get("gone")) is not list:
        return None
    decoded = read_header(document)
    if decoded.boot is None or decoded.seq is not None:
        raise Refused(Reason.BAD_VALUE, "a message with gone has boot and no seq")
    ranges = document["gone"]
    if not 1 <= len(ranges) <= GONE_MAX_RANGES:
        raise Refused(Reason.BAD_VALUE, f"gone has 1 to {GONE_MAX_RANGES} ranges, not {len(ranges)}")
    decoded.gone = [_range(item) for item in ranges]
    decoded.gone_reason = _reason(document.get("reason"))
    refuse_strangers(document, decoded, _KEYS)
    return decoded


def _range(item: Any) -> tuple[int, int]:
    if type(item) is list and len(item) == 2:
        first, last = item
        if type(first) is int and type(last) is int and 1 <= first <= last <= NUMBER_MAX:
            return first, last
    raise Refused(Reason.BAD_VALUE, "a range in gone is [from, to] with 1 <= from <= to <= 2^53-1")


def _reason(reason: Any) -> str | None:
    if reason is None:
        return None
    if type(reason) is not str or text_problem(reason, 4 * DETAIL_MAX_CHARS):
        raise Refused(Reason.BAD_VALUE, f"the reason of gone is a short text, not {shown(reason)}")
    return reason[:DETAIL_MAX_CHARS]
