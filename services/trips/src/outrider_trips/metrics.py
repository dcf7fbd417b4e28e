"""Metrics of trips."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

POSITIONS = Counter("outrider_trips_positions", "Rows of evidence stored or changed")
IGNORED = Counter("outrider_trips_ignored_samples", "Samples that are no evidence, by reason", ["reason"])
FILTERED = Counter(
    "outrider_trips_filtered_rows",
    "Rows that a segmentation left out, by reason; again in each segmentation",
    ["reason"],
)
FROZEN = Counter("outrider_trips_frozen_rows", "Late rows of windows whose positions are gone: they change no trip")
SEGMENTATIONS = Counter("outrider_trips_segmentations", "Windows segmented")
WINDOW_ROWS = Counter("outrider_trips_window_rows", "Rows read for the windows that were segmented")
CLIPPED = Counter("outrider_trips_clipped_windows", "Windows cut at OUTRIDER_TRIPS_WINDOW_MAX_ROWS")
SECONDS = Histogram("outrider_trips_segmentation_seconds", "Time to segment one vehicle's window and store the result")
LAG = Gauge("outrider_trips_lag_seconds", "Ingest's receipt of the newest stored message to its commit here")
DIRTY = Gauge("outrider_trips_dirty_vehicles", "Vehicles that wait to be segmented")
DIRTY_SECONDS = Gauge("outrider_trips_dirty_oldest_seconds", "How long the one that waits longest has waited")
EVENTS = Counter("outrider_trips_events", "What became of trips, by event", ["event"])
OUTBOX = Gauge("outrider_trips_outbox_messages", "Events and retained topics that the broker does not have yet")
