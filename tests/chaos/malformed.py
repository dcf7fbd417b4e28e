"""Messages that are odd or must be refused, each with the one reason the platform has to name; pure."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import zstandard

Make = Callable[[int, int, int, int], bytes]
"""(boot, seq, ts, number) → payload"""

MANY = 100
"""Good samples around one poison value."""
BOMB_BYTES = 64_000_000


@dataclass(frozen=True)
class Bad:
    """A kind of bad message. `rows`: samples `m0` … of it that are good and must be stored; `reason`: "" where nothing
    is refused."""

    name: str
    reason: str
    payload: Make
    rows: int = 0


def _head(boot: int, seq: int, ts: int) -> str:
    return f'{{"boot":{boot},"seq":{seq},"ts":{ts}'


def _with(text: str) -> Make:
    """A numbered message whose body is `text`, with `@` for the number."""
    return lambda boot, seq, ts, number: f"{_head(boot, seq, ts)},{text.replace('@', str(number))}}}".encode()


def _among_good(poison: str) -> Make:
    """One poison value among `MANY` good ones."""
    return _with(",".join(f'"m{i}":@' for i in range(MANY)) + f',"x":{poison}')


def _year_999999(boot: int, seq: int, ts: int, number: int) -> bytes:
    good = ",".join(f'"m{i}":{number}' for i in range(MANY))
    records = f'{{"ts":{ts},{good}}},{{"ts":"+999999-01-01T00:00:00Z","x":{number}}}'
    return f'{{"boot":{boot},"seq":{seq},"records":[{records}]}}'.encode()


@cache
def _zstd_bomb() -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    block = bytes(1_000_000)
    return b"".join([*(stream.compress(block) for _ in range(BOMB_BYTES // len(block))), stream.flush()])


@cache
def _gzip_bomb() -> bytes:
    return gzip.compress(bytes(BOMB_BYTES // 2), compresslevel=9, mtime=0)


def _unknown_dictionary(boot: int, seq: int, ts: int, number: int) -> bytes:
    # A zstd frame (RFC 8878, 3.1.1) whose header names a dictionary that nobody has, by an id of four bytes.
    return b"\x28\xb5\x2f\xfd\x03\x50" + 0x7FFF_FFFE.to_bytes(4, "little") + str(number).encode()


KINDS: tuple[Bad, ...] = (
    Bad("cut JSON", "not_json", lambda b, s, t, n: f'{_head(b, s, t)},"m0":{n}'.encode()),
    Bad("NaN", "not_json", _with('"m0":@,"x":NaN')),
    Bad("-Infinity", "not_json", _with('"m0":@,"x":-Infinity')),
    Bad("not UTF-8", "not_utf8", lambda b, s, t, n: f'{_head(b, s, t)},"m0":{n},"x":"'.encode() + b'\xff"}'),
    Bad("nesting bomb", "too_deep", lambda b, s, t, n: f'{_head(b, s, t)},"m0":{n},"x":{"[" * 20_000}'.encode()),
    Bad("bomb of objects", "too_deep", _with('"m0":@,"x":' + '{"a":' * 10_000 + "1" + "}" * 10_000)),
    # what comes after the bomb only makes its digest its own
    Bad("zstd bomb", "too_large", lambda b, s, t, n: _zstd_bomb() + str(n).encode()),
    Bad("gzip bomb", "too_large", lambda b, s, t, n: _gzip_bomb() + str(n).encode()),
    Bad("unknown dictionary", "decompress_failed", _unknown_dictionary),
    Bad("cut zstd", "decompress_failed", lambda b, s, t, n: zstandard.compress(_with('"m0":@')(b, s, t, n))[:-3]),
    Bad("200 KB", "too_large", _with('"m0":@,"x":"' + "a" * 200_000 + '"')),
    Bad("no time", "no_time", lambda b, s, t, n: f'{{"boot":{b},"seq":{s},"m0":{n}}}'.encode()),
    Bad("clock of 1970", "clock_invalid", lambda b, s, t, n: f'{{"boot":{b},"seq":{s},"ts":1000,"m0":{n}}}'.encode()),
    Bad("clock of 2099", "clock_ahead", lambda b, s, t, n: f'{_head(b, s, 4_070_908_800_000)},"m0":{n}}}'.encode()),
    Bad("year 999999", "clock_invalid", _year_999999, rows=MANY),
    Bad("NUL in a text", "bad_value", _among_good('"a\\u0000"'), rows=MANY),
    Bad("lone surrogate", "bad_value", _among_good('"\\ud800"'), rows=MANY),
    Bad("beyond a double", "bad_value", _among_good("-1e999"), rows=MANY),
    Bad("integer of 400 digits", "bad_value", _with('"m0":@,"x":1' + "0" * 400), rows=1),
    Bad("integer of 10,000 digits", "bad_value", _with('"m0":@,"x":1' + "0" * 10_000), rows=1),
    Bad("integer beyond 2^53", "bad_value", _with('"m0":@,"x":9007199254740993'), rows=1),
    Bad("too deep", "too_deep", _with('"m0":@,"x":' + "[" * 12 + "7" + "]" * 12), rows=1),
    Bad("bad name", "bad_name", _with('"m0":@,"sp\u00e9ed":1'), rows=1),
    Bad("5,100 samples", "too_many_samples", _with('"m0":@,' + ",".join(f'"x{i}":1' for i in range(5_100)))),
    # of equal keys the last counts, and nothing is wrong
    Bad("duplicate keys", "", _with('"m0":0,"m0":-1,"m0":@'), rows=1),
)
"""Row 46 of the fault list and the malformed messages of the acceptance. Each payload holds its number, so no two have
one digest."""
