"""Reads what a question says: times, durations, lists, aggregates. Pure; raises Asking with a sentence for the asker."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from itertools import islice

from outrider_gateway.errors import Problem

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
DAY_MS = UNITS_MS["d"]
MAX_RANGE_MS = 3700 * DAY_MS
FIRST_MS = 0
LAST_MS = 4_102_444_800_000
"""Times outside 1970 to 2100 are no times of samples."""
SIMPLE = ("mean", "min", "max", "sum", "count", "first", "last")
OF_TEXT = ("first", "last", "count")
"""Aggregates that texts and JSON have."""
MOST_AGGREGATES = 20
NEAR_KNOWN, NEAR_CLOSELY = 1000, 20
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d|w)")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d)?)")
STEPS_MS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(second * 1000 for second in (1, 2, 5, 10, 15, 30)),
    *(minute * 60_000 for minute in (1, 2, 5, 10, 15, 30)),
    *(hour * 3_600_000 for hour in (1, 2, 3, 6, 12)),
)
"""The round widths a step is chosen from; beyond them whole days."""


class Asking(Problem):
    """The question cannot be answered as it stands; the text says what to ask instead."""

    status = 400
    title = "Cannot be answered"


@dataclass(frozen=True, slots=True)
class Range:
    """[start, end) in epoch ms."""

    start_ms: int
    end_ms: int

    @property
    def width_ms(self) -> int:
        """How long it is."""
        return self.end_ms - self.start_ms


def duration_ms(text: str, what: str = "step") -> int:
    """`30s`, `5m`, `1h`, `1.5d`, `500ms` in ms."""
    match = _DURATION.fullmatch(text.strip().lower())
    ms = round(float(match[1]) * UNITS_MS[match[2]]) if match else 0
    if match is None or not 0 < ms <= MAX_RANGE_MS:
        raise Asking(f"`{what}` is {text[:40]!r}: write a number and a unit, such as 30s, 5m, 1h or 1d.")
    return ms


def moment_ms(text: str, now_ms: int, what: str) -> int:
    """A time: ISO 8601 (UTC where it names no zone), epoch seconds or milliseconds, `now`, or back from now as `-6h`."""
    text = text.strip()
    if text.lower() == "now":
        return now_ms
    if text.startswith("-") and _DURATION.fullmatch(text[1:].lower()):
        return max(FIRST_MS, now_ms - duration_ms(text[1:], what))
    if re.fullmatch(r"\d{1,14}(\.\d{1,6})?", text):
        number = float(text)
        return _possible(round(number * 1000) if number < 1e11 else round(number), text, what)
    try:
        # a plus that was not escaped in a URL arrives as a space
        moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text) if "T" in text else text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return _possible((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), text, what)
    except (ValueError, OverflowError):
        raise _no_time(text, what) from None


def _possible(ms: int, text: str, what: str) -> int:
    if not FIRST_MS <= ms <= LAST_MS:
        raise _no_time(text, what)
    return ms


def _no_time(text: str, what: str) -> Asking:
    return Asking(
        f"`{what}` is {text[:40]!r}: write a time between 1970 and 2100 as 2026-11-25T08:00:00Z, epoch seconds or "
        "milliseconds, `now`, or back from now as -6h."
    )


def fixed(*times: str | None) -> bool:
    """True if all of these are given and name a time that stays: not `now`, and not back from it."""
    return all(text is not None and text.strip()[:1].isdigit() for text in times)


def range_of(start: str | None, end: str | None, now_ms: int, default_ms: int = 3_600_000) -> Range:
    """The range that `from` and `to` name; the `default_ms` before its end where no start is given."""
    end_ms = now_ms if end is None else moment_ms(end, now_ms, "to")
    start_ms = max(FIRST_MS, end_ms - default_ms) if start is None else moment_ms(start, now_ms, "from")
    if start_ms >= end_ms:
        raise Asking(f"`from` ({iso(start_ms)}) must be before `to` ({iso(end_ms)}).")
    if end_ms - start_ms > MAX_RANGE_MS:
        raise Asking(f"The range is longer than {MAX_RANGE_MS // DAY_MS} days: ask for a shorter one.")
    return Range(start_ms, end_ms)


def listed(values: Iterable[str]) -> tuple[str, ...]:
    """The values of a parameter that may be repeated or hold commas, each once, in order."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def aggregates_of(values: Iterable[str], *, percentiles: bool = False) -> tuple[str, ...]:
    """The aggregates asked for, each once; () where none is named. `raw` stands alone."""
    names = listed(values)
    for name in names:
        if name in SIMPLE or (name == "raw" and not percentiles) or (percentiles and percentile_of(name) is not None):
            continue
        allowed = [*SIMPLE, *(["p50", "p95", "any p1 to p99"] if percentiles else ["raw"])]
        raise Asking(f"There is no aggregate {name[:40]!r}: ask for {', '.join(allowed)}.")
    if len(names) > MOST_AGGREGATES:
        raise Asking(f"{len(names)} aggregates are too many for one question: ask for {MOST_AGGREGATES} at a time.")
    if "raw" in names and len(names) > 1:
        raise Asking("`raw` samples and aggregates are two questions: ask for one at a time.")
    return names


def percentile_of(name: str) -> float | None:
    """0.95 for `p95`; None for what is no percentile."""
    match = _PERCENTILE.fullmatch(name)
    value = float(match[1]) if match else 0.0
    return value / 100 if 0 < value < 100 else None


def round_step_ms(width_ms: int, points: int) -> int:
    """A round step so that a range of this width has at most `points` of them (and a part of one at an end)."""
    least = width_ms / max(1, points - 1)
    for step in STEPS_MS:
        if step >= least:
            return step
    return -int(-least // DAY_MS) * DAY_MS


def near(name: str, known: Iterable[str], most: int = 5) -> list[str]:
    """Known names that somebody who wrote `name` may have meant, the best first.

    Of very many known names only the first are looked at, and few closely: it stands in everybody's way.
    """
    by_lower: dict[str, str] = {}
    for one in islice(known, NEAR_KNOWN):
        by_lower.setdefault(one.lower(), one)
    asked = name.lower()[:128]
    matcher = difflib.SequenceMatcher(b=asked, autojunk=False)

    def at_most(one: str) -> float:
        matcher.set_seq1(one)
        return matcher.quick_ratio()

    close = difflib.get_close_matches(asked, nlargest(NEAR_CLOSELY, by_lower, key=at_most), n=most, cutoff=0.6)
    parts = [one for one in by_lower if one not in close and (asked in one or one in asked)]
    return [by_lower[one] for one in [*close, *sorted(parts)][:most]]


def unknown_metric(name: str, owner: str, known: Sequence[str]) -> str:
    """What is said of a metric that `owner` (`van-7`, `the fleet`) does not have."""
    if not known:
        return f"{owner} has no metric {name[:128]!r}; nothing has been stored of it yet."
    if meant := near(name, known):
        return f"{owner} has no metric {name[:128]!r}; near it are: {', '.join(meant)}."
    shown = ", ".join(sorted(known)[:20])
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"{owner} has no metric {name[:128]!r}; there are: {shown}{more}."


def iso(ms: int) -> str:
    """Epoch ms as the API writes times: ISO 8601, UTC, milliseconds."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
