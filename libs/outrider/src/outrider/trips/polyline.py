"""Google's encoded polyline format, precision 5: a track as a short text.

https://developers.google.com/maps/documentation/utilities/polylinealgorithm
"""

from __future__ import annotations

from collections.abc import Iterable


def encode(points: Iterable[tuple[float, float]]) -> str:
    """(lat, lon) pairs in degrees as text; each is rounded to 1e-5 degrees (about a metre)."""
    out: list[str] = []
    previous = (0, 0)
    for lat, lon in points:
        current = (round(lat * 1e5), round(lon * 1e5))
        for now, before in zip(current, previous, strict=True):
            delta = now - before
            bits = ~(delta << 1) if delta < 0 else delta << 1
            while bits >= 0x20:
                out.append(chr((0x20 | (bits & 0x1F)) + 63))
                bits >>= 5
            out.append(chr(bits + 63))
        previous = current
    return "".join(out)


def decode(text: str) -> list[tuple[float, float]]:
    """The (lat, lon) pairs of an encoded polyline. ValueError when the text is none."""
    numbers: list[int] = []
    bits = shift = 0
    for char in text:
        chunk = ord(char) - 63
        if not 0 <= chunk < 0x40:
            raise ValueError(f"{char!r} does not belong in an encoded polyline.")
        bits |= (chunk & 0x1F) << shift
        shift += 5
        if chunk < 0x20:
            numbers.append(~(bits >> 1) if bits & 1 else bits >> 1)
            bits = shift = 0
    if shift or len(numbers) % 2:
        raise ValueError("The encoded polyline is cut off.")
    lat = lon = 0
    points = []
    for step_lat, step_lon in zip(numbers[::2], numbers[1::2], strict=True):
        lat, lon = lat + step_lat, lon + step_lon
        points.append((lat / 1e5, lon / 1e5))
    return points
