-- depends: 0002.lifecycle-erasure
-- What is in the archive, and what of it was restored.
CREATE TABLE lifecycle.archive (
    id         uuid PRIMARY KEY,
    tenant     text NOT NULL,
    day        date NOT NULL,                      -- UTC
    table_name text NOT NULL,                      -- schema.table
    file       text NOT NULL UNIQUE,               -- below the archive's root
    state      text NOT NULL DEFAULT 'writing' CHECK (state IN ('writing', 'complete', 'doomed')),
    late       boolean NOT NULL,                   -- samples that came after their day was archived
    rows       bigint NOT NULL,
    bytes      bigint NOT NULL,
    sha256     text NOT NULL,                      -- of the file as it lies there, hex
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    devices    text[] NOT NULL,                    -- whose rows are in it
    recipients text[] NOT NULL,                    -- public keys it is encrypted to; none: it is not encrypted
    created_at timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz
);
CREATE INDEX archive_day ON lifecycle.archive (tenant, day, table_name);
CREATE INDEX archive_unsettled ON lifecycle.archive (state) WHERE state IN ('writing', 'doomed');
COMMENT ON TABLE lifecycle.archive IS
    'Files of the archive. writing: not complete, or left so by a crash; complete: read back and compared; doomed: to be deleted.';

CREATE VIEW lifecycle.tenant_archive WITH (security_barrier) AS
SELECT id, tenant, day, table_name, file, rows, bytes, sha256, first_at, last_at, cardinality(devices) AS devices,
       recipients, late, created_at, verified_at
FROM lifecycle.archive WHERE state = 'complete' AND current_setting('outrider.tenant', true) IN ('*', tenant);

-- ---------------------------------------------------------------- reading it again, on request
CREATE TABLE lifecycle.archive_task (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant       text NOT NULL,                    -- '*': all
    kind         text NOT NULL CHECK (kind IN ('verify', 'restore')),
    first_day    date NOT NULL,
    last_day     date NOT NULL,
    devices      text[],                           -- only these; NULL: all
    keep_days    integer NOT NULL DEFAULT 7,       -- how long restored rows stay
    state        text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    files        bigint NOT NULL DEFAULT 0,
    files_done   bigint NOT NULL DEFAULT 0,
    rows         bigint NOT NULL DEFAULT 0,
    after        text NOT NULL DEFAULT '',         -- the last file that was dealt with
    problems     jsonb NOT NULL DEFAULT '[]',      -- [{file, problem}]
    requested_at timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
CREATE INDEX archive_task_open ON lifecycle.archive_task (requested_at) WHERE state IN ('queued', 'running');
COMMENT ON TABLE lifecycle.archive_task IS 'Verifying and restoring, file by file; a month after the end the row goes.';

CREATE VIEW lifecycle.tenant_archive_task WITH (security_barrier) AS
SELECT id, tenant, kind, first_day, last_day, devices, keep_days, state, files, files_done, rows, problems, requested_at, finished_at
FROM lifecycle.archive_task WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE FUNCTION lifecycle.tenant_request_archive_task(kind_ text, first_ date, last_ date, devices_ text[], keep_days_ integer)
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    tenant_ text := coalesce(current_setting('outrider.tenant', true), '');
    made uuid;
BEGIN
    IF tenant_ = '' THEN
        RAISE insufficient_privilege USING MESSAGE = 'no tenant is set (outrider.tenant)';
    END IF;
    INSERT INTO lifecycle.archive_task (tenant, kind, first_day, last_day, devices, keep_days, files)
    SELECT tenant_, kind_, first_, last_, devices_, keep_days_, count(*) FROM lifecycle.archive a
    WHERE a.state = 'complete' AND tenant_ IN ('*', a.tenant) AND a.day BETWEEN first_ AND last_
      AND (devices_ IS NULL OR a.devices && devices_)
    RETURNING id INTO made;
    PERFORM lifecycle.want('archive');
    RETURN made;
END $$;

-- ---------------------------------------------------------------- restored rows: apart from the ledger
-- There nothing expires them at once, no rollup counts them twice, and no writer meets them.
CREATE SCHEMA restored;
CREATE TABLE restored.day (
    archive    uuid PRIMARY KEY,                   -- the file the rows came from
    tenant     text NOT NULL,
    day        date NOT NULL,
    table_name text NOT NULL,
    rows       bigint NOT NULL,
    restored_at timestamptz NOT NULL DEFAULT now(),
    until      timestamptz NOT NULL                -- then they are removed again
);
COMMENT ON TABLE restored.day IS 'Files of the archive whose rows are in this schema. Set `until` to keep them longer.';
CREATE TABLE restored.sample (
    tenant text NOT NULL, device text NOT NULL, metric text NOT NULL, kind text NOT NULL, ts timestamptz NOT NULL,
    value double precision NOT NULL, archive uuid NOT NULL
);
CREATE TABLE restored.sample_text (LIKE restored.sample INCLUDING ALL);
ALTER TABLE restored.sample_text ALTER value TYPE text;
CREATE TABLE restored.sample_json (LIKE restored.sample INCLUDING ALL);
ALTER TABLE restored.sample_json ALTER value TYPE jsonb USING NULL;
CREATE TABLE restored.event (
    tenant text NOT NULL, device text NOT NULL, ts timestamptz NOT NULL, type text NOT NULL, message text NOT NULL,
    fields jsonb NOT NULL, boot bigint, seq bigint, item integer NOT NULL, received_at timestamptz NOT NULL, archive uuid NOT NULL
);
CREATE TABLE restored.line (LIKE restored.event INCLUDING ALL);
ALTER TABLE restored.line RENAME type TO level;
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sample', 'sample_text', 'sample_json', 'event', 'line'] LOOP
        EXECUTE format('CREATE INDEX %1$s_device ON restored.%1$s (tenant, device, ts)', name);
        EXECUTE format('CREATE INDEX %1$s_archive ON restored.%1$s (archive)', name);
        EXECUTE format('CREATE VIEW restored.tenant_%1$s WITH (security_barrier) AS SELECT * FROM restored.%1$s
                        WHERE current_setting(''outrider.tenant'', true) IN (''*'', tenant)', name);
    END LOOP;
END $$;

CREATE FUNCTION restored.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN runtime.erase_rows('restored', tenant_, device_, '{}');
END $$;
COMMENT ON FUNCTION restored.erase_device IS 'Removes a device''s restored rows; {table: rows}.';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lifecycle, restored FROM PUBLIC;
