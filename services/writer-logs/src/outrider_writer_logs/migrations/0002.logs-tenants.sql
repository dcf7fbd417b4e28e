-- Logs one tenant at a time.
CREATE VIEW logs.tenant_line WITH (security_barrier) AS
SELECT * FROM logs.line WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE VIEW logs.tenant_sequence WITH (security_barrier) AS
SELECT * FROM logs.sequence_state WHERE current_setting('outrider.tenant', true) IN ('*', tenant);
