"""Trips as a pure function of a set of samples: no clock, no I/O, no order of arrival. See docs/architecture/trips.md."""

from outrider.trips.checkpoint import Behind, Checkpoint
from outrider.trips.codec import from_json, to_json
from outrider.trips.columns import Columns
from outrider.trips.model import Evidence, Gap, Sample, Segmentation, State, Stop, Trip, TripState
from outrider.trips.rules import CLOCK_FLOOR_MS, Rules
from outrider.trips.segmentation import cuts, follow, segment

__all__ = [
    "CLOCK_FLOOR_MS",
    "Behind",
    "Checkpoint",
    "Columns",
    "Evidence",
    "Gap",
    "Rules",
    "Sample",
    "Segmentation",
    "State",
    "Stop",
    "Trip",
    "TripState",
    "cuts",
    "follow",
    "from_json",
    "segment",
    "to_json",
]
