"""Compares the book with what the stores hold, by value: lost, doubled, misplaced, alien, refused without a word. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.book import Book, Entry

EXAMPLES = 20
PROBLEMS = ("lost", "duplicated", "misplaced", "alien", "partial", "unnamed", "unkept", "refused_wrongly", "unacked")
"""lost: acked, not refused, not stored. misplaced: stored under a wrong device, metric or time. alien: a row that no
message accounts for, or that of a refused one. partial: some rows of a message whose rows commit together. unnamed: a
refusal (a conflict, say) that the ack did not name. unkept: refused, and not in rejected.message with its reason."""


class Row(NamedTuple):
    """One stored sample, log line or event."""

    stream: str
    device: str
    metric: str
    ts: int
    number: int


class Refusal(NamedTuple):
    """One row of rejected.message: by boot and seq, or (both 0) by the digest of its payload."""

    device: str
    stream: str
    boot: int
    seq: int
    digest: str
    reason: str


@dataclass
class Findings:
    """What a comparison found; counts are rows for `acked`, `in_ledger` and `lost`, messages for the rest."""

    acked: int = 0
    """Samples, log lines and events that were acknowledged as stored."""
    in_ledger: int = 0
    messages: int = 0
    rejected: int = 0
    unnumbered: int = 0
    unnumbered_stored: int = 0
    conflicts: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True when every promise was kept."""
        return not self.problems

    def note(self, problem: str, count: int, text: str) -> None:
        """Count a broken promise and keep some examples."""
        self.problems[problem] += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{problem}: {text}")


def judge(
    book: Book,
    entries: Sequence[Entry],
    rows: Iterable[Row],
    refusals: Iterable[Refusal],
    anchors: Mapping[tuple[str, int], int],
) -> Findings:
    """Hold `entries` of the book against all stored `rows` whose number is among theirs or in nobody's.

    `anchors`: wall time of uptime 0 by (device, boot). `refusals`: at least those of these entries.
    """
    found = Findings(messages=len(entries))
    stored = _stored(book, rows, anchors, found)
    kept = list(refusals)
    by_number = {(r.device, r.stream, r.boot, r.seq, r.reason) for r in kept}
    by_digest = {(r.device, r.digest, r.reason) for r in kept}
    for entry in entries:
        count = len(stored.get(entry.number, ()))
        if not entry.is_numbered:
            found.unnumbered += 1
            found.unnumbered_stored += count > 0
            continue
        if not entry.acked:
            found.note("unacked", 1, str(entry))
            _all_or_nothing(entry, count, entry.rows, found)
            continue
        for reason in entry.named:
            found.rejected += 1
            found.conflicts += reason == "conflict"
            numbered = (entry.device, entry.stream, entry.boot, entry.seq, reason) in by_number
            if not numbered and (entry.device, entry.digest, reason) not in by_digest:
                found.note("unkept", 1, f"{reason} of {entry}")
        if entry.named:
            key = (entry.device, entry.stream, entry.boot, entry.seq)
            _judge_refused(entry, count, any((*key, reason) in by_number for reason in entry.unplaced), found)
        elif entry.refusals:
            found.note("unnamed", 1, f"{'/'.join(sorted(entry.refusals))} of {entry}")
        else:
            found.acked += entry.rows
            found.in_ledger += count
            if count < entry.rows:
                found.note("lost", entry.rows - count, f"{count} of {entry.rows} rows of {entry}")
    _judge_twins(book, entries, found)
    return found


def _stored(
    book: Book, rows: Iterable[Row], anchors: Mapping[tuple[str, int], int], found: Findings
) -> dict[int, set[str]]:
    """Metrics stored per number; each row is looked at once."""
    stored: dict[int, set[str]] = {}
    for row in rows:
        entry = book.get(row.number)
        if entry is None:
            found.note("alien", 1, str(row))
            continue
        metrics = stored.setdefault(row.number, set())
        if row.metric in metrics:
            found.note("duplicated", 1, f"{row} of {entry}")
            continue
        metrics.add(row.metric)
        index = row.metric.removeprefix(entry.metric)
        is_mine = row.device == entry.device and row.stream == entry.stream
        if not (is_mine and index.isdecimal() and int(index) < entry.rows) or row.ts != _time(entry, anchors):
            found.note("misplaced", 1, f"{row}, due at {_time(entry, anchors)}, of {entry}")
    return stored


def _time(entry: Entry, anchors: Mapping[tuple[str, int], int]) -> int | None:
    if entry.ts is not None:
        return entry.ts
    anchor = anchors.get((entry.device, entry.boot))
    return None if anchor is None or entry.up_ms is None else anchor + entry.up_ms


def _all_or_nothing(entry: Entry, count: int, whole: int, found: Findings) -> None:
    if count not in (0, whole):
        found.note("partial", 1, f"{count} of {whole} rows of {entry}")


def _judge_refused(entry: Entry, count: int, was_unplaced: bool, found: Findings) -> None:
    allowed = set(entry.refusals) | ({"conflict"} if entry.twin else set())
    # Sent again after its boot a message omits now_ms: before any copy has brought the anchor it has no time, and a
    # copy that comes later adds nothing (conflict). Where the copy came first, its rows are there.
    outlived_boot = entry.boot_ended and entry.ts is None and was_unplaced
    if outlived_boot and set(entry.named) <= {*entry.unplaced, "conflict"}:
        _all_or_nothing(entry, count, entry.rows, found)
        return
    if not set(entry.named) <= allowed:
        found.note("refused_wrongly", 1, str(entry))
    elif count != entry.rows_if_refused:
        found.note("alien", 1, f"{count} rows stored, {entry.rows_if_refused} expected, of the refused {entry}")


def _judge_twins(book: Book, entries: Sequence[Entry], found: Findings) -> None:
    """Of two messages with one metric and millisecond one is stored and the other named as a conflict."""
    for entry in entries:
        if not 0 < entry.twin < entry.number:
            continue
        twin = book.get(entry.twin)
        if twin is None or not (entry.acked and twin.acked):
            continue
        refused = [e for e in (entry, twin) if e.named]
        if len(refused) != 1:
            found.note("unnamed", 1, f"{len(refused)} conflicts named between {twin} and {entry}")


def compact(numbers: Iterable[int]) -> str:
    """Numbers as ranges for people: `1-3, 7`."""
    ordered = sorted(set(numbers))
    breaks = [0, *(i for i, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1), len(ordered)]
    runs = [ordered[a:b] for a, b in pairwise(breaks) if b > a]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
