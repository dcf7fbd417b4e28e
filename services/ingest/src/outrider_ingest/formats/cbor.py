"""Reads the part of CBOR (RFC 8949) that a SenML pack is made of: an array of maps with integer or text labels.

A decoder of its own, because what a general one offers is what a device must not have: keys of any type, whose hashes a
message can make collide, tags that compile patterns or build numbers of a million digits, containers as large as their
header claims. Here a message costs what its bytes cost: every count is checked against the bytes that are left.
"""

from __future__ import annotations

import struct
from math import inf
from typing import Any

from outrider.contract.limits import MESSAGE_MAX_SAMPLES
from outrider.contract.reasons import Reason, Refused

SELF_DESCRIBED = b"\xd9\xd9\xf7"
"""Tag 55799 (RFC 8949 section 3.4.6), which may stand in front and means nothing else."""
MAX_DEPTH = 16
MAX_ITEMS = 40 * MESSAGE_MAX_SAMPLES
"""Data items in one message: a SenML record has at most 30 with all its labels."""
_BREAK = object()
_CUT_OFF = "it is cut off"
_FLOATS = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_DOUBLE = _FLOATS[27].unpack_from
_ARGUMENTS = {24: struct.Struct(">B"), 25: struct.Struct(">H"), 26: struct.Struct(">I"), 27: struct.Struct(">Q")}
_SIMPLE: dict[int, Any] = {20: False, 21: True, 22: None}
_BIGNUM_MAX_BYTES = 8
_DECIMAL_FRACTION, _POSITIVE_BIGNUM, _NEGATIVE_BIGNUM = 4, 2, 3


