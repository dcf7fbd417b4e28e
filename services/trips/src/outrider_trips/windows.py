"""The window of event time that has to be segmented again: from a cut before what was touched to a cut behind it.

An edge is a place where the core says that segmenting both sides apart gives the same trips, judged from rows none of
which was touched: so the trips outside were right before and are right now. A silence longer than the reach of the rules
is one whatever was touched beside it. Rows are read until both edges are found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from outrider.trips import Rules, Sample, cuts

STEP_MS = 3_600_000
"""How much more than the reach of the rules is read at first; doubled each time no edge is found."""

Reach = Callable[["Window"], Awaitable[tuple[int, int]]]
"""From when to when what is stored in a window reaches."""
Fetch = Callable[[int, int | None], Awaitable[list[Sample]]]
"""Rows from (inclusive) to (exclusive; None: all that come), by time."""
Neighbour = Callable[[int, bool], Awaitable[int | None]]
"""Time of the newest row before a time, or of the oldest at or after it (True)."""


@dataclass(slots=True)
class Window:
    """Rows around the touched ones, and between which of them the trips are to be replaced."""

    samples: list[Sample] = field(default_factory=list)
    left_ms: int = 0
    """Trips that begin here or later are replaced …"""
    right_ms: int | None = None
    """… and before this; None: it reaches the newest row."""
    rows_read: int = 0
    resume_from_ms: int | None = None
    """From where to read next time, if what comes then is newer than all of this."""
    frozen: bool = False
    """Where it should begin is before the horizon; it begins at the first cut behind it, or (no samples) nowhere."""
    clipped: bool = False


@dataclass(slots=True)
class Bounds:
    """Where to look: what was touched, and what the vehicle has."""

    from_ms: int
    to_ms: int
    first_ms: int
    """The vehicle's oldest row ever."""
    last_ms: int
    horizon_ms: int
    """Rows before it are gone."""
    hint_ms: int | None = None
    max_rows: int = 1_000_000


