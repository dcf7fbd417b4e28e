-- depends: 0003.lifecycle-archive
-- How much is kept where: measured now and then, so that asking costs nothing, with ten thousand devices either.
CREATE TABLE lifecycle.storage_table (
    name        text PRIMARY KEY,                  -- schema.table
    bytes       bigint NOT NULL,                   -- with indexes and what is stored apart
    index_bytes bigint NOT NULL,
    rows        bigint NOT NULL,                   -- as the planner estimates
    dead_rows   bigint NOT NULL,
    vacuumed_at timestamptz,
    bytes_day   double precision,                  -- what a whole day takes, of the last week; NULL: not known yet
    measured_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE lifecycle.storage_day (
    name  text NOT NULL,
    day   date NOT NULL,                           -- first one of the partition
    days  integer NOT NULL,                        -- in the partition
    bytes bigint NOT NULL,
    PRIMARY KEY (name, day)
);
CREATE TABLE lifecycle.storage_device (
    tenant  text NOT NULL,
    device  text NOT NULL,
    samples bigint NOT NULL,                       -- of the 24 hours before it was measured, as the next ones
    texts   bigint NOT NULL,
    events  bigint NOT NULL,
    lines   bigint NOT NULL,
    bytes   bigint NOT NULL,                       -- what these rows take
    PRIMARY KEY (tenant, device)
);
CREATE INDEX storage_device_bytes ON lifecycle.storage_device (bytes DESC);
CREATE TABLE lifecycle.storage_history (
    day   date PRIMARY KEY,
    bytes bigint NOT NULL                          -- of the whole database
);
CREATE TABLE lifecycle.storage_forecast (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    forecast jsonb NOT NULL,
    made_at  timestamptz NOT NULL DEFAULT now()
);

-- Partitions and chunks inherit from their table; a compressed chunk's rows lie in a table beside it.
CREATE FUNCTION lifecycle.parts(root regclass) RETURNS TABLE (part oid, name text, bytes bigint, index_bytes bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE tree(id) AS (
        SELECT root::oid UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.id
    )
    SELECT c.oid, c.relname::text, pg_total_relation_size(c.oid), pg_indexes_size(c.oid)
    FROM tree JOIN pg_class c ON c.oid = tree.id WHERE c.relkind IN ('r', 'p');
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RETURN QUERY EXECUTE '
            SELECT x.oid, x.relname::text, pg_total_relation_size(x.oid), pg_indexes_size(x.oid)
            FROM _timescaledb_catalog.chunk c JOIN _timescaledb_catalog.chunk z ON z.id = c.compressed_chunk_id
            JOIN pg_namespace n ON n.nspname = z.schema_name JOIN pg_class x ON (x.relnamespace, x.relname) = (n.oid, z.table_name)
            JOIN _timescaledb_catalog.hypertable h ON h.id = c.hypertable_id
            WHERE format(''%I.%I'', h.schema_name, h.table_name)::regclass = $1' USING root;
    END IF;
END $$;

CREATE FUNCTION lifecycle.measure_tables() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    DELETE FROM lifecycle.storage_day;
    INSERT INTO lifecycle.storage_day (name, day, days, bytes)
    SELECT p.name, to_date(right(x.name, 8), 'YYYYMMDD'), p.days, x.bytes
    FROM runtime.partitioned p, lifecycle.parts(to_regclass(p.name)) x
    WHERE to_regclass(p.name) IS NOT NULL AND x.name ~ '_[0-9]{8}$' AND NOT p.hypertable;
    DELETE FROM lifecycle.storage_table;
    INSERT INTO lifecycle.storage_table (name, bytes, index_bytes, rows, dead_rows, vacuumed_at, bytes_day)
    SELECT n.nspname || '.' || c.relname, sum(x.bytes), sum(x.index_bytes),
           coalesce(sum(CASE WHEN k.reltuples >= 0 THEN k.reltuples ELSE s.n_live_tup END) FILTER (WHERE k.relkind = 'r'), 0), coalesce(sum(s.n_dead_tup), 0),
           max(greatest(s.last_vacuum, s.last_autovacuum)),
           (SELECT avg(d.bytes::double precision / d.days) FROM lifecycle.storage_day d
            WHERE d.name = n.nspname || '.' || c.relname AND d.day + d.days <= (now() AT TIME ZONE 'UTC')::date
              AND d.day >= (now() AT TIME ZONE 'UTC')::date - 7 * d.days AND d.bytes > 65536)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, lifecycle.parts(c.oid) x
    JOIN pg_class k ON k.oid = x.part LEFT JOIN pg_stat_all_tables s ON s.relid = x.part
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT LIKE '\_timescaledb%'
      AND n.nspname NOT IN ('information_schema', 'public')
    GROUP BY n.nspname, c.relname;
    -- A table that is hours old has no whole day: what today has is a part of one.
    UPDATE lifecycle.storage_table t SET bytes_day = d.bytes / d.days / part
    FROM lifecycle.storage_day d,
         LATERAL (SELECT extract(epoch FROM now() - d.day::timestamp AT TIME ZONE 'UTC') / 86400 / d.days AS part) p
    WHERE t.bytes_day IS NULL AND d.name = t.name AND p.part BETWEEN 0.04 AND 1 AND d.bytes > 65536;
    INSERT INTO lifecycle.storage_history VALUES ((now() AT TIME ZONE 'UTC')::date, pg_database_size(current_database()))
    ON CONFLICT (day) DO UPDATE SET bytes = excluded.bytes;
END $$;

-- From the rollups where it can be: they have one row for an hour of a series.
CREATE FUNCTION lifecycle.measure_devices() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    until timestamptz := date_trunc('hour', now());
    since timestamptz := until - interval '24 hours';
    counted bigint;
BEGIN
    CREATE TEMP TABLE found (tenant text, device text, part text, rows bigint) ON COMMIT DROP;
    INSERT INTO pg_temp.found
    SELECT s.tenant, s.device, 'sample', sum(r.count) FROM lifecycle.rollup_1h r JOIN telemetry.series s ON s.id = r.series_id
    WHERE r.ts >= since AND r.ts < until GROUP BY 1, 2;
    INSERT INTO pg_temp.found
    SELECT s.tenant, s.device, 'sample_text', count(*) FROM telemetry.sample_text r JOIN telemetry.series s ON s.id = r.series_id
    WHERE r.ts >= since AND r.ts < until GROUP BY 1, 2;
    INSERT INTO pg_temp.found
    SELECT s.tenant, s.device, 'sample_text', count(*) FROM telemetry.sample_json r JOIN telemetry.series s ON s.id = r.series_id
    WHERE r.ts >= since AND r.ts < until GROUP BY 1, 2;
    INSERT INTO pg_temp.found
    SELECT tenant, device, 'event', count(*) FROM telemetry.event WHERE ts >= since AND ts < until GROUP BY 1, 2;
    IF to_regclass('logs.line') IS NOT NULL THEN
        INSERT INTO pg_temp.found
        SELECT tenant, device, 'line', count(*) FROM logs.line WHERE ts >= since AND ts < until GROUP BY 1, 2;
    END IF;
    DELETE FROM lifecycle.storage_device;
    INSERT INTO lifecycle.storage_device (tenant, device, samples, texts, events, lines, bytes)
    SELECT f.tenant, f.device, coalesce(sum(rows) FILTER (WHERE part = 'sample'), 0),
           coalesce(sum(rows) FILTER (WHERE part = 'sample_text'), 0), coalesce(sum(rows) FILTER (WHERE part = 'event'), 0),
           coalesce(sum(rows) FILTER (WHERE part = 'line'), 0), coalesce(sum(rows * width), 0)
    FROM pg_temp.found f
    LEFT JOIN LATERAL (SELECT t.bytes::double precision / t.rows AS width FROM lifecycle.storage_table t
                       WHERE split_part(t.name, '.', 2) = f.part AND t.name IN ('telemetry.sample', 'telemetry.sample_text',
                           'telemetry.event', 'logs.line') AND t.rows > 0) w ON true
    GROUP BY f.tenant, f.device;
    GET DIAGNOSTICS counted = ROW_COUNT;
    DROP TABLE pg_temp.found;
    RETURN counted;
END $$;

-- For services that serve people. '*': all there is. A tenant: its devices, its part of the archive, and of each table the
-- part that its rows of a day are of everybody's.
CREATE FUNCTION lifecycle.tenant_storage(top integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    tenant_ text := coalesce(current_setting('outrider.tenant', true), '');
    share double precision := 1;
    archive jsonb;
BEGIN
    IF tenant_ = '' THEN
        RETURN NULL;
    END IF;
    IF tenant_ <> '*' THEN
        SELECT coalesce(sum(bytes) FILTER (WHERE tenant = tenant_) / nullif(sum(bytes), 0), 0) INTO share
        FROM lifecycle.storage_device;
    END IF;
    SELECT jsonb_build_object('files', count(*), 'bytes', coalesce(sum(bytes), 0), 'rows', coalesce(sum(rows), 0),
                              'first_day', min(day), 'last_day', max(day)) INTO archive
    FROM lifecycle.archive WHERE state = 'complete' AND tenant_ IN ('*', tenant);
    RETURN jsonb_build_object(
        'measured_at', (SELECT max(measured_at) FROM lifecycle.storage_table),
        'estimated', tenant_ <> '*',
        'tables', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'name', name, 'bytes', (bytes * share)::bigint, 'index_bytes', (index_bytes * share)::bigint,
                       'rows', (rows * share)::bigint, 'bytes_day', (bytes_day * share)::bigint,
                       'dead_rows', CASE tenant_ WHEN '*' THEN dead_rows END,
                       'vacuumed_at', CASE tenant_ WHEN '*' THEN vacuumed_at END) ORDER BY bytes DESC, name), '[]')
                   FROM lifecycle.storage_table
                   WHERE tenant_ = '*' OR name IN (SELECT name FROM runtime.partitioned)),
        'days', (SELECT coalesce(jsonb_agg(jsonb_build_object('day', day, 'bytes', (bytes * share)::bigint) ORDER BY day), '[]')
                 FROM (SELECT day, sum(bytes) AS bytes FROM lifecycle.storage_day WHERE days = 1
                       AND day BETWEEN (now() AT TIME ZONE 'UTC')::date - 30 AND (now() AT TIME ZONE 'UTC')::date GROUP BY day) d),
        'devices', (SELECT coalesce(jsonb_agg(to_jsonb(d) - 'tenant' || CASE tenant_ WHEN '*' THEN
                        jsonb_build_object('tenant', d.tenant) ELSE '{}' END ORDER BY d.bytes DESC, d.device), '[]')
                    FROM (SELECT * FROM lifecycle.storage_device WHERE tenant_ IN ('*', tenant)
                          ORDER BY bytes DESC, device LIMIT top) d),
        'device_count', (SELECT count(*) FROM lifecycle.storage_device WHERE tenant_ IN ('*', tenant)),
        'archive', archive,
        'history', CASE tenant_ WHEN '*' THEN (SELECT coalesce(jsonb_agg(jsonb_build_object('day', day, 'bytes', bytes) ORDER BY day), '[]')
                    FROM (SELECT * FROM lifecycle.storage_history ORDER BY day DESC LIMIT 30) h) ELSE '[]' END,
        'forecast', CASE tenant_ WHEN '*' THEN (SELECT forecast FROM lifecycle.storage_forecast) END
    );
END $$;
COMMENT ON FUNCTION lifecycle.tenant_storage IS 'What is kept where of this transaction''s tenant (''*'': of all), as it was last measured; `top` devices.';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lifecycle FROM PUBLIC;