class Other:
    """A value that CBOR has and JSON has not: in no place of a SenML record, but named where it is refused."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def load_array(body: bytes, labels: dict[int, str], max_elements: int) -> list[Any]:
    """The elements of the one CBOR array that `body` is, no more than `max_elements` of them.

    Values come as JSON would have them; byte strings stay bytes, decimal fractions become floats, and what JSON cannot
    say (NaN, an infinity, a tag without a meaning in SenML, undefined) becomes an `Other`. Keys of maps are texts;
    integer keys go by `labels`, and their pair is left out where it has none. Of equal keys the last counts.
    Raises Refused: not_utf8, too_deep, too_large (data items), unknown_format for whatever is not well-formed.
    """
    start = len(SELF_DESCRIBED) if body.startswith(SELF_DESCRIBED) else 0
    reader = _Reader(body, labels)
    try:
        elements, end = reader.elements(start, max_elements)
    except (IndexError, struct.error):
        raise _malformed(_CUT_OFF) from None
    except UnicodeDecodeError:
        raise Refused(Reason.NOT_UTF8, "a CBOR text is not UTF-8") from None
    if end is not None and end != len(body):
        raise _malformed("bytes after its end")
    return elements


def _malformed(why: str) -> Refused:
    return Refused(Reason.UNKNOWN_FORMAT, f"not text, and as CBOR not well-formed: {why}")


class _Reader:
    """Reads items of one body; every method takes the offset of an item and gives its value and the offset behind it."""

    def __init__(self, body: bytes, labels: dict[int, str]) -> None:
        self._body = body
        self._labels = labels
        self._items_left = MAX_ITEMS

    def elements(self, at: int, max_elements: int) -> tuple[list[Any], int | None]:
        """Elements of the outermost array; the offset is None where there are more of them."""
        first = self._body[at]
        if first >> 5 != 4:
            raise _malformed("a SenML pack is an array")
        count, at = self._count(first & 31, at + 1)
        found: list[Any] = []
        while count is None or len(found) < count:
            if len(found) >= max_elements:
                return found, None
            value, at = self.item(at, 2)
            if value is _BREAK:
                if count is not None:
                    raise _malformed("a break where an item is expected")
                break
            found.append(value)
        return found, at

    def item(self, at: int, depth: int) -> tuple[Any, int]:
        first = self._body[at]
        major, info = first >> 5, first & 31
        if major == 5:
            return self._map(info, at + 1, depth)
        if major == 7:
            return self._simple(info, at + 1)
        if major == 4:
            return self._array(info, at + 1, depth)
        if info < 24:
            at += 1
            if major == 3:
                end = at + info
                if end > len(self._body):
                    raise _malformed(_CUT_OFF)
                return self._body[at:end].decode(), end
            argument: int | None = info
        else:
            argument, at = self._argument(info, at + 1)
        if major == 3:
            if argument is None:
                data, at = self._chunks(3, at)
                return data.decode(), at
            data, at = self._bytes(argument, at)
            return data.decode(), at
        if major == 2:
            return self._chunks(2, at) if argument is None else self._bytes(argument, at)
        if argument is None:
            raise _malformed("an integer or tag without an argument")
        if major == 0:
            return argument, at
        if major == 1:
            return -1 - argument, at
        return self._tagged(argument, at, depth)

    def _argument(self, info: int, at: int) -> tuple[int | None, int]:
        """What follows an initial byte; None means indefinite length."""
        if info < 24:
            return info, at
        if info == 31:
            return None, at
        form = _ARGUMENTS.get(info)
        if form is None:
            raise _malformed(f"reserved additional information {info}")
        return form.unpack_from(self._body, at)[0], at + form.size

    def _count(self, info: int, at: int) -> tuple[int | None, int]:
        count, at = self._argument(info, at)
        if count is not None and count > len(self._body) - at:
            raise _malformed(_CUT_OFF)
        return count, at

    def _spend(self, items: int) -> None:
        self._items_left -= items
        if self._items_left < 0:
            raise Refused(Reason.TOO_LARGE, f"more than {MAX_ITEMS} CBOR data items in one message")

    def _bytes(self, size: int, at: int) -> tuple[bytes, int]:
        end = at + size
        if end > len(self._body):
            raise _malformed(_CUT_OFF)
        return self._body[at:end], end

    def _chunks(self, major: int, at: int) -> tuple[bytes, int]:
        """A string of indefinite length: strings of the same type with a length, until a break."""
        parts: list[bytes] = []
        while (first := self._body[at]) != 0xFF:
            self._spend(1)
            size, at = self._argument(first & 31, at + 1)
            if first >> 5 != major or size is None:
                raise _malformed("a string's chunk is no string with a length")
            part, at = self._bytes(size, at)
            if major == 3:
                part.decode()  # RFC 8949 section 3.2.3: no character spans two chunks
            parts.append(part)
        return b"".join(parts), at + 1

    def _array(self, info: int, at: int, depth: int) -> tuple[list[Any], int]:
        self._check_depth(depth)
        count, at = self._count(info, at)
        found: list[Any] = []
        while count is None or len(found) < count:
            self._spend(1)
            value, at = self.item(at, depth + 1)
            if value is _BREAK:
                self._check_break(count)
                break
            found.append(value)
        return found, at

    def _map(self, info: int, at: int, depth: int) -> tuple[dict[str, Any], int]:
        self._check_depth(depth)
        count, at = self._count(info, at) if info > 23 else (info, at)
        if count is not None:
            self._spend(2 * count)
        body, labels, item = self._body, self._labels, self.item
        found: dict[str, Any] = {}
        while count is None or count > 0:
            if count is None:
                self._spend(2)
            first = body[at]
            if first < 24:  # nearly every key, and every other one takes the long way
                key: Any = first
                at += 1
            else:
                key, at = item(at, depth + 1)
                if key is _BREAK:
                    self._check_break(count)
                    break
            first = body[at]
            if first < 24:  # the usual values without a call each
                value: Any = first
                at += 1
            elif first == 0xFB:
                value = _DOUBLE(body, at + 1)[0]
                at += 9
                if not -inf < value < inf:
                    value = Other(repr(value))
            else:
                value, at = item(at, depth + 1)
                if value is _BREAK:
                    raise _malformed("a break where a value is expected")
            if count is not None:
                count -= 1
            if type(key) is int:
                key = labels.get(key)
                if key is None:
                    continue
            elif type(key) is not str:
                raise _malformed("a label is an integer or a text")
            found[key] = value
        return found, at

    def _simple(self, info: int, at: int) -> tuple[Any, int]:
        form = _FLOATS.get(info)
        if form is not None:
            value: float = form.unpack_from(self._body, at)[0]
            return (value if -inf < value < inf else Other(repr(value))), at + form.size
        if info in _SIMPLE:
            return _SIMPLE[info], at
        if info == 31:
            return _BREAK, at
        number, at = self._argument(info, at)
        return Other(f"CBOR simple value {number}"), at

    def _tagged(self, tag: int, at: int, depth: int) -> tuple[Any, int]:
        self._check_depth(depth)
        self._spend(1)
        value, at = self.item(at, depth + 1)
        if value is _BREAK:
            raise _malformed("a break where an item is expected")
        if tag in (_POSITIVE_BIGNUM, _NEGATIVE_BIGNUM) and type(value) is bytes:
            digits = value.lstrip(b"\0")
            if len(digits) > _BIGNUM_MAX_BYTES:
                return Other("an integer of more than 64 bits"), at
            number = int.from_bytes(digits, "big")
            return (number if tag == _POSITIVE_BIGNUM else -1 - number), at
        if tag == _DECIMAL_FRACTION and type(value) is list and [type(part) for part in value] == [int, int]:
            fraction = float(f"{value[1]}e{value[0]}")  # rounds correctly, whatever the exponent
            return (fraction if -inf < fraction < inf else Other(repr(fraction))), at
        return Other(f"CBOR tag {tag}"), at

    def _check_break(self, count: int | None) -> None:
        if count is not None:
            raise _malformed("a break where an item is expected")

    def _check_depth(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Refused(Reason.TOO_DEEP, f"CBOR nested deeper than {MAX_DEPTH} levels")
