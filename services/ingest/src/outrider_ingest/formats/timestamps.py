"""Reads a device's `ts`: a number in s, ms, µs or ns by its magnitude, or an ISO 8601 text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

# The units are a factor of 1,000 apart, and so are these bounds; each unit covers 1973 … 5138 without overlap.
SECONDS_BELOW = 10**11
MILLISECONDS_BELOW = 10**14
MICROSECONDS_BELOW = 10**17
NANOSECONDS_BELOW = 10**20


def epoch_ms(ts: object) -> int:
    """`ts` as epoch milliseconds, whatever its age. Raises ValueError, with a detail for people, if it is no time.

    Numbers (integers and floats alike): 0 ≤ ts < 10^11 are seconds, < 10^14 milliseconds, < 10^17 microseconds,
    < 10^20 nanoseconds. Floats round to the nearest millisecond, integers of finer units are cut to it.
    Texts: ISO 8601 date and time, `T` or a space between them, with `Z` or an offset; without either it is UTC.
    """
    kind = type(ts)
    if kind is int:
        return _from_int(ts)  # type: ignore[arg-type]
    if kind is float:
        return _from_float(ts)  # type: ignore[arg-type]
    if kind is str:
        return _from_iso(ts)  # type: ignore[arg-type]
    raise ValueError("a time is a number or an ISO 8601 text")


def _from_int(ts: int) -> int:
    if ts < 0:
        raise ValueError("a time is not negative")
    if ts < SECONDS_BELOW:
        return ts * 1_000
    if ts < MILLISECONDS_BELOW:
        return ts
    if ts < MICROSECONDS_BELOW:
        return ts // 1_000
    if ts < NANOSECONDS_BELOW:
        return ts // 1_000_000
    raise ValueError("too large for a time even in nanoseconds")


def _from_float(ts: float) -> int:
    if ts < 0:
        raise ValueError("a time is not negative")
    if ts < SECONDS_BELOW:
        return round(ts * 1_000)
    if ts < MILLISECONDS_BELOW:
        return round(ts)
    if ts < MICROSECONDS_BELOW:
        return round(ts / 1_000)
    if ts < NANOSECONDS_BELOW:
        return round(ts / 1_000_000)
    raise ValueError("too large for a time even in nanoseconds")


def _from_iso(ts: str) -> int:
    # `fromisoformat` also takes bare dates and week dates: a day is not a moment, so a time of day must be there.
    if not 15 <= len(ts) <= 40 or not ts.isascii() or ("T" not in ts.upper() and " " not in ts):
        raise ValueError("not an ISO 8601 date and time")
    try:
        moment = datetime.fromisoformat(ts.upper())
    except ValueError:
        raise ValueError("not an ISO 8601 date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    if since < timedelta(0):
        raise ValueError("before 1970")
    return since // _MILLISECOND
