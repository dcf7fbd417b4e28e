"""Sequence accounting: which numbered messages are stored, per (device, stream, boot), in the storing transaction.

The same SQL serves every writer; each has its own `sequence` table in its own schema, made by
`runtime.create_accounting(schema)` in its migration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from outrider.contract import limits
from outrider.contract.batch import BatchNumber, Header, Range
from outrider.runtime import metrics

# Locks in the order of the keys, which is every writer's; a row that another transaction changed meanwhile is read anew.
LOOK = """
SELECT k.n, CASE WHEN s.stored && k.seqs THEN (s.stored * k.seqs)::text END, (SELECT count(*) FROM unnest(s.stored))
FROM (SELECT tenant, device, stream, boot, seqs::int8multirange AS seqs, n
      FROM unnest(%(tenant)s::text[], %(device)s::text[], %(stream)s::text[], %(boot)s::bigint[], %(seqs)s::text[])
           WITH ORDINALITY AS k(tenant, device, stream, boot, seqs, n)) AS k
JOIN {schema}.sequence s USING (tenant, device, stream, boot)
ORDER BY tenant, device, stream, boot FOR UPDATE OF s
"""
# A key nobody has counted yet must be locked too, or two transactions would both find its messages fresh.
OPEN = """
INSERT INTO {schema}.sequence (tenant, device, stream, boot, first_at, last_at, mark_at)
SELECT *, now(), now(), now()
FROM unnest(%(tenant)s::text[], %(device)s::text[], %(stream)s::text[], %(boot)s::bigint[]) AS k ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING
"""
COUNT = """
INSERT INTO {schema}.sequence AS s
       (tenant, device, stream, boot, stored, gone, duplicates, conflicts, rejected, first_at, last_at, mark_at)
SELECT tenant, device, stream, boot, stored::int8multirange, gone::int8multirange, duplicates, conflicts, rejected,
       now(), now(), now()
FROM unnest(%(tenant)s::text[], %(device)s::text[], %(stream)s::text[], %(boot)s::bigint[], %(stored)s::text[],
            %(gone)s::text[], %(duplicates)s::bigint[], %(conflicts)s::bigint[], %(rejected)s::bigint[])
     AS k(tenant, device, stream, boot, stored, gone, duplicates, conflicts, rejected)
ORDER BY tenant, device, stream, boot
ON CONFLICT (tenant, device, stream, boot) DO UPDATE SET
    stored = s.stored + excluded.stored,
    gone = (s.gone + excluded.gone) - (s.stored + excluded.stored),
    duplicates = s.duplicates + excluded.duplicates,
    conflicts = s.conflicts + excluded.conflicts,
    rejected = s.rejected + excluded.rejected,
    last_at = now()
"""
# Gaps below mark_seq were there a minute ago already; each row asks at most every five minutes.
NEED = """
WITH due AS (
    SELECT tenant, device, stream, boot, mark_seq, stored, gone FROM {schema}.sequence
    WHERE gapped AND mark_at < now() - make_interval(secs => %(age)s)
      AND (needed_at IS NULL OR needed_at < now() - make_interval(secs => %(interval)s))
      AND last_at > now() - interval '1 day'
    ORDER BY tenant, device, stream, boot LIMIT 1000 FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE {schema}.sequence s SET mark_seq = upper(s.stored + s.gone) - 1, mark_at = now(),
        needed_at = CASE WHEN d.mark_seq > 0 THEN now() ELSE s.needed_at END
    FROM due d WHERE (s.tenant, s.device, s.stream, s.boot) = (d.tenant, d.device, d.stream, d.boot)
)
SELECT d.tenant, d.device, d.stream, d.boot, array_agg(lower(g) ORDER BY lower(g)), array_agg(upper(g) - 1 ORDER BY lower(g))
FROM due d, LATERAL (
    SELECT g FROM unnest(int8multirange(int8range(1, d.mark_seq + 1)) - d.stored - d.gone) AS g
    ORDER BY lower(g) LIMIT %(ranges)s
) gaps
WHERE d.mark_seq > 0
GROUP BY d.tenant, d.device, d.stream, d.boot
"""
GAPPED = "SELECT stream, count(*) FROM {schema}.sequence WHERE gapped GROUP BY stream"
COMMITTED = """
INSERT INTO runtime.committed AS c (group_name, producer_slot, topic, epoch, number)
SELECT %(group)s, slot, topic, epoch, number
FROM unnest(%(slot)s::int[], %(topic)s::text[], %(epoch)s::bigint[], %(number)s::bigint[]) AS k(slot, topic, epoch, number)
ORDER BY slot, topic
ON CONFLICT (group_name, producer_slot, topic) DO UPDATE
    SET epoch = excluded.epoch, number = excluded.number, updated_at = now()
    WHERE (c.epoch, c.number) < (excluded.epoch, excluded.number)
"""

LEDGER_ID = "SELECT telemetry.ledger_id()::text"

Key = tuple[str, str, str, int]
"""(tenant, device, stream, boot)"""


@dataclass(slots=True)
class Counted:
    """What one batch adds to one key's accounting."""

    stored: list[int] = field(default_factory=list)
    gone: list[Range] = field(default_factory=list)
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0


async def ledger_id(connection: psycopg.AsyncConnection) -> str:
    """The ledger's id, which every ack carries; it is another one after a restore."""
    row = await (await connection.execute(LEDGER_ID)).fetchone()
    assert row is not None
    return str(row[0])


def key_of(header: Header) -> Key:
    """Accounting key of a numbered header."""
    assert header.boot is not None
    return header.tenant, header.device, header.stream, header.boot


