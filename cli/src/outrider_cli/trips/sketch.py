"""A track drawn with braille dots, for terminals: north is up, both axes have one scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]
"""Latitude and longitude in degrees."""
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column."""
START, END, STOP = "○", "●", "×"


def sketch(track: Sequence[Point], stops: Iterable[Point] = (), *, columns: int = 60, rows: int = 16) -> list[str]:
    """Lines of text with the track, its start, end and stops; none for a track without points."""
    if not track:
        return []
    lats, lons = [lat for lat, _ in track], [lon for _, lon in track]
    middle = math.radians((min(lats) + max(lats)) / 2)
    height = max(lats) - min(lats)
    width = (max(lons) - min(lons)) * math.cos(middle)
    # Degrees a dot: whichever side is fuller decides. A cell has 2 × 4 dots, which are about square.
    scale = max(width / (2 * columns - 1), height / (4 * rows - 1)) or 1e-6
    used_rows = max(1, math.ceil((height / scale + 1) / 4))
    used_columns = max(1, math.ceil((width / scale + 1) / 2))

    def dot(point: Point) -> tuple[int, int]:
        x = round((point[1] - min(lons)) * math.cos(middle) / scale)
        y = round((max(lats) - point[0]) / scale)
        return min(max(x, 0), 2 * used_columns - 1), min(max(y, 0), 4 * used_rows - 1)

    cells = [[0] * used_columns for _ in range(used_rows)]
    for x, y in _dots([dot(point) for point in track]):
        cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    text = [[chr(0x2800 + bits) if bits else " " for bits in row] for row in cells]
    for sign, points in ((STOP, list(stops)), (START, [track[0]]), (END, [track[-1]])):
        for point in points:
            x, y = dot(point)
            text[y // 4][x // 2] = sign
    return ["".join(row).rstrip() for row in text]


def _dots(points: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """All dots of the lines between these."""
    yield points[0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        for n in range(1, steps + 1):
            yield round(x0 + (x1 - x0) * n / steps), round(y0 + (y1 - y0) * n / steps)
