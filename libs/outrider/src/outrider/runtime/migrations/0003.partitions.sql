-- Partitions of any width, and their end: what is older than a table's horizon is removed, and starts_on follows.
ALTER TABLE runtime.partitioned ADD COLUMN days integer NOT NULL DEFAULT 1 CHECK (days > 0);
COMMENT ON TABLE runtime.partitioned IS 'Tables with one partition per so many days from starts_on; older rows share one, which is emptied but never dropped.';
COMMENT ON COLUMN runtime.partitioned.days IS 'Days in one partition; partitions begin at multiples of it since 1970-01-01 (UTC).';

CREATE FUNCTION runtime.partition_start(day date, days integer) RETURNS date
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$ SELECT day - (day - date '1970-01-01') % days $$;

CREATE FUNCTION runtime.create_partitioned(name_ text, columns_ text, days_ integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    timescale boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    starts date := runtime.partition_start((now() AT TIME ZONE 'UTC')::date - 30, days_);
BEGIN
    IF timescale THEN
        EXECUTE format('CREATE TABLE %s (%s)', name_, columns_);
        EXECUTE format('SELECT create_hypertable(%L, %L, chunk_time_interval => interval ''1 day'', create_default_indexes => false)',
                       name_, 'ts');
        PERFORM runtime.create_shared_chunk(name_, starts, days_);
    ELSE
        EXECUTE format('CREATE TABLE %s (%s) PARTITION BY RANGE (ts)', name_, columns_);
        EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (MINVALUE) TO (%L)',
                       name_ || '_before', name_, starts::timestamp AT TIME ZONE 'UTC');
    END IF;
    INSERT INTO runtime.partitioned (name, hypertable, starts_on, days) VALUES (name_, timescale, starts, days_);
END $$;

-- A chunk of each old day would cost a table a day, and its locks, for whatever a device sends of the past. The chunk of
-- all days before starts_on is made by a row of 1970, while chunks are that long; then they get their days.
CREATE FUNCTION runtime.create_shared_chunk(name_ text, starts date, days_ integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    timescale text := (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'timescaledb');
BEGIN
    EXECUTE format('SELECT %s.set_chunk_time_interval(%L, %s)', timescale, name_,
                   extract(epoch FROM starts::timestamp AT TIME ZONE 'UTC')::bigint * 1000000);
    EXECUTE (SELECT format('INSERT INTO %s VALUES (%s)', name_, string_agg(
                        CASE atttypid WHEN 'timestamptz'::regtype THEN '''epoch''' ELSE '''0''' END, ', ' ORDER BY attnum))
             FROM pg_attribute WHERE attrelid = name_::regclass AND attnum > 0);
    EXECUTE format('DELETE FROM %s WHERE ts = ''epoch''', name_);
    EXECUTE format('SELECT %s.set_chunk_time_interval(%L, %s)', timescale, name_, days_ * 86400000000);
END $$;

CREATE OR REPLACE FUNCTION runtime.create_partitioned(name_ text, columns_ text) RETURNS void
LANGUAGE sql AS $$ SELECT runtime.create_partitioned(name_, columns_, 1) $$;

CREATE OR REPLACE FUNCTION runtime.ensure_partitions(name_ text, days date[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    registered runtime.partitioned;
    day date;
    part text;
BEGIN
    SELECT * INTO STRICT registered FROM runtime.partitioned WHERE name = name_;
    IF registered.hypertable THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('outrider partitions ' || name_));
    SELECT * INTO STRICT registered FROM runtime.partitioned WHERE name = name_;  -- it may have moved meanwhile
    FOR day IN SELECT DISTINCT runtime.partition_start(d, registered.days) FROM unnest(days) d ORDER BY 1 LOOP
        part := name_ || '_' || to_char(day, 'YYYYMMDD');
        IF day >= registered.starts_on AND to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', part, name_,
                           day::timestamp AT TIME ZONE 'UTC', (day + registered.days)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION runtime.ensure_partitions IS 'Create the partitions these days need; a no-op on hypertables and for days before starts_on.';

-- Days before starts_on share one partition, so that late rows always find a place: it grows over the days dropped here.
CREATE FUNCTION runtime.drop_partitions(name_ text, before_ date) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    registered runtime.partitioned;
    starts date;
    part record;
    dropped text[] := '{}';
BEGIN
    IF before_ > (now() AT TIME ZONE 'UTC')::date - 1 THEN
        RAISE EXCEPTION 'partitions of the last day are not dropped: % is after %', before_, (now() AT TIME ZONE 'UTC')::date - 1;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('outrider partitions ' || name_));
    SELECT * INTO STRICT registered FROM runtime.partitioned WHERE name = name_;
    starts := runtime.partition_start(before_, registered.days);
    IF starts <= registered.starts_on THEN
        RETURN dropped;
    END IF;
    IF registered.hypertable THEN
        RETURN runtime.drop_chunks_before(registered, starts);
    END IF;
    FOR part IN SELECT c.oid::regclass::text AS name, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
                FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = name_::regclass AND c.relname ~ '_[0-9]{8}$' ORDER BY 2 LOOP
        IF part.day + registered.days <= starts THEN
            EXECUTE format('DROP TABLE %s', part.name);
            dropped := dropped || part.name;
        END IF;
    END LOOP;
    EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', name_, name_ || '_before');
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (MINVALUE) TO (%L)', name_, name_ || '_before',
                   starts::timestamp AT TIME ZONE 'UTC');
    UPDATE runtime.partitioned SET starts_on = starts WHERE name = name_;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION runtime.drop_partitions IS 'Drops the partitions whose days all lie before a day; rows before starts_on stay. Returns the names of what was dropped.';

