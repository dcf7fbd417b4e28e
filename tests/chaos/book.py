"""The book of a run: what every message was, what must become of it, and what the platform said of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

UNNUMBERED = 0


@dataclass(slots=True)
class Entry:
    """One message. Its number is the value of each of its samples (the text of its log line or event).

    `rows`: how many rows it makes; sample i has the metric `{metric}{i}`. `ts` (epoch ms) is its time, else `up_ms`
    (of `boot`). `refusals`: the reasons of which one must be named; empty: it must be stored whole.
    `rows_if_refused`: rows that stay although a part is refused. `twin`: the number of a message with the same metric
    and millisecond, of which one alone can be stored. `unplaced`: the reasons of which one is named where `ts` is None and
    the boot ended before any message brought its anchor.
    """

    number: int
    device: str
    stream: str
    boot: int
    seq: int
    rows: int
    ts: int | None = None
    up_ms: int | None = None
    metric: str = "m"
    refusals: frozenset[str] = frozenset()
    rows_if_refused: int = 0
    digest: str = ""
    twin: int = 0
    boot_ended: bool = False
    unplaced: frozenset[str] = frozenset({"no_time"})
    acked: bool = False
    named: tuple[str, ...] = ()

    @property
    def is_numbered(self) -> bool:
        """False for a message that gets no application ack."""
        return self.boot != UNNUMBERED


@dataclass
class Book:
    """All messages of a run; number n is `entries[n - 1]`."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def next_number(self) -> int:
        """The number of the next message."""
        return len(self.entries) + 1

    def add(self, device: str, stream: str, boot: int, seq: int, rows: int, **more: object) -> Entry:
        """Write a message down under the next number."""
        entry = Entry(self.next_number, device, stream, boot, seq, rows, **more)  # type: ignore[arg-type]
        self.entries.append(entry)
        return entry

    def get(self, number: int) -> Entry | None:
        """The message of a number, None if there is none."""
        return self.entries[number - 1] if 1 <= number <= len(self.entries) else None

    def since(self, number: int) -> Sequence[Entry]:
        """The messages from this number on."""
        return self.entries[number - 1 :]

    def unacked(self, entries: Iterable[Entry] | None = None) -> list[Entry]:
        """Numbered messages without an application ack."""
        return [e for e in (self.entries if entries is None else entries) if e.is_numbered and not e.acked]
