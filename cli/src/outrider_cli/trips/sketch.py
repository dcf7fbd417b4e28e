"""A track drawn for terminals: north is up, both axes have one scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from outrider_cli.braille import Canvas

Point = tuple[float, float]
"""Latitude and longitude in degrees."""
START, END, STOP = "○", "●", "×"


def sketch(track: Sequence[Point], stops: Iterable[Point] = (), *, columns: int = 60, rows: int = 16) -> list[str]:
    """Lines of text with the track, its start, end and stops; none for a track without points."""
    if not track:
        return []
    lats, lons = [lat for lat, _ in track], [lon for _, lon in track]
    shrink = math.cos(math.radians((min(lats) + max(lats)) / 2))
    height = max(lats) - min(lats)
    width = (max(lons) - min(lons)) * shrink
    # Degrees a dot: whichever side is fuller decides. A cell has 2 × 4 dots, which are about square.
    scale = max(width / (2 * columns - 1), height / (4 * rows - 1)) or 1e-6
    canvas = Canvas(max(1, math.ceil((width / scale + 1) / 2)), max(1, math.ceil((height / scale + 1) / 4)))

    def dot(point: Point) -> tuple[float, float]:
        return (point[1] - min(lons)) * shrink / scale, (max(lats) - point[0]) / scale

    for before, after in itertools.pairwise([track[0], *track]):
        canvas.line(*dot(before), *dot(after))
    for sign, points in ((STOP, stops), (START, track[:1]), (END, track[-1:])):
        for point in points:
            canvas.sign(*dot(point), sign)
    return canvas.lines()
