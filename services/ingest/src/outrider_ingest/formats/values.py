"""Says whether every store and every JSON reader can keep a value, and if not, why."""

from __future__ import annotations

from math import inf
from typing import Any

from outrider.contract.limits import JSON_MAX_DEPTH, NUMBER_MAX, STRING_VALUE_MAX_BYTES
from outrider.contract.reasons import Reason, Refused


def text_problem(text: str, max_bytes: int) -> str | None:
    """Why `text` cannot be stored (NUL, a lone surrogate, more than `max_bytes` of UTF-8), or None."""
    if "\x00" in text:
        return "has a NUL character, which PostgreSQL cannot store"
    if len(text) * 4 <= max_bytes and text.isascii():
        return None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is no character"
    return f"is longer than {max_bytes} bytes" if size > max_bytes else None


def number_problem(value: float | int) -> str | None:
    """Why a number cannot be stored, or None: integers end at ±(2^53−1), floats must be finite."""
    if type(value) is int:
        return None if -NUMBER_MAX <= value <= NUMBER_MAX else "is an integer beyond ±(2^53-1), send it as text"
    return None if -inf < value < inf else "is too large for a double"


def check_value(value: object) -> None:
    """Raise Refused(bad_value) unless `value` is a number, boolean or text that can be stored; text up to 4 KiB."""
    kind = type(value)
    problem: str | None
    if kind is float or kind is int:
        problem = number_problem(value)  # type: ignore[arg-type]
    elif kind is str:
        problem = text_problem(value, STRING_VALUE_MAX_BYTES)  # type: ignore[arg-type]
    elif kind is bool:
        problem = None
    else:
        problem = "must be a number, a boolean or a text here"
    if problem:
        raise Refused(Reason.BAD_VALUE, "the value " + problem)


def check_json(value: Any, depth: int, text_max_bytes: int = STRING_VALUE_MAX_BYTES) -> None:
    """Raise Refused(bad_value, too_deep) unless the JSON `value`, standing at nesting `depth`, can be stored as JSON.

    `depth` is the number of arrays and objects around and including it; the recursion ends at the limit of 8.
    """
    kind = type(value)
    problem: str | None = None
    if kind is float or kind is int:
        problem = number_problem(value)
    elif kind is str:
        problem = text_problem(value, text_max_bytes)
    elif kind is list or kind is dict:
        if depth > JSON_MAX_DEPTH:
            raise Refused(Reason.TOO_DEEP, f"the value is nested deeper than {JSON_MAX_DEPTH} levels")
        if kind is dict:
            for key in value:
                problem = text_problem(key, STRING_VALUE_MAX_BYTES)
                if problem:
                    raise Refused(Reason.BAD_VALUE, "a key in the value " + problem)
            value = value.values()
        for item in value:
            check_json(item, depth + 1, text_max_bytes)
    if problem:
        raise Refused(Reason.BAD_VALUE, "the value " + problem)
