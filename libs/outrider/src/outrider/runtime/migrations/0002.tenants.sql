-- One tenant at a time: views for services that serve people. A transaction names its tenant with SET LOCAL
-- outrider.tenant ('*' is the whole platform); without one they are empty. security_barrier: no function of a query's
-- own sees a row before the tenant was checked.
CREATE VIEW rejected.tenant_message WITH (security_barrier) AS
SELECT * FROM rejected.message WHERE current_setting('outrider.tenant', true) IN ('*', tenant);
CREATE INDEX message_tenant ON rejected.message (tenant, id);

CREATE FUNCTION rejected.tenant_mark_replayed(ids bigint[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH marked AS (
        UPDATE rejected.message SET replayed_at = now()
        WHERE id = ANY (ids) AND current_setting('outrider.tenant', true) IN ('*', tenant) RETURNING 1
    )
    SELECT count(*) FROM marked
$$;
COMMENT ON FUNCTION rejected.tenant_mark_replayed IS 'Notes that messages of this transaction''s tenant were sent again; how many.';

CREATE FUNCTION rejected.tenant_purge(ids bigint[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT rejected.purge(ARRAY(SELECT id FROM rejected.message
                                WHERE id = ANY (ids) AND current_setting('outrider.tenant', true) IN ('*', tenant)))
$$;
COMMENT ON FUNCTION rejected.tenant_purge IS 'Removes rejected messages of this transaction''s tenant and gives their quota back; how many.';

-- The accounting of sequence numbers, with the ranges that are missing. For the migrations of services that keep one.
CREATE FUNCTION runtime.create_tenant_sequence(schema_ text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($sql$
        CREATE VIEW %1$I.tenant_sequence WITH (security_barrier) AS
        SELECT v.*, s.gapped, CASE WHEN s.gapped
                   THEN int8multirange(int8range(1, upper(s.stored + s.gone))) - s.stored - s.gone
                   ELSE '{}' END AS gaps
        FROM %1$I.sequence_state v JOIN %1$I.sequence s USING (tenant, device, stream, boot)
        WHERE current_setting('outrider.tenant', true) IN ('*', s.tenant);
    $sql$, schema_);
END $$;

-- When a device was last heard, by whatever it sent; written by ingest every few seconds.
CREATE TABLE telemetry.seen (
    device  text PRIMARY KEY,
    tenant  text NOT NULL,
    seen_at timestamptz NOT NULL
);
CREATE INDEX seen_at ON telemetry.seen (seen_at);
CREATE VIEW telemetry.tenant_seen WITH (security_barrier) AS
SELECT * FROM telemetry.seen WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA runtime, rejected FROM PUBLIC;
