"""Reads JSON as RFC 8259 has it: fast where the text is plain, exactly where it is odd, bounded always."""

from __future__ import annotations

import json
import re
from math import inf
from typing import Any, NoReturn

import orjson

from outrider.contract.reasons import Reason, Refused

_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_TWENTY_DIGITS = b"0" * 20
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_READ_MAX_DEPTH = 64
_INTEGER_MAX_DIGITS = 400


def load(text: bytes) -> Any:
    """The JSON document in `text`. Raises Refused: not_utf8, not_json, too_deep, unknown_format (nothing there).

    NaN and Infinity are not JSON. Of equal keys in one object the last counts. Integers come out as integers however
    large, numbers beyond a double as infinity and lone surrogates (`"\\ud800"`) as such: the one value is refused
    later, not the message. Nesting up to 64 levels is always read, so that a message too deep keeps its number.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _load_exactly(text)
    # orjson reads integers from 2^64 on as floats. They have 20 digits, which hardly any other message has: this
    # test costs a tenth of the parse.
    if _TWENTY_DIGITS in text.translate(_DIGITS):
        return _load_exactly(text)
    return document


def _load_exactly(text: bytes) -> Any:
    try:
        characters = text.decode()
    except UnicodeDecodeError as error:
        raise Refused(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from None
    if not characters.strip(" \t\r\n"):
        raise Refused(Reason.UNKNOWN_FORMAT, "the payload is empty")
    if _deeper_than(_READ_MAX_DEPTH, text):
        raise Refused(Reason.TOO_DEEP, f"nested deeper than {_READ_MAX_DEPTH} levels")
    try:
        return json.loads(characters, parse_int=_integer, parse_constant=_no_constant)
    except ValueError as error:
        raise Refused(Reason.NOT_JSON, str(error)) from None


def _deeper_than(limit: int, text: bytes) -> bool:
    """True if brackets outside strings nest deeper than `limit`, False if not beyond twice that; no recursion.

    Pairs vanish from the inside out, a level each turn, at the speed of C: a bomb of 1 MiB takes milliseconds.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    brackets = _STRINGS.sub(b"", text).translate(_SQUARE, _NO_BRACKETS)
    for _ in range(limit):
        rest = brackets.replace(b"[]", b"")
        if len(rest) == len(brackets):
            break
        brackets = rest
    return b"[]" in brackets or brackets.count(b"[") > limit


def _integer(digits: str) -> int | float:
    # Python refuses to read more than 4,300 digits; such a number is refused as a value anyway.
    if len(digits) > _INTEGER_MAX_DIGITS:
        return -inf if digits.startswith("-") else inf
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON: leave the value out or send null")
