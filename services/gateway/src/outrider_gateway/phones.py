"""What apps for phones send, as messages of the wire contract: OwnTracks, OsmAnd and Traccar Client. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from outrider.contract import topics
from outrider.contract.batch import Stream
from outrider_gateway.errors import Invalid

KMH_PER = {"kn": 1.852, "kmh": 1.0, "ms": 3.6, "mph": 1.609344}
"""What speeds are multiplied with, by the unit they come in."""


class Message(NamedTuple):
    """One message to upload."""

    stream: Stream
    document: dict[str, Any]

    def payload(self) -> bytes:
        """As JSON."""
        return orjson.dumps(self.document)


# ------------------------------------------------------------------------------------------------------------ OwnTracks
_OWNTRACKS_NUMBERS = {
    "vel": "speed_kmh",
    "cog": "heading_deg",
    "acc": "accuracy_m",
    "vac": "vertical_accuracy_m",
    "alt": "alt_m",
    "batt": "battery_pct",
    "p": "pressure_kpa",
}
_OWNTRACKS_TEXTS = {"t": "trigger", "conn": "connection", "m": "monitoring_mode", "bs": "battery_status"}
_OWNTRACKS_EVENTS = frozenset({"waypoint", "waypoints", "steps"})


def owntracks(document: Any) -> list[Message]:
    """https://owntracks.org/booklet/tech/json/. A location is telemetry, a transition and a waypoint are events; what says
    nothing about the phone (card, lwt, status, cmd …) gives nothing.

    Raises Invalid for what cannot be taken, saying what to change.
    """
    if not isinstance(document, dict) or not isinstance(document.get("_type"), str):
        raise Invalid("OwnTracks sends a JSON object with `_type`; this is none.")
    kind = document["_type"]
    if kind == "encrypted":
        raise Invalid(
            "This is encrypted by the app. Turn its encryption off (Preferences, Encryption key) and use HTTPS."
        )
    if kind == "location":
        found: dict[str, Any] = {"ts": _seconds(document, "tst"), **_place(document)}
        for name, metric in _OWNTRACKS_NUMBERS.items():
            if (value := _number(document.get(name))) is not None:
                found[metric] = value
        for name, metric in _OWNTRACKS_TEXTS.items():
            if isinstance(value := document.get(name), str | int) and not isinstance(value, bool):
                found[metric] = str(value)
        return [Message("telemetry", found)]
    if kind == "transition":
        moved = document.get("event")
        event = {"ts": _seconds(document, "tst"), "type": "geofence", "transition": moved, "zone": document.get("desc")}
        event |= {name: value for name in ("lat", "lon") if (value := _number(document.get(name))) is not None}
        if (accuracy := _number(document.get("acc"))) is not None:
            event["accuracy_m"] = accuracy
        return [Message("event", event)]
    if kind in _OWNTRACKS_EVENTS:
        rest = {name: value for name, value in document.items() if name not in ("_type", "_id", "topic", "tst")}
        return [Message("event", {"ts": _seconds(document, "tst"), "type": f"owntracks_{kind}", "content": rest})]
    return []


def _seconds(document: Mapping[str, Any], name: str) -> int:
    value = _number(document.get(name))
    if value is None or not 0 < value < 1e11:
        raise Invalid(f"{name}: the time in seconds since 1970 is missing.")
    return round(value * 1000)


def _place(document: Mapping[str, Any]) -> dict[str, float]:
    latitude, longitude = _number(document.get("lat")), _number(document.get("lon"))
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        raise Invalid("lat, lon: a position in degrees is missing (latitude −90 to 90, longitude −180 to 180).")
    return {"lat": latitude, "lon": longitude}


# ---------------------------------------------------------------------------------------------- OsmAnd and Traccar Client
_OSMAND_NUMBERS = {
    "altitude": "alt_m",
    "accuracy": "accuracy_m",
    "hdop": "hdop",
    "batt": "battery_pct",
    "battery": "battery_pct",
    "bearing": "heading_deg",
    "heading": "heading_deg",
}
_OSMAND_OWN = {
    "id",
    "deviceid",
    "timestamp",
    "lat",
    "lon",
    "location",
    "speed",
    "speed_unit",
    "charge",
    "valid",
    "alarm",
}
SECRETS = frozenset({"key", "password", "token"})
"""Parameters that hold a device's key: they go no further."""
EXTRAS_MAX = 20


