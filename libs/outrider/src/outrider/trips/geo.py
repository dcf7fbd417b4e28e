"""Distances on the earth, vectorised, and the simplification of a track."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
    place = _complex(
        np.radians((lon - lon[0] + 540) % 360 - 180) * np.cos(np.radians(lat.mean())), np.radians(lat - lat[0])
    )
    while True:
        keep = _peucker(place, tolerance_m)
        if int(keep.sum()) <= max(2, at_most):
            return keep
        tolerance_m *= 2


def _complex(east: Floats, north: Floats) -> npt.NDArray[np.complex128]:
    return np.asarray((east + 1j * north) * EARTH_M)


def _peucker(place: npt.NDArray[np.complex128], tolerance_m: float) -> Bools:
    """One pass: complex numbers, because a rotation onto the chord is then one multiplication (half the time)."""
    keep = np.zeros(len(place), dtype=np.bool_)
    keep[[0, -1]] = True
    spans = [(0, len(place) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        away = place[first + 1 : last] - place[first]
        chord = complex(place[last] - place[first])
        length = abs(chord)
        if length:
            away *= chord.conjugate() / length
            away.real -= np.minimum(np.maximum(away.real, 0.0), length)
        off = away.real**2 + away.imag**2
        worst = int(off.argmax())
        if off[worst] > tolerance_m * tolerance_m:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return keep
