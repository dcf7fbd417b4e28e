"""A trip as JSON and back, for stores and topics. Keys are the fields' names; what is absent is null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from outrider.trips.model import Gap, Stop, Trip


def to_json(trip: Trip) -> dict[str, Any]:
    """Everything of the trip, in types that JSON has. `from_json` gives an equal trip back."""
    values = asdict(trip)
    values["gaps"] = [asdict(gap) for gap in trip.gaps]
    values["stops"] = [asdict(stop) for stop in trip.stops]
    values["distrusted"] = list(trip.distrusted)
    values["filtered"] = dict(trip.filtered)
    return values


def from_json(values: Mapping[str, Any]) -> Trip:
    """The trip that `to_json` wrote; unknown keys (of a newer version) are passed over."""
    known = {entry.name for entry in fields(Trip)}
    found: dict[str, Any] = {key: value for key, value in values.items() if key in known}
    found["gaps"] = tuple(Gap(**gap) for gap in found.get("gaps", ()))
    found["stops"] = tuple(Stop(**stop) for stop in found.get("stops", ()))
    found["distrusted"] = tuple(found.get("distrusted", ()))
    found["filtered"] = dict(found.get("filtered", {}))
    return Trip(**found)