-- A chunk cannot be made longer. The shared one is made anew when it is empty; until then the days dropped here get chunks
-- of their own again when a late row needs one, and the next call drops those.
CREATE FUNCTION runtime.drop_chunks_before(registered runtime.partitioned, starts date) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    timescale text := (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'timescaledb');
    old timestamptz := registered.starts_on::timestamp AT TIME ZONE 'UTC';
    new timestamptz := starts::timestamp AT TIME ZONE 'UTC';
    dropped text[];
    shared text;
    used boolean := false;
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(c), ''{}'') FROM %s.drop_chunks(%L, older_than => %L::timestamptz, newer_than => %L::timestamptz) c',
                   timescale, registered.name, new, old) INTO dropped;
    FOR shared IN SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
                  WHERE hypertable_schema || '.' || hypertable_name = registered.name AND range_end <= old LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', shared);
        EXECUTE format('SELECT %L OR EXISTS (SELECT FROM %s)', used, shared) INTO used;
    END LOOP;
    IF NOT used THEN
        EXECUTE format('SELECT count(*) FROM %s.drop_chunks(%L, older_than => %L::timestamptz)', timescale, registered.name, new);
        PERFORM runtime.create_shared_chunk(registered.name, starts, registered.days);
        UPDATE runtime.partitioned SET starts_on = starts WHERE name = registered.name;
    END IF;
    RETURN dropped;
END $$;

-- ---------------------------------------------------------------- what is gone (delivery rule 17)
-- One row per table and tenant ('*': every tenant without one): rows before it are gone, or about to. Any service's table may
-- have one; lifecycle raises them just before it removes anything.
CREATE TABLE runtime.horizon (
    name   text NOT NULL,                          -- schema.table
    tenant text NOT NULL,
    before timestamptz NOT NULL,
    PRIMARY KEY (name, tenant)
);
COMMENT ON TABLE runtime.horizon IS 'Rows of a table and tenant before this time are gone, or are being removed.';

CREATE TABLE runtime.expired (
    name   text NOT NULL,
    tenant text NOT NULL,
    day    date NOT NULL,
    PRIMARY KEY (name, tenant, day)
);
COMMENT ON TABLE runtime.expired IS 'Days below a horizon for which rows came and were stored all the same: lifecycle archives and removes them.';

-- A transaction that stores old rows calls this first: until it ends no horizon moves.
CREATE FUNCTION runtime.horizons(names text[]) RETURNS SETOF runtime.horizon
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('outrider horizon'));
    RETURN QUERY SELECT * FROM runtime.horizon WHERE name = ANY (names);  -- a new snapshot, taken with the lock
END $$;

CREATE FUNCTION runtime.horizon_of(name_ text, tenant_ text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT coalesce((SELECT before FROM runtime.horizon WHERE (name, tenant) = (name_, tenant_)),
                    (SELECT before FROM runtime.horizon WHERE (name, tenant) = (name_, '*')), '-infinity')
$$;

CREATE FUNCTION runtime.raise_horizon(name_ text, tenant_ text, before_ timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    reached timestamptz;
BEGIN
    IF before_ > now() - interval '1 day' OR before_ <> date_trunc('day', before_, 'UTC') THEN
        RAISE EXCEPTION 'a horizon is a midnight (UTC) at least a day ago, not %', before_;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('outrider horizon'));  -- waits for those who are storing old rows
    reached := greatest(before_, runtime.horizon_of(name_, tenant_));  -- it never moves back: what is gone stays gone
    INSERT INTO runtime.horizon VALUES (name_, tenant_, reached)
    ON CONFLICT (name, tenant) DO UPDATE SET before = excluded.before;
    RETURN reached;
END $$;
COMMENT ON FUNCTION runtime.raise_horizon IS 'From its commit on nobody stores rows of this table and tenant before this time without knowing. Returns the horizon.';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA runtime FROM PUBLIC;
