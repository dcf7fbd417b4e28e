"""Trips as GeoJSON (RFC 7946) and GPX 1.1 (topografix.com/GPX/1/1), for maps and other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from xml.sax.saxutils import escape

import orjson

from outrider_gateway.query.asked import iso
from outrider_gateway.query.trips import Point


def feature(id_: str, points: Sequence[Point], properties: dict[str, Any]) -> dict[str, Any]:
    """A trip as a Feature: a line, a point where it has one place only, nothing where it has none. Times of the points, where
    they are known, are in `coordTimes`, as other programs expect them."""
    places = [[p.lon, p.lat] if p.alt_m is None else [p.lon, p.lat, p.alt_m] for p in points]
    geometry: dict[str, Any] | None = None
    if len(places) == 1:
        geometry = {"type": "Point", "coordinates": places[0]}
    elif places:
        geometry = {"type": "LineString", "coordinates": places}
    if points and all(point.ts is not None for point in points):
        properties = properties | {"coordTimes": [iso(point.ts) for point in points if point.ts is not None]}
    return {"type": "Feature", "id": id_, "geometry": geometry, "properties": properties}


def collection(features: Iterable[dict[str, Any]], **more: Any) -> bytes:
    """A FeatureCollection; `more` members are foreign ones."""
    return orjson.dumps({"type": "FeatureCollection", "features": list(features), **more})


def gpx(tracks: Iterable[tuple[str, str, Sequence[Point]]]) -> bytes:
    """(name, description, points) of each trip as a GPX track of one segment."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<gpx version="1.1" creator="Outrider" xmlns="http://www.topografix.com/GPX/1/1">',
    ]
    for name, description, points in tracks:
        lines.append(f"<trk><name>{_text(name)}</name><desc>{_text(description)}</desc><trkseg>")
        for point in points:
            inner = "" if point.alt_m is None else f"<ele>{point.alt_m!r}</ele>"
            inner += "" if point.ts is None else f"<time>{iso(point.ts)}</time>"
            lines.append(f'<trkpt lat="{point.lat!r}" lon="{point.lon!r}">{inner}</trkpt>')
        lines.append("</trkseg></trk>")
    return "\n".join([*lines, "</gpx>\n"]).encode()


def _text(text: str) -> str:
    return escape("".join(char for char in text if char.isprintable()))
