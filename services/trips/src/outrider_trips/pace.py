"""When new rows are to be looked at: at once where they may change what a watcher sees, later where they go on as before.

Only live pace depends on it: whatever is looked at, and when, is segmented from all rows there are.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrider.trips import Rules
from outrider_trips.evidence import COLUMNS, Row

IDLE_FACTOR = 10
"""A vehicle whose trip is over and that stands is looked at this much more rarely than one that drives."""
_SPEED, _IGNITION, _GEAR, _RPM = (COLUMNS.index(name) for name in ("speed_kmh", "ignition", "gear", "rpm"))
_RULES = Rules()
_OFF_GEARS = frozenset({"P", "PARK", "PARKED"})


def wait_s(rows: Iterable[Row], state: str, refresh_s: float) -> float:
    """How long rows newer than all that were segmented may wait, by the state the vehicle was in then.

    Driving goes on while every row moves and no engine is off; standing while every row stands. Whether an engine goes
    off decides when a trip ends, so in a paused one such a row is looked at, too.
    """
    for row in rows:
        speed = row[_SPEED]
        if speed is None or (speed < _RULES.start_kmh if state == "driving" else speed >= _RULES.still_kmh):
            return 0.0
        gear = row[_GEAR]
        off = row[_IGNITION] is False or row[_RPM] == 0 or (gear is not None and gear.upper() in _OFF_GEARS)
        if off and state != "idle":
            return 0.0
    return refresh_s * IDLE_FACTOR if state == "idle" else refresh_s
