"""What became of each message of a batch: judged against the accounting before, counted and acknowledged after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from outrider.contract.batch import Header, Stream
from outrider.contract.reasons import Reason
from outrider.runtime import metrics
from outrider.runtime.accounting import Accounting, Counted, Key, key_of
from outrider.runtime.acks import Acknowledger
from outrider.runtime.rejects import Rejection


@dataclass(slots=True)
class Verdicts:
    """One batch's messages: which are fresh, and what was refused of which.

    `stale[i]`: message i was counted as stored before, so it may add nothing: what equals a stored row is a duplicate,
    the rest a conflict. `full[i]`: its boot has too many gaps; nothing of it is stored.
    """

    headers: list[Header]
    stale: set[int] = field(default_factory=set)
    full: set[int] = field(default_factory=set)
    refused: dict[int, Reason] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)

    def refuse(self, message: int, reason: Reason, rejection: Rejection) -> None:
        """Keep a refused part of a message with its reason."""
        self.refused.setdefault(message, reason)
        self.rejections.append(rejection)


async def judge(connection: psycopg.AsyncConnection, accounting: Accounting, headers: Sequence[Header]) -> Verdicts:
    """Lock the accounting of these messages and tell the fresh ones from those stored before (also within the batch)."""
    verdicts = Verdicts(list(headers))
    first: dict[Key, dict[int, int]] = {}
    for i, header in enumerate(headers):
        if header.seq is not None and first.setdefault(key_of(header), {}).setdefault(header.seq, i) != i:
            verdicts.stale.add(i)
    stored, full = await accounting.stored_before(connection, first)
    for key, seqs in stored.items():
        verdicts.stale.update(first[key][seq] for seq in seqs)
    for key in full:
        verdicts.full.update(i for i in first[key].values() if i not in verdicts.stale)
    return verdicts


def count(verdicts: Verdicts) -> dict[Key, Counted]:
    """What the accounting gains from these verdicts."""
    counted: dict[Key, Counted] = {}
    for i, header in enumerate(verdicts.headers):
        if header.boot is None or (header.seq is None and not header.gone):
            continue
        entry = counted.setdefault(key_of(header), Counted())
        entry.gone += header.gone
        if header.seq is None:
            continue
        if i in verdicts.stale:
            entry.duplicates += 1
        elif i not in verdicts.full:
            entry.stored.append(header.seq)
        reason = verdicts.refused.get(i)
        entry.conflicts += reason is Reason.CONFLICT
        entry.rejected += bool(reason or header.reasons) and i not in verdicts.stale
    return counted


def acknowledge(verdicts: Verdicts, acks: Acknowledger, ledger: str) -> None:
    """Tell the devices; call it only after the commit."""
    stored: dict[Key, list[int]] = {}
    outcomes: Counter[tuple[Stream, str]] = Counter()
    for i, header in enumerate(verdicts.headers):
        if header.boot is None:
            continue
        key = key_of(header)
        if header.gone:
            acks.gone(key, header.gone, ledger)
            outcomes[header.stream, "gone"] += sum(last - first + 1 for first, last in header.gone)
        if header.seq is None:
            continue
        stored.setdefault(key, []).append(header.seq)
        refused = verdicts.refused.get(i)
        outcomes[header.stream, refused or ("duplicate" if i in verdicts.stale else "stored")] += 1
        if refused or header.reasons:
            acks.rejected(key, header.seq, str(header.reasons[0] if header.reasons else refused))
    for key, seqs in stored.items():
        acks.stored(key, seqs, ledger)
    for (stream, outcome), number in outcomes.items():
        metrics.SEQUENCE.labels(stream, outcome).inc(number)
