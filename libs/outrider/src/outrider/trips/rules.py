"""The thresholds of trip segmentation: each with its default, its unit in its name, and why it is what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

CLOCK_FLOOR_MS = 946_684_800_000  # 2000-01-01: a device that reports an earlier time has no time
_CUT_MARGIN_S = 60.0
MOST_S = 86_400.0
"""Of any rule in seconds: what one tenant's rules reach over is read again with its samples, and others wait meanwhile."""
MOST_POINTS = 5000


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds. Every window that may end a trip (`*_resume_s`) counts from arrival, the first moment of standing.

    No trip goes on through a rest longer than `idle_resume_s`, whatever the evidence: that bounds how far one sample
    reaches (`reach_ms`) and so how much has to be computed again when a late one comes.
    """

    # Motion. GPS speed of a parked car is noise of up to 1 km/h; walking pace is 5.
    start_kmh: float = 5.0
    still_kmh: float = 2.0
    creep_s: float = 120.0  # between the two speeds the last state holds this long (queues)
    # Paused: what a watcher is told. A stop sign takes 2-3 s, so 5 s of standing is standing.
    still_pause_s: float = 5.0
    silence_pause_s: float = 30.0  # or 3 reporting intervals: longer than any network hiccup that devices retry over
    # EndTrip: what ends a trip.
    silence_resume_s: float = 100.0  # or 3 reporting intervals, without displacement
    still_resume_s: float = 900.0  # standing, engine unknown: longer than crossings, queues, jams; shorter than errands
    idle_resume_s: float = 3600.0  # standing with the engine known to run
    off_resume_s: float = 60.0  # ignition off: longer than a stall and a restart
    engine_resume_s: float = 120.0  # rpm 0 or gear P: longer than start-stop and P at a light, shorter than an errand
    # Silence.
    sparse_factor: float = 5.0  # at rest, reports this much rarer than while driving are a sleeping device's
    sparse_s: float = 10.0  # ... and at least this far apart
    bridge_s: float = 1800.0  # the longest silence that displacement can bridge: the longest road tunnels take 25 min
    bridge_kmh: float = 15.0  # ... when this was its average at least: traffic, not somebody's errand on foot
    bridge_m: float = 250.0  # ... and it went at least this far beyond the error of the fixes
    wake_s: float = 900.0  # the start goes back at most this far before the first movement
    # Positions.
    accuracy_m: float = 20.0  # of a fix that does not say
    max_accuracy_m: float = 200.0  # a worse fix is a cell tower's
    max_hdop: float = 20.0
    max_kmh: float = 300.0  # faster is a teleport
    drift_m: float = 50.0  # movement that stays this near to the parking place is drift
    pair_ms: float = 500.0  # rows of single metrics this close are one
    future_s: float = 300.0  # rows further ahead of `as_of_ms` than this wait for their time
    # The record.
    micro_m: float = 300.0  # trips below either are marked `micro`
    micro_s: float = 60.0
    stop_s: float = 120.0  # a standstill inside a trip of this length is a stop: traffic lights are shorter
    simplify_m: float = 8.0  # tolerance of the track, about a GPS error
    track_points: int = 400  # at most; the tolerance doubles until it fits

    @classmethod
    def of(cls, overrides: Mapping[str, Any]) -> Rules:
        """The defaults with these replaced. ValueError names the key that does not exist or does not fit."""
        known = {entry.name: entry for entry in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in overrides.items():
            if key not in known:
                raise ValueError(f"There is no trip rule {key!r}. Use one of: {', '.join(sorted(known))}.")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
                raise ValueError(f"The trip rule {key!r} must be a number above 0, not {value!r}.")
            most = MOST_S if key.endswith("_s") else MOST_POINTS if key == "track_points" else None
            if most is not None and value > most:
                raise ValueError(f"The trip rule {key!r} must be at most {most:,.0f}, not {value!r}.")
            values[key] = int(value) if key == "track_points" else float(value)
        rules = cls(**values)
        if rules.still_kmh > rules.start_kmh:
            raise ValueError(
                f"The trip rule 'still_kmh' ({rules.still_kmh}) must not exceed 'start_kmh' ({rules.start_kmh})."
            )
        longest = max(
            rules.still_resume_s,
            rules.silence_resume_s,
            rules.off_resume_s,
            rules.engine_resume_s,
            rules.bridge_s,
            rules.wake_s,
        )
        if rules.idle_resume_s < longest:
            raise ValueError(
                f"The trip rule 'idle_resume_s' ({rules.idle_resume_s}) must be the longest of all windows ({longest})."
            )
        return rules

    @property
    def reach_ms(self) -> int:
        """How far from a place in time its samples can decide what happens there."""
        return int(1000 * (self.idle_resume_s + self.bridge_s + _CUT_MARGIN_S))

    @property
    def cut_ms(self) -> int:
        """How long nothing may have moved on either side of a place where the samples can be cut in two."""
        return int(1000 * (self.idle_resume_s + _CUT_MARGIN_S))
