"""Sets of sequence numbers as sorted, disjoint, inclusive ranges: the arithmetic of acks, needs and losses."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def merged(items: Iterable[Range]) -> list[Range]:
    """The same numbers as sorted, disjoint ranges; neighbours become one."""
    out: list[Range] = []
    for first, last in sorted(items):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def contains(items: Sequence[Range], number: int) -> bool:
    """True if `number` is in one of the merged ranges."""
    at = bisect_right(items, number, key=lambda item: item[0])
    return at > 0 and items[at - 1][1] >= number


def without(items: Iterable[Range], cut: Iterable[Range]) -> list[Range]:
    """The numbers of `items` that are not in `cut`, merged."""
    holes = merged(cut)
    out: list[Range] = []
    for first, last in merged(items):
        at = max(0, bisect_right(holes, first, key=lambda item: item[0]) - 1)
        for low, high in holes[at:]:
            if low > last:
                break
            if high < first:
                continue
            if low > first:
                out.append((first, low - 1))
            first = high + 1
        if first <= last:
            out.append((first, last))
    return out


def size(items: Iterable[Range]) -> int:
    """How many numbers the disjoint ranges hold."""
    return sum(last - first + 1 for first, last in items)
