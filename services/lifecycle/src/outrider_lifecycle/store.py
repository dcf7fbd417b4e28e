"""The SQL that makes rollups: minutes and five minutes from samples, longer steps from shorter ones."""

from __future__ import annotations

# The samples of five minutes of a series lie together in the index, one after the other: a bitmap only costs.
PLAN = b"SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off"
# A plain INSERT costs half of one with ON CONFLICT, and most buckets are there for the first time. Five minutes have a row
# exactly if one of their minutes has, and nobody else writes here, so what is not seen now is not there. Should it be there
# after all (somebody changed the tables by hand), `again` takes every bucket for one that is.
_FROM_SAMPLES = """
WITH pair AS MATERIALIZED (
    SELECT k.series_id, to_timestamp(k.bucket) AS bucket,
           %(again)s OR EXISTS (
               SELECT FROM lifecycle.rollup_5m r WHERE (r.series_id, r.ts) = (k.series_id, to_timestamp(k.bucket))) AS seen
    FROM unnest(%(bucket)s::bigint[], %(series)s::integer[]) AS k(bucket, series_id)
), minute AS MATERIALIZED (
    SELECT p.series_id, m.ts, m.count, m.sum, m.min, m.max, m.first, m.last, p.bucket, p.seen
    FROM pair p CROSS JOIN LATERAL (
        SELECT date_bin('1 minute', ts, 'epoch') AS ts, count(*)::integer AS count,
               sum(least(greatest(value, -1e290), 1e290)) AS sum, min(value) AS min, max(value) AS max,
               (array_agg(value ORDER BY ts))[1] AS first, (array_agg(value ORDER BY ts))[count(*)] AS last
        FROM telemetry.sample
        WHERE series_id = p.series_id AND ts >= p.bucket AND ts < p.bucket + interval '5 minutes'
        GROUP BY 1) m
), five AS MATERIALIZED (
    SELECT series_id, bucket AS ts, sum(count)::integer AS count, sum(sum) AS sum, min(min) AS min, max(max) AS max,
           (array_agg(first ORDER BY ts))[1] AS first, (array_agg(last ORDER BY ts))[count(*)] AS last, seen
    FROM minute GROUP BY series_id, bucket, seen
), {writes}
SELECT (SELECT count(*) FROM minute), (SELECT count(*) FROM five)
"""
_COMPOSE = """
WITH pair AS MATERIALIZED (
    SELECT k.series_id, to_timestamp(k.bucket) AS bucket,
           %(again)s OR EXISTS (
               SELECT FROM lifecycle.rollup_{upper} r WHERE (r.series_id, r.ts) = (k.series_id, to_timestamp(k.bucket))) AS seen
    FROM unnest(%(bucket)s::bigint[], %(series)s::integer[]) AS k(bucket, series_id)
), longer AS MATERIALIZED (
    SELECT p.series_id, p.bucket AS ts, h.count, h.sum, h.min, h.max, h.first, h.last, p.seen
    FROM pair p CROSS JOIN LATERAL (
        SELECT sum(count)::integer AS count, sum(sum) AS sum, min(min) AS min, max(max) AS max,
               (array_agg(first ORDER BY ts))[1] AS first, (array_agg(last ORDER BY ts))[count(*)] AS last
        FROM lifecycle.rollup_{lower}
        WHERE series_id = p.series_id AND ts >= p.bucket AND ts < p.bucket + {step}
        HAVING count(*) > 0) h
), {writes}
SELECT (SELECT count(*) FROM longer)
"""
_WRITE = """
{of}_new AS (
    INSERT INTO lifecycle.{table} SELECT series_id, ts, count, sum, min, max, first, last FROM {of} WHERE NOT seen
), {of}_again AS (
    INSERT INTO lifecycle.{table} SELECT series_id, ts, count, sum, min, max, first, last FROM {of} WHERE seen
    ON CONFLICT (series_id, ts) DO UPDATE SET count = excluded.count, sum = excluded.sum, min = excluded.min,
        max = excluded.max, first = excluded.first, last = excluded.last
)"""
# What comes after the samples are gone is added; which was first or last is not known any more, so what is there stays.
_ADD = """
INSERT INTO lifecycle.rollup_{tier} AS r
SELECT series_id, date_bin({step}, ts, 'epoch'), count(*)::integer, sum(least(greatest(value, -1e290), 1e290)), min(value),
       max(value), (array_agg(value ORDER BY ts))[1], (array_agg(value ORDER BY ts DESC))[1]
FROM unnest(%(series)s::integer[], %(ts)s::timestamptz[], %(value)s::float8[]) AS late(series_id, ts, value)
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (series_id, ts) DO UPDATE SET count = r.count + excluded.count, sum = r.sum + excluded.sum,
    min = least(r.min, excluded.min), max = greatest(r.max, excluded.max)
"""
STEPS = {"1m": "interval '1 minute'", "5m": "interval '5 minutes'", "1h": "interval '1 hour'"}

FROM_SAMPLES = _FROM_SAMPLES.format(
    writes=", ".join([_WRITE.format(of="minute", table="rollup_1m"), _WRITE.format(of="five", table="rollup_5m")])
)


def compose(lower: str, upper: str) -> str:
    """Makes buckets of a tier from those of a shorter one; parameters `bucket` (epoch seconds), `series` and `again`."""
    writes = _WRITE.format(of="longer", table=f"rollup_{upper}")
    return _COMPOSE.format(lower=lower, upper=upper, step=STEPS[upper], writes=writes)


def add(tier: str) -> str:
    """Adds samples to a tier; parameters `series`, `ts` and `value`."""
    return _ADD.format(tier=tier, step=STEPS[tier])
