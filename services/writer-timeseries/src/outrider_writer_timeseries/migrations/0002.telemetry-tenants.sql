-- Telemetry one tenant at a time (row-level security and TimescaleDB's compression exclude each other, hence views).
CREATE VIEW telemetry.tenant_series WITH (security_barrier) AS
SELECT * FROM telemetry.series WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE VIEW telemetry.tenant_sample WITH (security_barrier) AS
SELECT p.series_id, p.ts, p.value FROM telemetry.sample p JOIN telemetry.series s ON s.id = p.series_id
WHERE current_setting('outrider.tenant', true) IN ('*', s.tenant);

CREATE VIEW telemetry.tenant_sample_text WITH (security_barrier) AS
SELECT p.series_id, p.ts, p.value FROM telemetry.sample_text p JOIN telemetry.series s ON s.id = p.series_id
WHERE current_setting('outrider.tenant', true) IN ('*', s.tenant);

CREATE VIEW telemetry.tenant_latest WITH (security_barrier) AS
SELECT * FROM telemetry.latest WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE VIEW telemetry.tenant_event WITH (security_barrier) AS
SELECT * FROM telemetry.event WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

DO $$ BEGIN PERFORM runtime.create_tenant_sequence('telemetry'); END $$;
