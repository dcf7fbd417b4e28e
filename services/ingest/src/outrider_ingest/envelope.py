"""Reads what stands beside a payload: number and time in MQTT 5 user properties (`outrider.contract.envelope`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from outrider.contract.envelope import BOOT, SEQ, TS
from outrider.contract.limits import NUMBER_MAX
from outrider.contract.reasons import Reason, Refused

_MAX_DIGITS = len(str(NUMBER_MAX))


class Envelope(NamedTuple):
    """Number and time that the publisher of a message gave it beside the payload."""

    number: tuple[int, int] | None
    """(boot, seq)"""
    ts_ms: int | None
    """The time of what carries none, epoch ms; stands for the receive time wherever that would be used."""
    problem: str | None = None
    """Why `outrider-ts` is no time; the number holds nevertheless."""


def read(properties: Mapping[str, str]) -> Envelope | None:
    """The envelope in a message's user properties; None where they are about something else.

    Raises Refused(bad_value) for a number out of range, and for one of boot and seq without the other: such a message
    cannot be acknowledged by number.
    """
    boot, seq, ts = properties.get(BOOT), properties.get(SEQ), properties.get(TS)
    if boot is None and seq is None and ts is None:
        return None
    number = None
    if boot is not None or seq is not None:
        if boot is None or seq is None:
            raise Refused(
                Reason.BAD_VALUE, f"{SEQ if boot is None else BOOT} stands alone: a number is {BOOT} and {SEQ}"
            )
        number = _positive(BOOT, boot), _positive(SEQ, seq)
    if ts is None:
        return Envelope(number, None)
    ts_ms = _integer(ts)
    if ts_ms is None:
        return Envelope(number, None, f"{TS} must be epoch milliseconds, not {ts[:40]!r}")
    return Envelope(number, ts_ms)


def _positive(name: str, text: str) -> int:
    value = _integer(text)
    if not value:
        raise Refused(Reason.BAD_VALUE, f"{name} must be an integer from 1 to 2^53-1, not {text[:40]!r}")
    return value


def _integer(text: str) -> int | None:
    """A non-negative decimal up to 2^53−1 in ASCII digits, nothing around them; None for anything else."""
    if not (0 < len(text) <= _MAX_DIGITS and text.isascii() and text.isdecimal()):
        return None
    value = int(text)
    return value if value <= NUMBER_MAX else None