def multirange(seqs: Iterable[int] = (), ranges: Iterable[Range] = ()) -> str:
    """PostgreSQL text of an int8multirange that holds these numbers and inclusive ranges."""
    return "{" + ",".join([f"[{first},{last}]" for first, last in (*ranges, *to_ranges(seqs))]) + "}"


def to_ranges(seqs: Iterable[int]) -> list[Range]:
    """Sorted, disjoint, inclusive ranges of a set of numbers: `[1, 2, 3, 7]` → `[(1, 3), (7, 7)]`."""
    distinct = sorted(set(seqs))
    if not distinct:
        return []
    if distinct[-1] - distinct[0] == len(distinct) - 1:
        return [(distinct[0], distinct[-1])]  # nearly always
    ranges: list[Range] = []
    for seq in distinct:
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return ranges


def _text_array(items: Sequence[str]) -> str:
    """PostgreSQL text of a text[]: joined here, because psycopg looks at every item of a list by itself."""
    if not items:
        return "{}"
    joined = '","'.join(items)
    if "\\" in joined or joined.count('"') != 2 * (len(items) - 1):
        joined = '","'.join([item.replace("\\", "\\\\").replace('"', '\\"') for item in items])
    return '{"' + joined + '"}'


def _key_columns(keys: Sequence[Key]) -> dict[str, str]:
    tenant, device, stream, boot = zip(*keys, strict=True)
    return {
        "tenant": _text_array(tenant),
        "device": _text_array(device),
        "stream": _text_array(stream),
        "boot": _integer_array(boot),
    }


def _integer_array(items: Sequence[int]) -> str:
    return "{" + ",".join(map(str, items)) + "}"


def _numbers_in(text: str) -> Iterator[int]:
    """The numbers in PostgreSQL's text of an int8multirange: `{[1,3),[7,8)}` → 1, 2, 7."""
    for part in text.strip("{}").split("),"):
        first, _, end = part.strip("[)").partition(",")
        yield from range(int(first), int(end))


class Accounting:
    """The `sequence` table of one writer's schema."""

    def __init__(self, schema: str, group: str) -> None:
        name = sql.Identifier(schema)
        self._group = group
        self._look, self._open, self._count, self._need, self._gapped = (
            sql.SQL(statement).format(schema=name) for statement in (LOOK, OPEN, COUNT, NEED, GAPPED)
        )

    async def stored_before(
        self, connection: psycopg.AsyncConnection, seqs: Mapping[Key, Iterable[int]]
    ) -> tuple[dict[Key, set[int]], set[Key]]:
        """Lock these keys, then tell which of their numbers are counted as stored already (only keys with some), and
        which keys are full: they would leave more gaps than `SEQUENCE_MAX_RANGES`."""
        keys = sorted(seqs)
        if not keys:
            return {}, set()
        columns = _key_columns(keys)
        asked = columns | {"seqs": _text_array([multirange(seqs[key]) for key in keys])}
        rows = await (await connection.execute(self._look, asked)).fetchall()
        if len(rows) < len(keys):
            await connection.execute(self._open, columns)
            rows = await (await connection.execute(self._look, asked)).fetchall()
        stored = {keys[n - 1]: set(_numbers_in(again)) for n, again, _ in rows if again}
        full = {keys[n - 1] for n, _, ranges in rows if ranges >= limits.SEQUENCE_MAX_RANGES}
        return stored, full

    async def count(self, connection: psycopg.AsyncConnection, counted: dict[Key, Counted]) -> None:
        """Add a batch's counts in the connection's transaction."""
        if not counted:
            return
        values = counted.values()
        await connection.execute(
            self._count,
            {
                **_key_columns(list(counted)),
                "stored": _text_array([multirange(c.stored) for c in values]),
                "gone": _text_array([multirange(ranges=c.gone) if c.gone else "{}" for c in values]),
                "duplicates": _integer_array([c.duplicates for c in values]),
                "conflicts": _integer_array([c.conflicts for c in values]),
                "rejected": _integer_array([c.rejected for c in values]),
            },
        )

    async def commit_numbers(
        self, connection: psycopg.AsyncConnection, numbers: Iterable[tuple[str, BatchNumber]]
    ) -> None:
        """Record the newest (topic, batch number) of each producer: depth is published − committed."""
        newest: dict[tuple[int, str], tuple[int, int]] = {}
        for topic, number in numbers:
            key = (number.slot, topic)
            newest[key] = max(newest.get(key, (0, 0)), (number.epoch, number.number))
        if newest:
            await connection.execute(
                COMMITTED,
                {
                    "group": self._group,
                    "slot": [slot for slot, _ in newest],
                    "topic": [topic for _, topic in newest],
                    "epoch": [epoch for epoch, _ in newest.values()],
                    "number": [number for _, number in newest.values()],
                },
            )

    async def needs(self, connection: psycopg.AsyncConnection) -> list[tuple[Key, list[Range]]]:
        """Gaps older than a minute that it is time to ask for, at most 32 ranges a key; marks them as asked."""
        metrics.GAPPED.clear()
        for stream, gapped in await (await connection.execute(self._gapped)).fetchall():
            metrics.GAPPED.labels(stream).set(gapped)
        rows = await (
            await connection.execute(
                self._need,
                {
                    "age": limits.NEED_GAP_AGE_S,
                    "interval": limits.NEED_INTERVAL_S,
                    "ranges": limits.NEED_MAX_RANGES,
                },
            )
        ).fetchall()
        return [
            ((tenant, device, stream, boot), list(zip(first, last, strict=True)))
            for tenant, device, stream, boot, first, last in rows
        ]
