"""What became of each message of a batch: judged against the accounting before, counted and acknowledged after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from outrider.contract.batch import Header
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
    erased: list[Header] = field(default_factory=list)
    """Messages of erased devices, none of `headers`: they are acknowledged as rejected, and nothing of them is kept."""
    numbered: dict[Key, dict[int, int]] = field(default_factory=dict, init=False)
    """Per key the message of each number; one that comes twice in the batch is stale the second time."""
    marked: list[int] = field(default_factory=list, init=False)
    """Messages refused in part by ingest already, and those that say what is gone."""

    def __post_init__(self) -> None:
        numbered, marked = self.numbered, self.marked
        for i, header in enumerate(self.headers):
            if header.seq is not None:
                key = key_of(header)
                seqs = numbered.get(key)
                if seqs is None:
                    numbered[key] = {header.seq: i}
                elif seqs.setdefault(header.seq, i) != i:
                    self.stale.add(i)
            if header.reasons or header.gone:
                marked.append(i)

    def refuse(self, message: int, reason: Reason, rejection: Rejection) -> None:
        """Keep a refused part of a message with its reason."""
        self.refused.setdefault(message, reason)
        self.rejections.append(rejection)


async def judge(connection: psycopg.AsyncConnection, accounting: Accounting, headers: Sequence[Header]) -> Verdicts:
    """Lock the accounting of these messages and tell the fresh ones from those stored before (also within the batch)."""
    verdicts = Verdicts(list(headers))
    stored, full = await accounting.stored_before(connection, verdicts.numbered)
    for key, seqs in stored.items():
        verdicts.stale.update(verdicts.numbered[key][seq] for seq in seqs)
    for key in full:
        verdicts.full.update(i for i in verdicts.numbered[key].values() if i not in verdicts.stale)
    return verdicts


def count(verdicts: Verdicts) -> dict[Key, Counted]:
    """What the accounting gains from these verdicts."""
    headers, stale = verdicts.headers, verdicts.stale
    held_back = stale | verdicts.full
    counted = {
        key: Counted([seq for seq, i in seqs.items() if i not in held_back] if held_back else list(seqs))
        for key, seqs in verdicts.numbered.items()
    }
    for i in stale:
        counted[key_of(headers[i])].duplicates += 1
    for i in {*verdicts.refused, *verdicts.marked}:
        header = headers[i]
        if header.gone:
            counted.setdefault(key_of(header), Counted()).gone += header.gone
        if header.seq is not None:
            entry = counted[key_of(header)]
            entry.conflicts += verdicts.refused.get(i) is Reason.CONFLICT
            entry.rejected += bool(i in verdicts.refused or header.reasons) and i not in stale
    return counted


def acknowledge(verdicts: Verdicts, acks: Acknowledger, ledger: str) -> None:
    """Tell the devices; call it only after the commit."""
    headers, refused = verdicts.headers, verdicts.refused
    outcomes: Counter[tuple[str, str]] = Counter()
    for key, seqs in verdicts.numbered.items():
        acks.stored(key, seqs, ledger)
        outcomes[key[2], "stored"] += len(seqs)
    for i in {*verdicts.marked, *verdicts.stale, *refused}:
        header = headers[i]
        if header.gone:
            acks.gone(key_of(header), header.gone, ledger)
            outcomes[header.stream, "gone"] += sum(last - first + 1 for first, last in header.gone)
        if header.seq is None:
            continue
        key = key_of(header)
        if header.reasons or i in refused:
            acks.rejected(key, header.seq, str(header.reasons[0] if header.reasons else refused[i]))
        if i in verdicts.stale or i in refused:
            outcomes[header.stream, str(refused.get(i, "duplicate"))] += 1
            outcomes[header.stream, "stored"] -= verdicts.numbered[key][header.seq] == i
    for header in verdicts.erased:
        metrics.ERASED.labels(header.stream).inc()
        if header.gone:
            acks.gone(key_of(header), header.gone, ledger)
        if header.seq is not None:
            acks.stored(key_of(header), [header.seq], ledger)
            acks.rejected(key_of(header), header.seq, str(Reason.ERASED))
    for (stream, outcome), number in outcomes.items():
        metrics.SEQUENCE.labels(stream, outcome).inc(number)
