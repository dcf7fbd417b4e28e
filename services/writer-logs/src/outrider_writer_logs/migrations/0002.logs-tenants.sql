-- Logs one tenant at a time.
CREATE VIEW logs.tenant_line WITH (security_barrier) AS
SELECT * FROM logs.line WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

DO $$ BEGIN PERFORM runtime.create_tenant_sequence('logs'); END $$;
