-- One tenant at a time: views for services that serve people. A transaction names its tenant with SET LOCAL
-- outrider.tenant ('*' is the whole platform); without one they are empty. security_barrier: no function of a query's
-- own sees a row before the tenant was checked.
CREATE VIEW rejected.tenant_message WITH (security_barrier) AS
SELECT * FROM rejected.message WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

-- When a device was last heard, by whatever it sent; written by ingest every few seconds.
CREATE TABLE telemetry.seen (
    device  text PRIMARY KEY,
    tenant  text NOT NULL,
    seen_at timestamptz NOT NULL
);
CREATE INDEX seen_at ON telemetry.seen (seen_at);
CREATE VIEW telemetry.tenant_seen WITH (security_barrier) AS
SELECT * FROM telemetry.seen WHERE current_setting('outrider.tenant', true) IN ('*', tenant);