class Loader:
    """Reads a window, and makes it wider where trips or edits reach over its edges."""

    def __init__(self, fetch: Fetch, neighbour: Neighbour, rules: Rules, bounds: Bounds) -> None:
        self._fetch = fetch
        self._neighbour = neighbour
        self._rules = rules
        self._bounds = bounds
        self._rows: list[Sample] = []
        self._cuts: list[int] = []
        self._low_ms = 0
        self._high_ms: int | None = None
        self._earlier_ms: int | None = None  # the newest row before those in hand
        self._later_ms: int | None = None  # the oldest behind them
        self._at_first = False  # nothing is before the rows in hand, and nothing ever was
        self._at_horizon = False
        self._clipped = False
        self._read = 0

    async def load_all(self, reach: Reach) -> Window:
        """The smallest window over whose edges nothing reaches that is stored in it (but where rows are gone)."""
        window = await self.load()
        while True:
            if not window.samples:
                return window
            low_ms, high_ms = await reach(window)
            if low_ms >= window.left_ms and (window.right_ms is None or high_ms < window.right_ms):
                return window
            wider = await self.load(low_ms, high_ms)
            if (wider.left_ms, wider.right_ms) == (window.left_ms, window.right_ms):
                return wider
            window = wider

    async def load(self, covers_from_ms: int | None = None, covers_to_ms: int | None = None) -> Window:
        """The smallest window whose edges are cuts, and that covers these times too."""
        bounds = self._bounds
        if not self._read:
            await self._read_first()
        begin = min(bounds.from_ms, covers_from_ms if covers_from_ms is not None else bounds.from_ms)
        end = max(bounds.to_ms, covers_to_ms if covers_to_ms is not None else bounds.to_ms)
        step_ms = STEP_MS
        while (left := self._left(begin)) is None and not (self._at_first or self._at_horizon or self._clipped):
            if self._earlier_ms is None:
                await self._look_before()
            else:
                await self._more_before(step_ms)
                step_ms *= 2
        step_ms = STEP_MS
        while (right := self._right(end)) is None and self._high_ms is not None:
            if self._later_ms is None:
                await self._look_behind()
            else:
                await self._more_behind(step_ms)
                step_ms *= 2
        frozen = False
        if left is None:
            left = 0
            if self._at_horizon:
                frozen = True
                left = self._first_after_horizon()
        window = Window(rows_read=self._read, frozen=frozen, clipped=self._clipped)
        window.samples = self._rows[left : right if right is not None else len(self._rows)]
        if window.samples:
            # Before the very first row nothing can be; a trip that once began there belongs to the window.
            window.left_ms = window.samples[0].ts
        if right is not None:
            window.right_ms = self._rows[right].ts if right < len(self._rows) else self._later_ms
        window.resume_from_ms = self._resume() if right is None else None
        return window

    async def _read_first(self) -> None:
        bounds, reach_ms = self._bounds, self._rules.reach_ms
        low_ms = bounds.from_ms - reach_ms - STEP_MS
        if bounds.hint_ms is not None and bounds.hint_ms < bounds.from_ms - reach_ms:
            low_ms = bounds.hint_ms
        self._low_ms = self._stop_at(low_ms)
        high_ms = bounds.to_ms + reach_ms + STEP_MS
        self._high_ms = high_ms if high_ms + reach_ms < bounds.last_ms else None
        self._take(await self._fetch(self._low_ms, self._high_ms), before=False)

    async def _look_before(self) -> None:
        self._earlier_ms = await self._neighbour(self._low_ms, False)
        if self._earlier_ms is None or self._earlier_ms < self._bounds.horizon_ms:
            self._earlier_ms, self._low_ms = None, self._stop_at(-1)

    async def _more_before(self, step_ms: int) -> None:
        assert self._earlier_ms is not None
        low_ms = self._stop_at(min(self._low_ms - step_ms, self._earlier_ms - self._rules.reach_ms - step_ms))
        high_ms, self._low_ms, self._earlier_ms = self._low_ms, low_ms, None
        self._take(await self._fetch(low_ms, high_ms), before=True)

    async def _look_behind(self) -> None:
        assert self._high_ms is not None
        self._later_ms = await self._neighbour(self._high_ms, True)
        if self._later_ms is None:
            self._high_ms = None

    async def _more_behind(self, step_ms: int) -> None:
        assert self._high_ms is not None
        assert self._later_ms is not None
        low_ms = self._high_ms
        high_ms = max(low_ms + step_ms, self._later_ms + self._rules.reach_ms + step_ms)
        self._high_ms, self._later_ms = None if high_ms >= self._bounds.last_ms else high_ms, None
        self._take(await self._fetch(low_ms, self._high_ms), before=False)

    def _stop_at(self, low_ms: int) -> int:
        bounds = self._bounds
        if low_ms <= max(bounds.first_ms, bounds.horizon_ms):
            self._at_first = bounds.first_ms >= bounds.horizon_ms
            self._at_horizon = not self._at_first
            return max(bounds.first_ms, bounds.horizon_ms)
        return low_ms

    def _take(self, rows: list[Sample], *, before: bool) -> None:
        self._read += len(rows)
        self._rows = rows + self._rows if before else self._rows + rows
        self._cuts = cuts(self._rows, self._rules)
        if self._read > self._bounds.max_rows:
            self._clipped, self._high_ms = True, None

    def _silent(self, i: int) -> bool:
        """Before row i nothing came for longer than anything reaches."""
        earlier_ms = self._rows[i - 1].ts if i else self._earlier_ms
        return earlier_ms is not None and self._rows[i].ts - earlier_ms > self._rules.reach_ms

    def _known(self, i: int) -> bool:
        """All rows that decide whether row i begins a new part are in hand."""
        rows, reach_ms = self._rows, self._rules.reach_ms
        if i < 1:
            return False
        before = self._at_first or self._low_ms <= rows[i - 1].ts - reach_ms
        return before and (self._high_ms is None or rows[i].ts + reach_ms < self._high_ms)

    def _left(self, begin_ms: int) -> int | None:
        rows, reach_ms = self._rows, self._rules.reach_ms
        for i in reversed(self._cuts):
            if rows[i].ts <= begin_ms and (
                self._silent(i) or (rows[i].ts + reach_ms < self._bounds.from_ms and self._known(i))
            ):
                return i
        if self._at_first or (rows and rows[0].ts <= begin_ms and self._silent(0)):
            return 0
        # Rows are gone before the horizon; but no trip goes on through a silence this long.
        silent = self._at_horizon and rows and rows[0].ts - reach_ms >= self._bounds.horizon_ms
        return 0 if silent else None

    def _right(self, end_ms: int) -> int | None:
        rows, reach_ms = self._rows, self._rules.reach_ms
        for i in self._cuts:
            if rows[i - 1].ts >= end_ms and (
                self._silent(i) or (rows[i - 1].ts - reach_ms > self._bounds.to_ms and self._known(i))
            ):
                return i
        over = rows and rows[-1].ts >= end_ms and self._later_ms is not None and self._later_ms - rows[-1].ts > reach_ms
        return len(rows) if over else None

    def _first_after_horizon(self) -> int:
        for i in self._cuts:
            if self._known(i):
                return i
        return len(self._rows)

    def _resume(self) -> int | None:
        rows, reach_ms = self._rows, self._rules.reach_ms
        for i in reversed(self._cuts):
            if i and rows[i].ts + reach_ms < rows[-1].ts:
                return rows[i - 1].ts - reach_ms
        return None
