"""Sizes and bars for people."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
BAR = "█"
PARTS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def size(count: float | None) -> str:
    """`1.4 GiB`; empty for None."""
    if count is None:
        return ""
    amount = float(count)
    for unit in UNITS:
        if abs(amount) < 1024 or unit == UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def bar(value: float, largest: float, width: int = 20) -> str:
    """A bar as long as `value` is of `largest`, in eighths of a character."""
    if largest <= 0 or value <= 0:
        return ""
    eighths = max(1, round(min(value / largest, 1.0) * width * 8))
    return BAR * (eighths // 8) + PARTS[eighths % 8]
