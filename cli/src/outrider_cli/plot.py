"""Series over time, drawn for terminals."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from datetime import datetime

from outrider_cli.braille import Canvas

SILENCE = 5.0
"""A line breaks where there is nothing for so many times the usual distance of two points."""


def plot(points: Sequence[tuple[datetime, float]], *, columns: int, rows: int = 12) -> list[str]:
    """Lines of text: values at the left, times below. `points` in the order of time; none give no lines."""
    if not points:
        return []
    times = [at.timestamp() for at, _ in points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    labels = [f"{value:.4g}" for value in (high, (high + low) / 2, low)]
    margin = max(map(len, labels)) + 2
    canvas = Canvas(max(10, columns - margin), rows)
    width_s, span = (times[-1] - times[0]) or 1.0, (high - low) or 1.0

    def dot(time_s: float, value: float) -> tuple[float, float]:
        y = (high - value) / span if high > low else 0.5
        return (time_s - times[0]) / width_s * (canvas.width - 1), y * (canvas.height - 1)

    steps = [b - a for a, b in itertools.pairwise(times)]
    broken_s = SILENCE * statistics.median(steps) if steps else 0.0
    dots = [dot(*one) for one in zip(times, values, strict=True)]
    for n, at in enumerate(dots):
        connected = n > 0 and steps[n - 1] <= broken_s
        canvas.line(*(dots[n - 1] if connected else at), *at)
    named = dict(zip((0, rows // 2, rows - 1), labels, strict=True)) if high > low else {rows // 2: labels[0]}
    text = [f"{named.get(row, ''):>{margin - 2}} │{line}" for row, line in enumerate(canvas.lines())]
    return [*text, " " * (margin - 1) + "└" + "─" * (canvas.width // 2), _times(points, margin, canvas.width // 2)]


def _times(points: Sequence[tuple[datetime, float]], margin: int, columns: int) -> str:
    first, last = points[0][0].astimezone(), points[-1][0].astimezone()
    pattern = "%H:%M:%S" if first.date() == last.date() else "%Y-%m-%d %H:%M"
    begin, end = first.strftime(pattern), last.strftime(pattern)
    middle = (first + (last - first) / 2).strftime(pattern)
    line = " " * margin + begin
    if columns > 4 * len(middle):
        line += middle.center(columns - 2 * len(begin))
        return line + end
    return line + end.rjust(columns - len(begin))
