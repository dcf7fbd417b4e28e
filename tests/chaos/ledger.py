"""Reads the stores for the judge: the rows of a range of numbers, what was refused, the boot anchors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import psycopg

from tests.chaos.book import Book
from tests.chaos.devices import TENANT
from tests.chaos.judge import Findings, Refusal, Row, judge

# The ledger's samples of one tenant; a range of values is one round's messages, and what lies above is nobody's.
SAMPLES = """
SELECT 'telemetry', s.device, s.metric, (extract(epoch FROM ts) * 1000)::bigint, value
FROM telemetry.sample JOIN telemetry.series s ON s.id = series_id
WHERE s.tenant = %s AND value >= %s
"""
RECORDS = """
SELECT 'log', device, level || '0', (extract(epoch FROM ts) * 1000)::bigint, message::bigint
FROM logs.line WHERE tenant = %s AND message::bigint >= %s
UNION ALL
SELECT 'event', device, type || '0', (extract(epoch FROM ts) * 1000)::bigint, message::bigint
FROM telemetry.event WHERE tenant = %s AND message::bigint >= %s
"""
REFUSALS = """
SELECT device, stream, coalesce(boot, 0), coalesce(seq, 0), digest, reason FROM rejected.message WHERE tenant = %s
"""
ANCHORS = "SELECT device, boot, anchor_ms FROM telemetry.boot WHERE tenant = %s"
PART_ROWS = 50_000


def check(book: Book, database_url: str, *, since: int = 1) -> Findings:
    """Judge the messages from number `since` on against the stores, in one snapshot."""
    with psycopg.connect(database_url, connect_timeout=10) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        anchors = {(device, boot): anchor for device, boot, anchor in connection.execute(ANCHORS, (TENANT,))}
        refusals = [Refusal(*row) for row in connection.execute(REFUSALS, (TENANT,))]
        rows = chain(
            _rows(connection, "samples", SAMPLES, (TENANT, since)),
            _rows(connection, "records", RECORDS, (TENANT, since, TENANT, since)),
        )
        return judge(book, book.since(since), rows, refusals, anchors)


def _rows(connection: psycopg.Connection, name: str, query: str, arguments: tuple[object, ...]) -> Iterator[Row]:
    with connection.cursor(name) as cursor:
        cursor.itersize = PART_ROWS
        cursor.execute(query.encode(), arguments)
        for stream, device, metric, ts, number in cursor:
            yield Row(stream, device, metric, ts, int(number) if number == int(number) else -1)
