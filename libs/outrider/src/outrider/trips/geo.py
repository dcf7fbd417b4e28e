"""Distances on the earth, vectorised, and the simplification of a track."""

from __future__ import annotations

import numpy as np

from outrider.trips.columns import Bools, Floats

EARTH_M = 6_371_008.8


def metres(lat_a: Floats, lon_a: Floats, lat_b: Floats, lon_b: Floats) -> Floats:
    """Great-circle distances in metres (haversine); NaN where a coordinate is missing."""
    phi_a, phi_b = np.radians(lat_a), np.radians(lat_b)
    half = np.sin((phi_b - phi_a) / 2) ** 2
    half = half + np.cos(phi_a) * np.cos(phi_b) * np.sin(np.radians(lon_b - lon_a) / 2) ** 2
    found: Floats = 2 * EARTH_M * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return found


def simplify(lat: Floats, lon: Floats, tolerance_m: float, at_most: int) -> Bools:
    """Which points to keep: Douglas-Peucker within `tolerance_m`, doubled until `at_most` points (2 or more) are left."""
    keep = np.zeros(len(lat), dtype=np.bool_)
    if len(lat) <= 2:
        keep[:] = True
        return keep
    east = np.radians((lon - lon[0] + 540) % 360 - 180) * np.cos(np.radians(lat.mean())) * EARTH_M
    north = np.radians(lat - lat[0]) * EARTH_M
    while True:
        keep = _peucker(east, north, tolerance_m)
        if int(keep.sum()) <= max(2, at_most):
            return keep
        tolerance_m *= 2


def _peucker(east: Floats, north: Floats, tolerance_m: float) -> Bools:
    keep = np.zeros(len(east), dtype=np.bool_)
    keep[[0, -1]] = True
    spans = [(0, len(east) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        x, y = east[first + 1 : last] - east[first], north[first + 1 : last] - north[first]
        dx, dy = float(east[last] - east[first]), float(north[last] - north[first])
        length = dx * dx + dy * dy
        if length:
            along = np.clip((x * dx + y * dy) / length, 0, 1)
            x, y = x - along * dx, y - along * dy
        off = x * x + y * y
        worst = int(off.argmax())
        if off[worst] > tolerance_m * tolerance_m:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return keep
