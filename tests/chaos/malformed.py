"""Messages that must be refused and kept, each with the one reason the platform has to name; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import zstandard

Make = Callable[[int, int, int, int], bytes]
"""(boot, seq, ts, number) → payload"""


@dataclass(frozen=True)
class Bad:
    """A kind of bad message. `rows_if_refused`: samples `m0` … of it that are good and must be stored."""

    name: str
    reason: str
    payload: Make
    rows_if_refused: int = 0


def _head(boot: int, seq: int, ts: int) -> str:
    return f'{{"boot":{boot},"seq":{seq},"ts":{ts}'


def _with(text: str) -> Make:
    """A numbered message whose body is `text`, with `@` for the number."""
    return lambda boot, seq, ts, number: f"{_head(boot, seq, ts)},{text.replace('@', str(number))}}}".encode()


def _bomb(boot: int, seq: int, ts: int, number: int) -> bytes:
    return zstandard.compress(f'{_head(boot, seq, ts)},"m0":{number},"x":"{"a" * 4_000_000}"}}'.encode())


KINDS: tuple[Bad, ...] = (
    Bad("cut JSON", "not_json", lambda b, s, t, n: f'{_head(b, s, t)},"m0":{n}'.encode()),
    Bad("NaN", "not_json", _with('"m0":@,"x":NaN')),
    Bad("not UTF-8", "not_utf8", lambda b, s, t, n: f'{_head(b, s, t)},"m0":{n},"x":"'.encode() + b'\xff"}'),
    Bad("nesting bomb", "too_deep", lambda b, s, t, n: f'{_head(b, s, t)},"m0":{n},"x":{"[" * 20_000}'.encode()),
    Bad("zstd bomb", "too_large", _bomb),
    Bad("200 KB", "too_large", _with('"m0":@,"x":"' + "a" * 200_000 + '"')),
    Bad("no time", "no_time", lambda b, s, t, n: f'{{"boot":{b},"seq":{s},"m0":{n}}}'.encode()),
    Bad("clock of 1970", "clock_invalid", lambda b, s, t, n: f'{{"boot":{b},"seq":{s},"ts":1000,"m0":{n}}}'.encode()),
    Bad("clock of 2099", "clock_ahead", lambda b, s, t, n: f'{_head(b, s, 4_070_908_800_000)},"m0":{n}}}'.encode()),
    Bad("NUL in a text", "bad_value", _with('"m0":@,"x":"a\\u0000"'), rows_if_refused=1),
    Bad("lone surrogate", "bad_value", _with('"m0":@,"x":"\\ud800"'), rows_if_refused=1),
    Bad("huge number", "bad_value", _with('"m0":@,"x":1' + "0" * 400), rows_if_refused=1),
    Bad("too deep", "too_deep", _with('"m0":@,"x":' + "[" * 12 + "7" + "]" * 12), rows_if_refused=1),
    Bad("bad name", "bad_name", _with('"m0":@,"sp\u00e9ed":1'), rows_if_refused=1),
    Bad("5,100 samples", "too_many_samples", _with('"m0":@,' + ",".join(f'"x{i}":1' for i in range(5_100)))),
)
"""Row 46 of the fault list and the malformed messages of the acceptance. Each payload holds its number, so no two have
one digest."""
