"""Trips from samples: the state machine, as a pure function of a set of samples.

How it goes: rows become columns (sorted, merged, cleaned); every row is judged moving or not from speed, odometer and
displacement near it; movements less than `idle_resume_s` apart form an episode, inside which the reporting interval
and the trust in each sensor are learned; inside an episode movements are joined into trips by judging each rest
between them. Nothing reaches beyond `Rules.reach_ms`, so the trips of parts cut at `cuts` are the trips of the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from outrider.trips.checkpoint import Behind, Checkpoint, needed_ms, settled_ms
from outrider.trips.columns import Bools, Columns, Floats, Ints
from outrider.trips.engine import SENSORS, Engine, Heard
from outrider.trips.geo import metres
from outrider.trips.model import Sample, Segmentation, State, Trip
from outrider.trips.motion import JUMP_S, Motion, motion, without_teleports
from outrider.trips.rest import Rest, Tempo, departure, judge
from outrider.trips.rules import Rules
from outrider.trips.summary import Draft, Ledger, summarise

_CADENCE_MAX_MS = 300_000.0  # a longer interval between rows that move is a hole, not a habit
_CADENCES = int(_CADENCE_MAX_MS / 1000) + 1
_SHARES = 0.6, 0.9  # with 30 % of the reports lost the first is still the interval
_FAST_KMH, _FAST_ROWS = 20.0, 3  # no drift of a parked receiver does this
_WIDE_M = 100.0  # drift wanders, but not over an area this wide
_MANOEUVRE_MS = 300_000.0
_CUT_GAP_MS = 1_000.0


def segment(samples: Sequence[Sample] | Columns, rules: Rules, as_of_ms: int) -> Segmentation:
    """The trips in these samples (any order, duplicates allowed) as they stand at `as_of_ms`.

    The same set of samples gives the same result, however it came. A later `as_of_ms` only turns an open trip into a
    final one. No duration is ever negative; rows of impossible times are left out and counted.
    """
    return follow(samples, rules, as_of_ms)[0]


def follow(
    samples: Sequence[Sample] | Columns, rules: Rules, as_of_ms: int, since: Checkpoint | None = None
) -> tuple[Segmentation, Checkpoint | None]:
    """`segment`, and from where to go on when samples come that are newer than `Checkpoint.settled_ms`.

    With `since`, the checkpoint of an earlier call: `samples` are all from `since.read_ms` on, and the trips those of
    all samples from the one that begins at `since.start_ms` on. Raises Behind when that takes all samples.
    """
    raw = samples if isinstance(samples, Columns) else Columns.of(samples)
    ahead = raw.ts[raw.ts > as_of_ms + 1000 * rules.future_s]
    columns, jumps = without_teleports(raw.clean(rules, as_of_ms), rules)
    if since is not None and (len(jumps) or not len(columns.ts) or columns.ts[0] != since.read_ms):
        raise Behind
    moves = motion(columns, jumps, rules)
    begun: list[tuple[_Episode, Draft]] = []
    drifted = np.empty(0)
    as_of = max(float(as_of_ms), float(columns.ts[-1])) if len(columns.ts) else float(as_of_ms)
    before = since
    for begin, end, until in _episodes(moves, rules):
        if before is not None and moves.ts[end] < before.left_ms:
            continue
        episode = _Episode(columns, moves, rules, begin, end, until, before)
        begun += [(episode, draft) for draft in episode.drafts()]
        drifted = np.concatenate((drifted, *episode.drifted))
        before = None
    if since is not None and not begun:
        raise Behind
    if len(drifted):
        columns = Columns(columns.ts, columns.values, (*columns.filtered, ("drift", drifted)))
    drafts = [draft for _, draft in begun]
    ledger = Ledger(columns, moves, rules)
    state, stands_since, due = _standing(drafts, columns, as_of)
    if len(ahead):
        waits = float(ahead[0]) - 1000 * rules.future_s
        due = waits if due is None else min(due, waits)
    filtered: Counter[str] = Counter()
    for reason, times in columns.filtered:
        filtered[reason] += len(times)
    trips: tuple[Trip, ...] = tuple(summarise(draft, ledger, as_of) for draft in drafts)
    found = Segmentation(trips, state, _integer(stands_since), _integer(due), dict(filtered))
    return found, _checkpoint(raw.ts, begun, drifted, since)


def _checkpoint(
    raw: Floats, begun: Sequence[tuple[_Episode, Draft]], drifted: Floats, since: Checkpoint | None
) -> Checkpoint | None:
    """The begin of the newest trip that ended, and that was under way long enough ago for nothing new to change how."""
    for place in range(len(begun) - 2, 0, -1):
        episode, draft = begun[place]
        moves = episode.moves
        left = float(moves.ts[draft.runs[0][0]])
        settled = settled_ms(moves, draft.runs[0][1], episode.rules)
        if settled > moves.ts[-1] or begun[place - 1][1].start_ms >= draft.start_ms:
            continue
        if bool(np.any((drifted >= draft.start_ms) & (drifted < left))):
            continue
        rows = np.flatnonzero(raw[1:] - raw[:-1] > episode.rules.pair_ms) + 1
        rows = rows[raw[rows] <= needed_ms(moves, draft.start_ms, episode.tempo, episode.rules)]
        if not len(rows):
            return since
        read = float(raw[rows[-1]])
        if len(moves.jumps) and moves.jumps[-1] > read - 2000 * JUMP_S:
            continue
        return episode.checkpoint(draft, read, settled)
    return since


def cuts(samples: Sequence[Sample], rules: Rules) -> list[int]:
    """Where sorted samples may be cut in two without changing any trip.

    For each index i: `segment(samples[:i])` and `segment(samples[i:])` together have the trips of `segment(samples)`,
    at any time after the samples. Nothing has moved for `Rules.cut_ms` on either side of such a place, so only
    samples within `Rules.reach_ms` of it decide that it is one. ValueError when the samples are not sorted by time.
    """
    times = np.fromiter(map(attrgetter("ts"), samples), dtype=np.float64, count=len(samples))
    if len(times) > 1 and bool(np.any(times[1:] < times[:-1])):
        raise ValueError("Sort the samples by ts before you look for cuts.")
    columns, jumps = without_teleports(Columns.of(samples).clean(rules, None), rules)
    ts = columns.ts
    if len(ts) < 2:
        return []
    moves = motion(columns, jumps, rules)
    active = moves.ts[moves.active]
    before = np.searchsorted(active, ts[1:], side="left")
    padded = np.concatenate(([-np.inf], active, [np.inf]))
    calm = (ts[1:] - padded[before] > rules.cut_ms) & (padded[before + 1] - ts[:-1] > rules.cut_ms)
    calm &= np.diff(ts) >= _CUT_GAP_MS
    if len(jumps):
        edges = np.concatenate(([-np.inf], jumps, [np.inf]))
        near = np.searchsorted(jumps, ts[1:], side="left")
        calm &= (ts[:-1] - edges[near] > 2000 * JUMP_S) & (edges[near + 1] - ts[1:] > 2000 * JUMP_S)
    places: list[int] = np.searchsorted(times, ts[1:][calm], side="left").tolist()
    return places


def _episodes(moves: Motion, rules: Rules) -> list[tuple[int, int, float]]:
    """(first and last kinetic row that moves, time at which the next episode may look back) of each episode."""
    active = np.flatnonzero(moves.active)
    if not len(active):
        return []
    breaks = np.flatnonzero(np.diff(moves.ts[active]) > 1000 * rules.idle_resume_s)
    firsts = np.concatenate((active[:1], active[breaks + 1]))
    lasts = np.concatenate((active[breaks], active[-1:]))
    ends = [*moves.ts[firsts[1:]].tolist(), float("inf")]
    return list(zip(firsts.tolist(), lasts.tolist(), ends, strict=True))


@dataclass(slots=True)
class _Episode:
    columns: Columns
    moves: Motion
    rules: Rules
    begin: int
    end: int
    until: float
    since: Checkpoint | None
    tempo: Tempo = field(init=False)
    engine: Engine = field(init=False)
    ts: Floats = field(init=False)
    drifted: list[Floats] = field(init=False, default_factory=list)
    base: float = field(init=False)  # words of sensors from here on count
    driving: Ints = field(init=False)  # rows of the columns that move

    def __post_init__(self) -> None:
        moves, rules, since = self.moves, self.rules, self.since
        left = since.left_ms if since else -np.inf
        self.tempo = Tempo.of(*_cadence(self._intervals(left, np.inf)), rules)
        every = self.columns.ts
        self.base = since.base_ms if since else float(moves.ts[self.begin]) - 1000 * rules.idle_resume_s
        first = int(np.searchsorted(every, self.base, side="left"))
        last = int(np.searchsorted(every, self.until, side="left"))
        driving = np.arange(self.begin, self.end + 1)
        driving = driving[moves.moving[driving] & (moves.ts[driving] >= left)]
        self.driving = moves.row[driving]
        self.engine = Engine.of(self.columns, first, last, self.driving, since.heard if since else None)
        self.ts = every[:last]
        if since is not None and (self.tempo, self.engine.distrusted) != (since.tempo, since.distrusted):
            raise Behind  # what was judged before may be judged otherwise now

    def _intervals(self, after: float, until: float) -> Ints:
        """How many intervals between reports made while moving end in (after, until], by whole seconds."""
        moves = self.moves
        low, high = max(0, self.begin - 1), self.end + 2
        ts, moving = moves.ts[low:high], moves.moving[low:high]
        gaps = np.diff(ts)
        counted = (moving[:-1] | moving[1:]) & (gaps <= _CADENCE_MAX_MS) & (ts[1:] > after) & (ts[1:] <= until)
        found = np.bincount(np.rint(gaps[counted] / 1000).astype(np.int64), minlength=_CADENCES)
        for seconds, count in (self.since.intervals if self.since else {}).items():
            found[int(seconds)] += count
        return np.asarray(found, dtype=np.int64)

    def checkpoint(self, draft: Draft, read: float, settled: float) -> Checkpoint:
        """What the rows before this draft's first movement say of the episode, for `follow` to go on with it."""
        left = float(self.moves.ts[draft.runs[0][0]])
        after = self.since.left_ms if self.since else -np.inf
        before = self.since.heard if self.since else Heard()
        told = self.columns.ts[self.driving] < left
        driving = {name: before.with_words(name, words[told]) for name, words in self.engine.driving.items()}
        said = dict(before.said)
        low, high = (int(place) for place in np.searchsorted(self.columns.ts, (self.base, read), side="left"))
        for name, metric in SENSORS:
            known = np.flatnonzero(~np.isnan(self.columns.values[metric][low:high]))
            if len(known):
                row = low + int(known[-1])
                said[name] = float(self.columns.ts[row]), float(self.columns.values[metric][row] > 0)
        counts = self._intervals(after, left)
        return Checkpoint(
            int(read),
            int(draft.start_ms),
            draft.start_reason,
            int(left),
            int(settled),
            self.base,
            {int(seconds): int(counts[seconds]) for seconds in np.flatnonzero(counts)},
            Heard(said, driving),
            self.tempo,
            self.engine.distrusted,
        )

    def drafts(self) -> list[Draft]:
        """The trips of this episode: movements joined over the rests that do not end one."""
        found: list[Draft] = []
        current: Draft | None = None
        proven = 0.0  # when the last movement that proved itself ended
        runs = self._runs()
        if self.since is not None:
            runs = [run for run in runs if self.moves.ts[run[0]] >= self.since.left_ms]
            if not runs or self.moves.ts[runs[0][0]] != self.since.left_ms:
                raise Behind
            current = Draft(float(self.since.start_ms), self.since.start_reason, self.engine, self.tempo, runs[:1])
            proven = float(self.moves.ts[runs.pop(0)[1]])
        for first, last in runs:
            arrived = float(self.moves.ts[current.runs[-1][1]]) if current else None
            real = self._real(first, last, current)
            if not real and not self._manoeuvre(first, last, arrived, proven):
                times = self.moves.ts[first : last + 1]
                self.drifted.append(times[self.moves.moving[first : last + 1]])
                continue
            left = float(self.moves.ts[first])
            if current is not None and arrived is not None:
                rest = self._rest(arrived, left)
                if rest is None or rest.due_ms > left:
                    current.runs.append((first, last))
                    proven = float(self.moves.ts[last]) if real else proven
                    continue
                self._close(current, rest, first)
                found.append(current)
            start, reason = departure(
                self.ts, self.engine, left, left if self.moves.moving[first] else -1, self.tempo, self.rules
            )
            if found and start < found[-1].end_ms:
                start = found[-1].end_ms
            if reason == "moving" and found and found[-1].end_reason == "silence_moved":
                reason = "silence_moved"
            current = Draft(start, reason, self.engine, self.tempo, [(first, last)])
            proven = float(self.moves.ts[last])
        if current is not None:
            arrived = float(self.moves.ts[current.runs[-1][1]])
            rest = judge(self.ts, self.engine, arrived, None, self.tempo, self.rules)
            current.due_ms, current.end_ms, current.end_reason = rest.due_ms, rest.end_ms, rest.reason
            current.pause_ms, current.arrived_ms = self._pause(current.runs[-1][1]), arrived
            found.append(current)
        return found

    def _runs(self) -> list[tuple[int, int]]:
        """Movements: (last still row before, first still row after), or the moving rows themselves at a gap."""
        low, high = max(0, self.begin - 1), min(len(self.moves.ts), self.end + 2)
        ts, moving = self.moves.ts[low:high], self.moves.moving[low:high]
        carried = self.moves.carried[low : high - 1]
        gaps = np.diff(ts)
        both, either = moving[:-1] & moving[1:], moving[:-1] | moving[1:]
        going = carried | (either & (gaps < self.tempo.pause_ms))
        going |= both & (gaps < self.tempo.end_ms) & self._went(low, high)
        edge = np.diff(np.concatenate(([0], going.astype(np.int8), [0])))
        runs = list(zip(np.flatnonzero(edge == 1).tolist(), np.flatnonzero(edge == -1).tolist(), strict=True))
        lone = moving.copy()
        lone[:-1] &= ~going
        lone[1:] &= ~going
        lone[: self.begin - low] = lone[self.end + 1 - low :] = False  # the neighbours are of other episodes
        runs += [(row, row) for row in np.flatnonzero(lone).tolist()]
        return sorted((low + first, low + last) for first, last in runs)

    def _went(self, low: int, high: int) -> Bools:
        """Intervals over which the fixes do not show that the device stayed."""
        moves = self.moves
        far = metres(
            moves.lat[low : high - 1], moves.lon[low : high - 1], moves.lat[low + 1 : high], moves.lon[low + 1 : high]
        )
        return np.asarray(~(far < moves.error[low : high - 1] + moves.error[low + 1 : high]))

    def _real(self, first: int, last: int, current: Draft | None) -> bool:
        """Whether a movement is one of a vehicle and not drift about a place."""
        moves = self.moves
        if first == last and self._running(first) != 1:
            return False
        if self._running(last) == 1:
            return True
        odometer = moves.odometer[first : last + 1]
        if not np.isnan(odometer).all() and np.nanmax(odometer) - np.nanmin(odometer) >= 0.05:
            return True
        lat, lon = moves.lat[first : last + 1], moves.lon[first : last + 1]
        speed = moves.speed[first : last + 1]
        if int((speed >= _FAST_KMH).sum()) >= _FAST_ROWS:
            return True
        known = ~np.isnan(lat)
        if not known.any():
            seconds = np.diff(moves.ts[first : last + 1]) / 1000
            return bool(np.nansum((speed[:-1] + speed[1:]) / 7.2 * seconds) >= _WIDE_M)
        lat, lon = lat[known], lon[known]
        error = float(moves.error[first : last + 1][known].min())
        anchor = int(self.moves.last_fix[current.runs[-1][1]]) if current else -1
        begin = (moves.lat[anchor], moves.lon[anchor]) if anchor >= 0 else (lat[0], lon[0])
        gone = float(metres(*begin, lat[-1], lon[-1]))
        if gone >= self.rules.drift_m + error - 5:
            return True
        wide = float(metres(lat.min(), lon.min(), lat.max(), lon.max()))
        return wide >= _WIDE_M + 2 * error

    def _close(self, draft: Draft, rest: Rest, first: int) -> None:
        """The draft ends with this rest; `first` is the row from which the next one goes."""
        draft.due_ms, draft.end_ms, draft.end_reason = rest.due_ms, rest.end_ms, rest.reason
        if rest.reason == "silence" and self._far(draft.runs[-1][1], first):
            draft.end_reason = "silence_moved"

    def _far(self, before: int, after: int) -> bool:
        """Whether the device was elsewhere when it was heard again."""
        a, b = int(self.moves.last_fix[before]), int(self.moves.last_fix[after])
        if min(a, b) < 0:
            return False
        moves = self.moves
        gone = metres(moves.lat[a], moves.lon[a], moves.lat[b], moves.lon[b]) - moves.error[a] - moves.error[b]
        return bool(gone >= self.rules.bridge_m)

    def _rest(self, arrived: float, left: float) -> Rest | None:
        """The verdict on a rest; None for one that is too short for any."""
        rules = self.rules
        shortest = 1000 * min(rules.off_resume_s, rules.engine_resume_s, rules.still_resume_s, rules.silence_resume_s)
        if left - arrived < shortest:
            return None
        return judge(self.ts, self.engine, arrived, left, self.tempo, rules)

    def _pause(self, last: int) -> float:
        """When a watcher is to be told that the vehicle stands (or is silent)."""
        at = float(self.moves.ts[last])
        return at + (self.tempo.pause_ms if self.moves.moving[last] else 1000 * self.rules.still_pause_s)

    def _running(self, kinetic: int) -> float:
        return float(self.engine.running[int(self.moves.row[kinetic]) - self.engine.base])

    def _manoeuvre(self, first: int, last: int, arrived: float | None, proven: float) -> bool:
        """Small movements soon after a real one belong to it: parking, creeping in a queue."""
        if arrived is None or first == last:
            return False
        return (
            float(self.moves.ts[first]) - arrived < self.tempo.end_ms
            and float(self.moves.ts[last]) - proven < _MANOEUVRE_MS
        )


def _cadence(counts: Ints) -> tuple[float, float]:
    """The intervals (ms) that six and nine of ten reports made while moving do not exceed, in whole seconds."""
    upto = np.cumsum(counts)
    if not upto[-1]:
        return _CADENCE_MAX_MS / 3, _CADENCE_MAX_MS / 3
    usual, slow = np.searchsorted(upto, [int(share * (upto[-1] - 1)) for share in _SHARES], side="right").tolist()
    return 1000.0 * usual, 1000.0 * slow


def _standing(drafts: Sequence[Draft], columns: Columns, as_of: float) -> tuple[State, float | None, float | None]:
    """Where the device stands: the state, since when, and when time alone changes it."""
    if not drafts:
        return "idle", float(columns.ts[0]) if len(columns.ts) else None, None
    last = drafts[-1]
    if last.due_ms <= as_of:
        return "idle", last.end_ms, None
    if last.pause_ms <= as_of:
        return "paused", last.arrived_ms, last.due_ms
    return "driving", last.start_ms, min(last.pause_ms, last.due_ms)


def _integer(value: float | None) -> int | None:
    return None if value is None else int(value)
