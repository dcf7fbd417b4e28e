"""A trip as GeoJSON and GPX, and links to look at it in a browser. Nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import orjson

from outrider.trips import polyline

LINK_POINTS = 80
"""Of a track in a link: browsers take a few thousand characters."""


def track_of(trip: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Latitude and longitude of the simplified track."""
    return polyline.decode(trip["track"])


def stops_of(trip: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Where it stopped in between."""
    return [(stop["lat"], stop["lon"]) for stop in trip["stop_list"] if stop.get("lat") is not None]


def geojson(trip: Mapping[str, Any]) -> dict[str, Any]:
    """The track as a line and its stops as points (RFC 7946: longitude first)."""
    about = {name: value for name, value in trip.items() if name not in ("track", "gap_list", "stop_list", "more")}
    features: list[dict[str, Any]] = [_feature("LineString", [[lon, lat] for lat, lon in track_of(trip)], about)]
    for stop in trip["stop_list"]:
        if stop.get("lat") is not None:
            features.append(_feature("Point", [stop["lon"], stop["lat"]], {"stop": True, **stop}))
    return {"type": "FeatureCollection", "features": features}


def _feature(kind: str, coordinates: Any, properties: Mapping[str, Any]) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": dict(properties)}


def gpx(trip: Mapping[str, Any], points: Mapping[str, Sequence[Any]]) -> str:
    """GPX 1.1 of the recorded points (`t` in epoch ms, `lat`, `lon`), else of the simplified track, which has no times."""
    name = f"{trip['device']} {trip['start_at']}"
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<gpx version="1.1" creator="Outrider" xmlns="http://www.topografix.com/GPX/1/1">',
        f" <trk><name>{escape(name)}</name><trkseg>",
    ]
    if points["t"]:
        for t, lat, lon in zip(points["t"], points["lat"], points["lon"], strict=True):
            at = datetime.fromtimestamp(t / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            lines.append(f"  {_trkpt(lat, lon)}<time>{at}</time></trkpt>")
    else:
        lines += [f"  {_trkpt(lat, lon)}</trkpt>" for lat, lon in track_of(trip)]
    return "\n".join([*lines, " </trkseg></trk>", "</gpx>", ""])


def _trkpt(lat: float, lon: float) -> str:
    return f"<trkpt lat={quoteattr(f'{lat:.7g}')} lon={quoteattr(f'{lon:.7g}')}>"


def map_link(trip: Mapping[str, Any]) -> str:
    """A page of geojson.io that shows the track, which is in the link itself; empty without positions."""
    track = track_of(trip)
    if not track:
        return ""
    step = max(1, -(-len(track) // LINK_POINTS))
    thinned = [*track[:-1:step], track[-1]]
    line = {"type": "LineString", "coordinates": [[round(lon, 5), round(lat, 5)] for lat, lon in thinned]}
    return "https://geojson.io/#data=data:application/json," + quote(orjson.dumps(line).decode(), safe="")


def place_link(lat: float, lon: float) -> str:
    """A page of OpenStreetMap with a mark there."""
    return f"https://www.openstreetmap.org/?mlat={lat:.5f}&mlon={lon:.5f}#map=16/{lat:.5f}/{lon:.5f}"
