"""What is made of the ledger, held against the ledger itself: rollups against samples, trips against positions."""

from __future__ import annotations

import time
from dataclasses import fields

import psycopg
from psycopg.rows import class_row

from outrider.trips import Rules, Sample, segment

# Only what must be there: five minutes that were rolled up and that nothing has touched since.
_DONE = """
bucket < (SELECT complete_before FROM lifecycle.tier WHERE name = '5m')
AND NOT EXISTS (SELECT FROM telemetry.touched t WHERE t.bucket = b.bucket AND b.series_id = ANY (t.series))
AND bucket >= (SELECT coalesce(max(before), '-infinity') FROM lifecycle.removed WHERE name = 'telemetry.sample')
"""
ROLLED_UP = f"""
WITH truth AS (
    SELECT series_id, date_bin('1 minute', ts, 'epoch') AS ts, date_bin('5 minutes', ts, 'epoch') AS bucket,
           count(*)::integer AS count, sum(value) AS sum, min(value) AS min, max(value) AS max,
           (array_agg(value ORDER BY ts))[1] AS first, (array_agg(value ORDER BY ts DESC))[1] AS last
    FROM telemetry.sample GROUP BY 1, 2, 3
), made AS (SELECT *, date_bin('5 minutes', ts, 'epoch') AS bucket FROM lifecycle.rollup_1m
), b AS (
    SELECT series_id, ts, bucket, truth AS wanted, made AS found,
           (truth.count, truth.min, truth.max, truth.first, truth.last) IS NOT DISTINCT FROM
           (made.count, made.min, made.max, made.first, made.last)
           AND abs(truth.sum - made.sum) <= 1e-9 * greatest(abs(truth.sum), 1) AS same
    FROM truth FULL JOIN made USING (series_id, ts, bucket)
)
SELECT series_id, ts, wanted::text, found::text, coalesce(same, false) FROM b WHERE {_DONE}
"""
VEHICLES = "SELECT id, tenant || '/' || device FROM trips.vehicle WHERE moves ORDER BY 2"
POSITIONS = """
SELECT (extract(epoch FROM ts) * 1000)::bigint AS ts, {columns} FROM trips.position WHERE vehicle = %s ORDER BY position.ts
"""
STORED = """
SELECT (extract(epoch FROM start_at) * 1000)::bigint, (detail ->> 'points')::integer
FROM trips.trip WHERE vehicle = %s AND NOT edited ORDER BY start_at
"""


def rollup_differences(connection: psycopg.Connection) -> tuple[int, list[str]]:
    """How many minutes were compared, and those whose rollup is not what the samples say."""
    rows = connection.execute(ROLLED_UP).fetchall()
    wrong = [
        f"series {series} at {ts}: {wanted} is rolled up as {found}"
        for series, ts, wanted, found, same in rows
        if not same
    ]
    return len(rows), wrong


def trip_differences(connection: psycopg.Connection, rules: Rules | None = None) -> tuple[int, list[str]]:
    """How many trips there are, and devices whose trips are not those of all their positions; nothing may be touched."""
    columns = [field.name for field in fields(Sample) if field.name != "ts"]
    now_ms = time.time_ns() // 1_000_000
    wrong: list[str] = []
    trips = 0
    for vehicle, name in connection.execute(VEHICLES).fetchall():
        with connection.cursor(row_factory=class_row(Sample)) as cursor:
            samples = cursor.execute(POSITIONS.format(columns=", ".join(columns)).encode(), (vehicle,)).fetchall()
        wanted = [(trip.start_ms, trip.points) for trip in segment(samples, rules or Rules(), now_ms).trips]
        found = connection.execute(STORED, (vehicle,)).fetchall()
        trips += len(found)
        if wanted != found:
            wrong.append(f"trips of {name} (start, points): {found} instead of {wanted}")
    return trips, wrong
