-- depends: 0003.partitions 0004.tombstones 0004.telemetry-touched
-- Rollups, policies and the state of the jobs.
CREATE SCHEMA lifecycle;

-- ---------------------------------------------------------------- rollups
DO $$
DECLARE
    tier record;
BEGIN
    FOR tier IN SELECT * FROM (VALUES ('1m', 1, 'minute'), ('5m', 7, 'five minutes'), ('1h', 28, 'hour')) t(name, days, length) LOOP
        PERFORM runtime.create_partitioned('lifecycle.rollup_' || tier.name,
            'series_id integer NOT NULL, ts timestamptz NOT NULL, count integer NOT NULL, sum double precision NOT NULL,
             min double precision NOT NULL, max double precision NOT NULL, first double precision NOT NULL,
             last double precision NOT NULL, PRIMARY KEY (series_id, ts)', tier.days);
        EXECUTE format('COMMENT ON TABLE lifecycle.rollup_%s IS %L', tier.name, format(
            'Numbers of a series in one %s from ts (UTC): how many, their sum, smallest, greatest, first and last.', tier.length));
        EXECUTE format('CREATE VIEW lifecycle.tenant_rollup_%1$s WITH (security_barrier) AS
            SELECT r.series_id, r.ts, r.count, r.sum, r.min, r.max, r.first, r.last
            FROM lifecycle.rollup_%1$s r JOIN telemetry.series s ON s.id = r.series_id
            WHERE current_setting(''outrider.tenant'', true) IN (''*'', s.tenant)', tier.name);
    END LOOP;
END $$;

CREATE TABLE lifecycle.tier (
    name            text PRIMARY KEY,
    step            interval NOT NULL,
    complete_before timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON TABLE lifecycle.tier IS 'All that was in the ledger before complete_before was rolled up at least once; what is later must be read from the raw samples.';
INSERT INTO lifecycle.tier (name, step) VALUES ('1m', '1 minute'), ('5m', '5 minutes'), ('1h', '1 hour');

CREATE TABLE lifecycle.touched_hour (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL,                   -- start of the hour, UTC
    series integer[] NOT NULL
);
CREATE INDEX touched_hour_bucket ON lifecycle.touched_hour (bucket, id);
COMMENT ON TABLE lifecycle.touched_hour IS 'Series whose five minutes of this hour changed since the hour was composed.';

-- What was in the ledger before this schema existed is rolled up like anything else.
INSERT INTO telemetry.touched (bucket, series)
SELECT bucket, array_agg(series_id) FROM (
    SELECT DISTINCT date_bin('5 minutes', ts, 'epoch') AS bucket, series_id FROM telemetry.sample) found
GROUP BY bucket;

-- ---------------------------------------------------------------- jobs
CREATE TABLE lifecycle.job (
    name        text PRIMARY KEY,
    started_at  timestamptz,
    finished_at timestamptz,                       -- of the last run that did all there was to do
    wanted_at   timestamptz,                       -- somebody asked for a run
    failed_at   timestamptz,
    problem     text,                              -- of the last run, NULL when it went well
    progress    jsonb NOT NULL DEFAULT '{}',
    holder      text
);
COMMENT ON TABLE lifecycle.job IS 'What each job of lifecycle does and did last; progress is the job''s own.';

CREATE FUNCTION lifecycle.want(job_ text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO lifecycle.job AS j (name, wanted_at) VALUES (job_, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET wanted_at = excluded.wanted_at
$$;
COMMENT ON FUNCTION lifecycle.want IS 'Asks for a run of a job within a second or two.';

-- ---------------------------------------------------------------- policies
CREATE TABLE lifecycle.policy (
    tenant         text PRIMARY KEY,               -- '*': what holds for every tenant that says nothing else
    raw_days       integer CHECK (raw_days >= 0),  -- days; 0: kept for ever; NULL: as '*'
    rollup_1m_days integer CHECK (rollup_1m_days >= 0),
    rollup_5m_days integer CHECK (rollup_5m_days >= 0),
    rollup_1h_days integer CHECK (rollup_1h_days >= 0),
    text_days      integer CHECK (text_days >= 0),
    event_days     integer CHECK (event_days >= 0),
    log_days       integer CHECK (log_days >= 0),
    position_days  integer CHECK (position_days >= 0),
    trip_days      integer CHECK (trip_days >= 0),
    archive        boolean,                        -- whether what expires is archived before it is removed
    CHECK (tenant <> '*' OR num_nulls(raw_days, rollup_1m_days, rollup_5m_days, rollup_1h_days, text_days, event_days, log_days,
                                      position_days, trip_days, archive) = 0)
);
COMMENT ON TABLE lifecycle.policy IS 'For how many days what is kept; set it with lifecycle.set_policy, which checks it.';
INSERT INTO lifecycle.policy VALUES ('*', 7, 90, 730, 1825, 90, 730, 30, 90, 0, true);

CREATE FUNCTION lifecycle.policy_of(tenant_ text) RETURNS lifecycle.policy
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT tenant_, coalesce(t.raw_days, d.raw_days), coalesce(t.rollup_1m_days, d.rollup_1m_days),
           coalesce(t.rollup_5m_days, d.rollup_5m_days), coalesce(t.rollup_1h_days, d.rollup_1h_days),
           coalesce(t.text_days, d.text_days), coalesce(t.event_days, d.event_days), coalesce(t.log_days, d.log_days),
           coalesce(t.position_days, d.position_days), coalesce(t.trip_days, d.trip_days), coalesce(t.archive, d.archive)
    FROM lifecycle.policy d LEFT JOIN lifecycle.policy t ON t.tenant = tenant_ AND tenant_ <> '*' WHERE d.tenant = '*'
$$;
COMMENT ON FUNCTION lifecycle.policy_of IS 'What holds for a tenant, all filled in.';

CREATE FUNCTION lifecycle.check_policy(p lifecycle.policy) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$
DECLARE
    days integer[] := ARRAY[p.raw_days, p.rollup_1m_days, p.rollup_5m_days, p.rollup_1h_days];
    names text[] := ARRAY['raw_days', 'rollup_1m_days', 'rollup_5m_days', 'rollup_1h_days'];
BEGIN
    IF p.trip_days <> 0 AND (p.position_days = 0 OR p.position_days > p.trip_days) THEN
        RAISE EXCEPTION 'trip_days (%) must be at least position_days (%): trips are made again as long as their positions are there (tenant %)',
            p.trip_days, CASE p.position_days WHEN 0 THEN 'for ever' ELSE p.position_days::text END, p.tenant
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR i IN 2 .. 4 LOOP
        IF days[i] <> 0 AND (days[i - 1] = 0 OR days[i - 1] > days[i]) THEN
            RAISE EXCEPTION '% (%) must be kept at least as long as % (%): each tier is made of the one before (tenant %)',
                names[i], days[i], names[i - 1], CASE days[i - 1] WHEN 0 THEN 'for ever' ELSE days[i - 1]::text END, p.tenant
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION lifecycle.set_policy(tenant_ text, changes jsonb) RETURNS lifecycle.policy
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    known text[] := ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = 'lifecycle.policy'::regclass
                          AND attnum > 0 AND NOT attisdropped AND attname <> 'tenant' ORDER BY attnum);
    unknown text := (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(changes) k WHERE k <> ALL (known));
    own lifecycle.policy;
    other text;
BEGIN
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown in a policy: %; known: %', unknown, array_to_string(known, ', ')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM jsonb_each_text(changes) c WHERE c.key <> 'archive' AND c.value !~ '^[0-9]{1,6}$') THEN
        RAISE EXCEPTION 'days are whole numbers from 0 (for ever) to 999999, or null (as for everybody)'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM FROM lifecycle.policy WHERE tenant = '*' FOR UPDATE;  -- one change at a time: a check sees all of them
    SELECT * INTO own FROM lifecycle.policy WHERE tenant = tenant_;
    own := jsonb_populate_record(own, changes || jsonb_build_object('tenant', tenant_));
    IF tenant_ = '*' AND EXISTS (SELECT FROM jsonb_each(to_jsonb(own)) WHERE value = 'null') THEN
        RAISE EXCEPTION 'the policy of everybody (*) has a value for everything' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM lifecycle.policy WHERE tenant = tenant_;
    INSERT INTO lifecycle.policy SELECT (own).*;
    FOR other IN SELECT tenant FROM lifecycle.policy WHERE tenant = tenant_ OR tenant_ = '*' ORDER BY tenant LOOP
        PERFORM lifecycle.check_policy(lifecycle.policy_of(other));
    END LOOP;
    RETURN lifecycle.policy_of(tenant_);
END $$;
COMMENT ON FUNCTION lifecycle.set_policy IS
    'Changes some values of a tenant''s policy (or of ''*''); null: as for everybody. Refuses with a sentence what cannot work.';

-- ---------------------------------------------------------------- what retention removed
CREATE TABLE lifecycle.removed (
    name   text NOT NULL,                          -- schema.table
    tenant text NOT NULL,                          -- '*': every tenant without a row
    before timestamptz NOT NULL,                   -- nothing before it is computed anew
    done   timestamptz NOT NULL DEFAULT 'epoch', -- everything before it is gone
    PRIMARY KEY (name, tenant)
);
COMMENT ON TABLE lifecycle.removed IS 'How far retention came: first before moves to the horizon, then rows are removed, then done follows.';

CREATE FUNCTION lifecycle.removed_before(name_ text, tenant_ text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT coalesce((SELECT before FROM lifecycle.removed WHERE (name, tenant) = (name_, tenant_)),
                    (SELECT before FROM lifecycle.removed WHERE (name, tenant) = (name_, '*')), '-infinity')
$$;

-- For services that serve people: the tenant of the transaction ('*': the platform's own policy).
CREATE FUNCTION lifecycle.tenant_policy() RETURNS TABLE (effective lifecycle.policy, own lifecycle.policy)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT lifecycle.policy_of(t), (SELECT p FROM lifecycle.policy p WHERE p.tenant = t)
    FROM nullif(current_setting('outrider.tenant', true), '') t WHERE t IS NOT NULL
$$;
COMMENT ON FUNCTION lifecycle.tenant_policy IS 'What holds for this transaction''s tenant, and what it set itself.';

CREATE FUNCTION lifecycle.tenant_set_policy(changes jsonb) RETURNS lifecycle.policy
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF coalesce(current_setting('outrider.tenant', true), '') = '' THEN
        RAISE EXCEPTION 'no tenant is set (outrider.tenant)';
    END IF;
    RETURN lifecycle.set_policy(current_setting('outrider.tenant', true), changes);
END $$;

CREATE FUNCTION lifecycle.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT runtime.erase_rows('lifecycle', tenant_, device_,
                              ARRAY(SELECT id FROM telemetry.series WHERE (tenant, device) = (tenant_, device_)))
$$;
COMMENT ON FUNCTION lifecycle.erase_device IS 'Removes a device''s rollups; {table: rows}.';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lifecycle FROM PUBLIC;
