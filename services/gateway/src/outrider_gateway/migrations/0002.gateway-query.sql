-- depends: 0001.gateway 0001.lifecycle 0001.registry 0003.partitions 0004.tombstones
-- What the query API reads of other schemas: one tenant at a time, through functions that find their rows by the index, which
-- security-barrier views, being joins, stand in the way of. Each answers for the tenant of this transaction (SET LOCAL
-- outrider.tenant) and for nobody where none is set.

CREATE FUNCTION gateway.own_series(series_ integer[]) RETURNS integer[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN ARRAY(SELECT s.id FROM telemetry.series s
                 WHERE s.id = ANY (series_) AND s.tenant = current_setting('outrider.tenant', true));
END $$;
COMMENT ON FUNCTION gateway.own_series IS 'Those of these series that are of this transaction''s tenant.';

CREATE FUNCTION gateway.tenant_devices(devices text[], tag_ text, type_ text)
RETURNS TABLE (device text, name text, type text, tags text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY SELECT d.id, d.name, d.type, d.tags FROM registry.device d
    WHERE d.tenant = current_setting('outrider.tenant', true) AND (devices IS NULL OR d.id = ANY (devices))
      AND (tag_ IS NULL OR d.tags @> ARRAY[tag_]) AND (type_ IS NULL OR d.type = type_)
    ORDER BY d.id;
END $$;

CREATE FUNCTION gateway.tenant_series(devices text[], metrics text[])
RETURNS TABLE (id integer, device text, metric text, kind text, unit text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT s.id, s.device, s.metric, s.kind, coalesce(m.unit, '''') FROM telemetry.series s
         LEFT JOIN registry.metric m ON m.tenant = s.tenant AND m.name = s.metric
         WHERE s.tenant = current_setting(''outrider.tenant'', true)
           AND NOT EXISTS (SELECT FROM runtime.tombstone e WHERE e.device = s.device)'
        || CASE WHEN devices IS NULL THEN '' ELSE ' AND s.device = ANY ($1)' END
        || CASE WHEN metrics IS NULL THEN '' ELSE ' AND s.metric = ANY ($2)' END
    USING devices, metrics;
END $$;
COMMENT ON FUNCTION gateway.tenant_series IS 'Series of the tenant, of all or of these devices and metrics, with their units; not of devices that are being erased.';

CREATE FUNCTION gateway.tenant_metrics() RETURNS TABLE (metric text, kind text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE found AS (  -- one step of the index for each metric instead of a look at each series
        (SELECT s.metric AS m, s.kind AS k FROM telemetry.series s
         WHERE s.tenant = current_setting('outrider.tenant', true) ORDER BY s.tenant, s.metric LIMIT 1)
        UNION ALL
        SELECT n.metric, n.kind FROM found f CROSS JOIN LATERAL (
            SELECT s.metric, s.kind FROM telemetry.series s
            WHERE s.tenant = current_setting('outrider.tenant', true) AND s.metric > f.m
            ORDER BY s.tenant, s.metric LIMIT 1) n
    )
    SELECT m, k FROM found;
END $$;
COMMENT ON FUNCTION gateway.tenant_metrics IS 'Every metric that a device of the tenant has, with one of its kinds.';

-- Raw samples in order of time: of each series the first `most` from `since` on, so that a page costs what it holds.
CREATE FUNCTION gateway.tenant_samples(numbers integer[], texts integer[], jsons integer[],
                                       since timestamptz, until timestamptz, most integer)
RETURNS TABLE (series_id integer, t bigint, number double precision, string text, document jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF cardinality(numbers) > 0 THEN
        RETURN QUERY EXECUTE
            'SELECT s, (extract(epoch FROM x.ts) * 1000)::bigint, x.value, NULL::text, NULL::jsonb FROM unnest($1) s
             CROSS JOIN LATERAL (SELECT p.ts, p.value FROM telemetry.sample p
                 WHERE p.series_id = s AND p.ts >= $2 AND p.ts < $3 ORDER BY p.ts LIMIT $4) x'
        USING gateway.own_series(numbers), since, until, most;
    END IF;
    IF cardinality(texts) > 0 THEN
        RETURN QUERY EXECUTE
            'SELECT s, (extract(epoch FROM x.ts) * 1000)::bigint, NULL::double precision, x.value, NULL::jsonb
             FROM unnest($1) s CROSS JOIN LATERAL (SELECT p.ts, p.value FROM telemetry.sample_text p
                 WHERE p.series_id = s AND p.ts >= $2 AND p.ts < $3 ORDER BY p.ts LIMIT $4) x'
        USING gateway.own_series(texts), since, until, most;
    END IF;
    IF cardinality(jsons) > 0 THEN
        RETURN QUERY EXECUTE
            'SELECT s, (extract(epoch FROM x.ts) * 1000)::bigint, NULL::double precision, NULL::text, x.value
             FROM unnest($1) s CROSS JOIN LATERAL (SELECT p.ts, p.value FROM telemetry.sample_json p
                 WHERE p.series_id = s AND p.ts >= $2 AND p.ts < $3 ORDER BY p.ts LIMIT $4) x'
        USING gateway.own_series(jsons), since, until, most;
    END IF;
END $$;

-- What there is to read: raw samples from when on, of each rollup tier from when on and until when it is complete.
CREATE FUNCTION gateway.tenant_kept()
RETURNS TABLE (raw_from timestamptz, tiers text[], tier_from timestamptz[], tier_until timestamptz[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    tenant_ text := current_setting('outrider.tenant', true);
BEGIN
    RETURN QUERY
    SELECT greatest(runtime.horizon_of('telemetry.sample', tenant_), 'epoch'), array_agg(t.name),
           array_agg(greatest(runtime.horizon_of('lifecycle.rollup_' || t.name, tenant_), 'epoch')),
           array_agg(greatest(t.complete_before, 'epoch'))
    FROM lifecycle.tier t WHERE t.name IN ('1m', '5m', '1h');
END $$;

-- Five minutes and hours of [since, until) whose rollups do not show all samples yet. Lately all of them, whoever touched
-- them; longer ago, those that one of these series touched (NULL: any), or so many others that a closer look costs more.
CREATE FUNCTION gateway.tenant_touched(series_ integer[], since timestamptz, until timestamptz)
RETURNS TABLE (bucket timestamptz, hour boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    table_ record;
BEGIN
    FOR table_ IN SELECT * FROM (VALUES ('telemetry.touched', false), ('lifecycle.touched_hour', true)) v(name, hour) LOOP
        RETURN QUERY EXECUTE format(
            'WITH RECURSIVE found AS (
                 (SELECT t.bucket FROM %1$s t WHERE t.bucket >= $2 AND t.bucket < $3 ORDER BY t.bucket LIMIT 1)
                 UNION ALL
                 SELECT n.bucket FROM found f CROSS JOIN LATERAL (
                     SELECT t.bucket FROM %1$s t WHERE t.bucket > f.bucket AND t.bucket < $3 ORDER BY t.bucket LIMIT 1) n)
             SELECT f.bucket, %2$L::boolean FROM found f
             WHERE $1 IS NULL OR f.bucket > now() - interval ''1 hour''
                OR (SELECT count(*) = 200 OR bool_or(x.series && $1)
                    FROM (SELECT t.series FROM %1$s t WHERE t.bucket = f.bucket LIMIT 200) x)',
            table_.name, table_.hour)
        USING series_, since, until;
    END LOOP;
END $$;

-- The rows of a plan's segments as one query text, over the series in $1. Segments do not overlap. count stays an integer:
-- summing bigint is several times slower.
CREATE FUNCTION gateway.rows_of(tiers text[], starts timestamptz[], ends timestamptz[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    parts text[] := '{}';
    columns_ text;
BEGIN
    FOR n IN 1 .. cardinality(tiers) LOOP
        IF tiers[n] = 'raw' THEN
            columns_ := '1 AS count, value AS sum, value AS min, value AS max, value AS first, value AS last
                         FROM telemetry.sample';
        ELSIF tiers[n] IN ('1m', '5m', '1h') THEN
            columns_ := 'count, sum, min, max, first, last FROM lifecycle.rollup_' || tiers[n];
        ELSE
            RAISE invalid_parameter_value USING MESSAGE = 'no tier: ' || tiers[n];
        END IF;
        parts := parts || format('SELECT series_id, ts, %s WHERE series_id = ANY ($1) AND ts >= %L::timestamptz AND ts < %L::timestamptz',
                                 columns_, starts[n], ends[n]);
    END LOOP;
    RETURN CASE WHEN parts = '{}' THEN
        'SELECT 0 AS series_id, now() AS ts, 0 AS count, 0::float8 AS sum, 0::float8 AS min, 0::float8 AS max,
                0::float8 AS first, 0::float8 AS last FROM unnest($1) WHERE false'
        ELSE array_to_string(parts, ' UNION ALL ') END;
END $$;

-- Buckets of numbers and booleans, per series. Averages compose: count and sum of what lies in the bucket, whatever tier it is of.
-- `step` NULL: one bucket over everything. `edges`: also the first and last value.
CREATE FUNCTION gateway.tenant_buckets(series_ integer[], tiers text[], starts timestamptz[], ends timestamptz[],
                                       step interval, edges boolean)
RETURNS TABLE (series_id integer, t bigint, count bigint, sum double precision, min double precision, max double precision,
               first double precision, last double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT series_id, %s AS t, sum(count)::bigint, sum(sum), min(min), max(max), %s FROM (%s) r GROUP BY 1, 2 ORDER BY 1, 2',
        CASE WHEN step IS NULL THEN '0::bigint'
             ELSE '(extract(epoch FROM date_bin($2, ts, timestamptz ''epoch'')) * 1000)::bigint' END,
        CASE WHEN edges THEN '(array_agg(first ORDER BY ts))[1], (array_agg(last ORDER BY ts DESC))[1]'
             ELSE 'NULL::float8, NULL::float8' END,
        gateway.rows_of(tiers, starts, ends))
    USING gateway.own_series(series_), step;
END $$;

-- The same over a fleet: a row per step over all these series. `per_device`: also how many devices, and of each its mean of
-- the step for the percentiles; without it each row is looked at once, which is several times quicker. `extremes`: also
-- min and max, which need not be carried along otherwise. work_mem: a tenth of a fleet is found by a bitmap that fits.
CREATE FUNCTION gateway.tenant_fleet(series_ integer[], tiers text[], starts timestamptz[], ends timestamptz[],
                                     step interval, per_device boolean, extremes boolean, fractions double precision[])
RETURNS TABLE (t bigint, devices bigint, count bigint, sum double precision, min double precision, max double precision,
               percentiles double precision[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog SET work_mem = '64MB' AS $$
DECLARE
    bin text := CASE WHEN step IS NULL THEN 'timestamptz ''epoch''' ELSE 'date_bin($2, ts, timestamptz ''epoch'')' END;
    rows_ text := gateway.rows_of(tiers, starts, ends);
BEGIN
    IF per_device THEN
        rows_ := format('SELECT %s AS b, series_id, sum(count) AS count, sum(sum) AS sum, %s FROM (%s) r GROUP BY 1, 2', bin,
                        CASE WHEN extremes THEN 'min(min) AS min, max(max) AS max'
                             ELSE 'NULL::float8 AS min, NULL::float8 AS max' END, rows_);
        bin := 'b';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT (extract(epoch FROM b) * 1000)::bigint, devices, count, sum, min, max, percentiles FROM (
             SELECT %1$s AS b, %2$s AS devices, sum(count)::bigint AS count, sum(sum) AS sum, min(min) AS min, max(max) AS max,
                    %3$s AS percentiles
             FROM (%4$s) r GROUP BY 1) x ORDER BY 1',
        bin, CASE WHEN per_device THEN 'count(*)' ELSE 'NULL::bigint' END,
        CASE WHEN cardinality(fractions) > 0 THEN 'percentile_cont($3) WITHIN GROUP (ORDER BY sum / count)'
             ELSE 'NULL::float8[]' END,
        rows_)
    USING gateway.own_series(series_), step, fractions;
END $$;

CREATE FUNCTION gateway.tenant_latest(devices text[], metrics text[])
RETURNS TABLE (device text, metric text, kind text, unit text, t bigint, value jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT s.device, s.metric, s.kind, s.unit, (extract(epoch FROM l.ts) * 1000)::bigint, l.value
         FROM gateway.tenant_series($1, $2) s CROSS JOIN LATERAL (
             (SELECT p.ts, CASE WHEN s.kind = ''boolean'' THEN to_jsonb(p.value <> 0) ELSE to_jsonb(p.value) END AS value
              FROM telemetry.sample p WHERE s.kind IN (''number'', ''boolean'') AND p.series_id = s.id ORDER BY p.ts DESC LIMIT 1)
             UNION ALL
             (SELECT p.ts, to_jsonb(p.value) FROM telemetry.sample_text p
              WHERE s.kind = ''string'' AND p.series_id = s.id ORDER BY p.ts DESC LIMIT 1)
             UNION ALL
             (SELECT p.ts, p.value FROM telemetry.sample_json p
              WHERE s.kind = ''json'' AND p.series_id = s.id ORDER BY p.ts DESC LIMIT 1)) l
         ORDER BY 1, 2, 3'
    USING devices, metrics;
END $$;
COMMENT ON FUNCTION gateway.tenant_latest IS 'The newest sample of each series of these devices (NULL: all) and metrics (NULL: all).';

-- Of a numbered message the stamp changes with its samples, in one transaction; of others when ingest notes within seconds
-- that the device was heard.
CREATE FUNCTION gateway.tenant_stamp(devices text[]) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    tenant_ text := current_setting('outrider.tenant', true);
BEGIN
    RETURN md5(concat_ws('/',
        (SELECT string_agg(s.device || s.xmin, ',' ORDER BY s.device) FROM telemetry.seen s
         WHERE s.device = ANY (devices) AND s.tenant = tenant_),
        (SELECT string_agg(s.device || ':' || s.boot || ':' || s.xmin, ',' ORDER BY s.device, s.boot) FROM telemetry.sequence s
         WHERE s.tenant = tenant_ AND s.device = ANY (devices) AND s.stream = 'telemetry')));
END $$;

-- Whoever looks at where devices were is in the audit, once an hour for each object, as the registry does it.
CREATE FUNCTION gateway.note_position_read(actor_ text, object_ text, address_ text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    tenant_ text := current_setting('outrider.tenant', true);
BEGIN
    IF NOT EXISTS (SELECT FROM registry.audit WHERE tenant = tenant_ AND object = object_ AND actor = actor_
                   AND action = 'position.read' AND at > now() - interval '1 hour') THEN
        PERFORM registry.audit_append(tenant_, actor_, 'position.read', object_, '{}', address_);
    END IF;
END $$;
-- Cached answers are forgotten when an hour is composed anew: NOTIFY outrider_rollups, the hour in epoch ms. By lifecycle's
-- transactions, a few a minute; never by a writer's.
CREATE FUNCTION gateway.tell_hour() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('outrider_rollups', (extract(epoch FROM bucket) * 1000)::bigint::text)
    FROM (SELECT DISTINCT bucket FROM new_rows) touched;
    RETURN NULL;
END $$;
CREATE TRIGGER tell_gateway AFTER INSERT ON lifecycle.touched_hour
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION gateway.tell_hour();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA gateway FROM PUBLIC;