def osmand(parameters: Mapping[str, str], received_ms: int) -> list[Message]:
    """The query parameters of OsmAnd's online tracking and of Traccar Client. Speed is in knots, as in Traccar's protocol,
    unless `speed_unit` says `kmh`, `ms` or `mph`; other parameters become metrics of their names.

    Raises Invalid for a position or time that is none.
    """
    place: Mapping[str, Any] = parameters
    if "location" in parameters:
        latitude, _, longitude = parameters["location"].partition(",")
        place = {"lat": latitude, "lon": longitude}
    found: dict[str, Any] = {"ts": _time(parameters.get("timestamp"), received_ms), **_place(place)}
    if (speed := _number(parameters.get("speed"))) is not None and speed >= 0:
        unit = parameters.get("speed_unit", "kn")
        if unit not in KMH_PER:
            raise Invalid(f"speed_unit: {unit[:20]!r} is none of {', '.join(KMH_PER)}.")
        found["speed_kmh"] = round(speed * KMH_PER[unit], 3)
    for name, metric in _OSMAND_NUMBERS.items():
        if (value := _number(parameters.get(name))) is not None:
            found[metric] = value
    if "charge" in parameters:
        found["charging"] = parameters["charge"].lower() in ("true", "1", "yes")
    others = [name for name in parameters if name.lower() not in _OSMAND_OWN | SECRETS and name not in _OSMAND_NUMBERS]
    for name in others[:EXTRAS_MAX]:
        if topics.is_metric(name) and name not in ("ts", "boot", "seq", "up_ms", "now_ms", *found):
            number = _number(parameters[name])
            found[name] = parameters[name][:1000] if number is None else number
    return [Message("telemetry", found), *_alarm(parameters.get("alarm"), found)]


def traccar(document: Any) -> list[Message]:
    """The JSON of Traccar Client 9 and later: one position in `location`. Speed is in m/s there.

    Raises Invalid for what is none.
    """
    location = document.get("location") if isinstance(document, dict) else None
    coordinates = location.get("coords") if isinstance(location, dict) else None
    if not isinstance(location, dict) or not isinstance(coordinates, dict):
        raise Invalid("Traccar Client sends a JSON object with `location` and `coords` in it; this is none.")
    place = {"lat": coordinates.get("latitude"), "lon": coordinates.get("longitude")}
    found: dict[str, Any] = {"ts": _time(location.get("timestamp"), None), **_place(place)}
    for name, metric, factor in (
        ("speed", "speed_kmh", 3.6),
        ("heading", "heading_deg", 1.0),
        ("altitude", "alt_m", 1.0),
        ("accuracy", "accuracy_m", 1.0),
    ):
        value = _number(coordinates.get(name))
        if value is not None and (value >= 0 or name == "altitude"):  # the app says -1 for what it does not know
            found[metric] = round(value * factor, 3)
    battery = location.get("battery")
    if isinstance(battery, dict):
        if (level := _number(battery.get("level"))) is not None and level >= 0:
            found["battery_pct"] = round(level * 100, 1)
        if isinstance(battery.get("is_charging"), bool):
            found["charging"] = battery["is_charging"]
    if (odometer := _number(location.get("odometer"))) is not None:
        found["phone_odometer_km"] = round(odometer / 1000, 3)
    if isinstance(location.get("is_moving"), bool):
        found["moving"] = location["is_moving"]
    activity = location.get("activity")
    if isinstance(activity, dict) and isinstance(activity.get("type"), str):
        found["activity"] = activity["type"][:100]
    extras = location.get("extras")
    return [Message("telemetry", found), *_alarm(extras.get("alarm") if isinstance(extras, dict) else None, found)]


def device_of(document: Any) -> str | None:
    """The device that Traccar Client's JSON names."""
    name = document.get("device_id") if isinstance(document, dict) else None
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else None


def _alarm(alarm: Any, found: Mapping[str, Any]) -> list[Message]:
    if not isinstance(alarm, str) or not alarm:
        return []
    return [
        Message(
            "event",
            {"ts": found["ts"], "type": "alarm", "alarm": alarm[:100], "lat": found["lat"], "lon": found["lon"]},
        )
    ]


def _time(text: Any, otherwise_ms: int | None) -> int:
    """Epoch seconds or milliseconds, or ISO 8601 (UTC where it says no zone), as epoch ms."""
    if text in (None, "") and otherwise_ms is not None:
        return otherwise_ms
    value = _number(text)
    if value is not None and 0 < value < 1e16:
        return round(value) if value >= 1e11 else round(value * 1000)
    try:
        moment = datetime.fromisoformat(str(text).strip())
    except ValueError:
        raise Invalid("timestamp: neither seconds since 1970 nor an ISO 8601 time.") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _number(value: Any) -> float | int | None:
    """A finite number, also one that came as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
