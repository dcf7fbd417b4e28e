"""Lines drawn with braille characters: 2 × 4 dots in each character cell of a terminal."""

from __future__ import annotations

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column."""


class Canvas:
    """Dots are counted from the upper left; what lies outside is moved to the edge."""

    def __init__(self, columns: int, rows: int) -> None:
        self.width, self.height = 2 * columns, 4 * rows
        self._bits = [[0] * columns for _ in range(rows)]
        self._signs: dict[tuple[int, int], str] = {}

    def line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A line between two dots."""
        steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for n in range(steps + 1):
            x, y = self._inside(x0 + (x1 - x0) * n / steps, y0 + (y1 - y0) * n / steps)
            self._bits[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    def sign(self, x: float, y: float, char: str) -> None:
        """A character in the cell of this dot, over the lines."""
        dot_x, dot_y = self._inside(x, y)
        self._signs[dot_x // 2, dot_y // 4] = char

    def lines(self) -> list[str]:
        """Rows of text, without spaces at their ends."""
        return [
            "".join(
                self._signs.get((column, row)) or (chr(0x2800 + bits) if bits else " ")
                for column, bits in enumerate(cells)
            ).rstrip()
            for row, cells in enumerate(self._bits)
        ]

    def _inside(self, x: float, y: float) -> tuple[int, int]:
        return min(max(round(x), 0), self.width - 1), min(max(round(y), 0), self.height - 1)
