-- depends: 0001.lifecycle 0004.tombstones
-- Erasing a device or a person from every store: what was asked for, how far it is, and what was found where.
CREATE TABLE lifecycle.erasure (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant       text NOT NULL,                    -- '-': an administrator of the platform
    kind         text NOT NULL CHECK (kind IN ('device', 'person')),
    subject      text NOT NULL,                    -- once it is done, of a person only a digest
    parent       uuid REFERENCES lifecycle.erasure, -- of a person's device: the person's
    tombstone    boolean NOT NULL,                 -- false: the id is another tenant's device by now
    state        text NOT NULL DEFAULT 'erasing' CHECK (state IN ('erasing', 'settling', 'waiting', 'done')),
    problem      text,                             -- what a person must do before it can go on
    requested_at timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    passes       integer NOT NULL DEFAULT 0,
    waits_for    text[] NOT NULL DEFAULT '{}',     -- transactions that ran at the first pass: they may not know of the tombstone
    series       integer[] NOT NULL DEFAULT '{}',  -- what the device's samples are kept under
    report       jsonb NOT NULL DEFAULT '{}'       -- {store: {part: rows}}
);
CREATE INDEX erasure_tenant ON lifecycle.erasure (tenant, requested_at DESC, id);
CREATE INDEX erasure_open ON lifecycle.erasure (requested_at) WHERE state <> 'done';
COMMENT ON TABLE lifecycle.erasure IS
    'Erasures. erasing: at work; settling: once more after what was on its way; waiting: see problem; done: a pass found nothing.';

-- Rollups may have been made again from samples that went meanwhile: the ids are remembered until the end.
CREATE OR REPLACE FUNCTION lifecycle.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    ids integer[];
BEGIN
    UPDATE lifecycle.erasure e SET series = ARRAY(
        SELECT unnest(e.series) UNION SELECT s.id FROM telemetry.series s WHERE (s.tenant, s.device) = (tenant_, device_))
    WHERE (e.tenant, e.kind, e.subject) = (tenant_, 'device', device_) AND e.state <> 'done';
    ids := ARRAY(
        SELECT s.id FROM telemetry.series s WHERE (s.tenant, s.device) = (tenant_, device_) UNION
        SELECT unnest(e.series) FROM lifecycle.erasure e
        WHERE (e.tenant, e.kind, e.subject) = (tenant_, 'device', device_) AND e.state <> 'done');
    RETURN runtime.erase_rows('lifecycle', tenant_, device_, ids);
END $$;
COMMENT ON FUNCTION lifecycle.erase_device IS 'Removes a device''s rollups and figures; {table: rows}. To be called before telemetry.erase_device.';

CREATE VIEW lifecycle.tenant_erasure WITH (security_barrier) AS
SELECT id, tenant, kind, subject, parent, tombstone, state, problem, requested_at, finished_at, report FROM lifecycle.erasure
WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

-- For the registry, in the transaction in which it forgets the device or person. `removed`: what it removed itself.
CREATE FUNCTION lifecycle.tenant_request_erasure(tenant_ text, kind_ text, subject_ text, parent_ uuid, tombstone_ boolean,
                                                 removed jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    made uuid;
BEGIN
    IF NOT coalesce(current_setting('outrider.tenant', true) IN ('*', tenant_), false) THEN
        RAISE insufficient_privilege USING MESSAGE = 'erasure in another tenant';
    END IF;
    IF kind_ = 'device' AND tombstone_ THEN
        INSERT INTO runtime.tombstone (device, tenant, reason) VALUES (subject_, tenant_, 'erased')
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO lifecycle.erasure (tenant, kind, subject, parent, tombstone, report)
    VALUES (tenant_, kind_, subject_, parent_, tombstone_, jsonb_build_object('registry', removed)) RETURNING id INTO made;
    PERFORM lifecycle.want('erase');
    RETURN made;
END $$;
COMMENT ON FUNCTION lifecycle.tenant_request_erasure IS 'Begins an erasure of this transaction''s tenant; its id.';

-- An administrator of the platform frees the id of an erased device.
CREATE FUNCTION lifecycle.lift_tombstone(device_ text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF current_setting('outrider.tenant', true) IS DISTINCT FROM '*' THEN
        RAISE insufficient_privilege USING MESSAGE = 'only the platform frees the id of an erased device';
    END IF;
    IF EXISTS (SELECT FROM lifecycle.erasure WHERE (kind, subject) = ('device', device_) AND state <> 'done') THEN
        RAISE object_in_use USING MESSAGE = 'the device is still being erased';
    END IF;
    DELETE FROM runtime.tombstone WHERE device = device_;
    RETURN FOUND;
END $$;

-- ---------------------------------------------------------------- what lifecycle's own role may call, found when it is needed
CREATE FUNCTION lifecycle.erasers(kind_ text) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    -- Only those that a migration made: every role can make functions of any name in its own temporary schema.
    -- What names series by their ids goes before the series do.
    SELECT n.nspname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.proname = 'erase_' || kind_ AND p.prosecdef AND p.prorettype = 'jsonb'::regtype
      AND oidvectortypes(p.proargtypes) = 'text, text'
      AND p.proowner = (SELECT nspowner FROM pg_namespace WHERE nspname = 'lifecycle')
    ORDER BY n.nspname = 'telemetry', n.nspname
$$;
COMMENT ON FUNCTION lifecycle.erasers IS 'Schemas that have a function erase_device or erase_person, in the order to call them.';

CREATE FUNCTION lifecycle.erase(schema_ text, kind_ text, tenant_ text, subject_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    counts jsonb;
BEGIN
    IF schema_ NOT IN (SELECT lifecycle.erasers(kind_)) THEN
        RAISE undefined_function USING MESSAGE = format('no eraser: %I.erase_%s', schema_, kind_);
    END IF;
    EXECUTE format('SELECT %I.%I($1, $2)', schema_, 'erase_' || kind_) INTO counts USING tenant_, subject_;
    RETURN counts;
END $$;
COMMENT ON FUNCTION lifecycle.erase IS 'Calls a schema''s erase_device or erase_person; {part: rows}.';

-- As CREATE INDEX CONCURRENTLY waits: who runs now may have looked for tombstones before there was this one.
CREATE FUNCTION lifecycle.running() RETURNS text[]
LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT coalesce(array_agg(l.virtualtransaction), '{}') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'virtualxid' AND a.datname = current_database() AND l.pid <> pg_backend_pid()
$$;
CREATE FUNCTION lifecycle.have_ended(transactions text[]) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'virtualxid' AND virtualtransaction = ANY (transactions))
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lifecycle FROM PUBLIC;
