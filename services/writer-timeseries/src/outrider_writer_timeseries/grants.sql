-- The writer adds rows and never changes or removes a stored one.
GRANT SELECT, INSERT ON telemetry.series, telemetry.sample, telemetry.sample_text, telemetry.sample_json, telemetry.event TO {role};
GRANT SELECT, INSERT, UPDATE ON telemetry.sequence TO {role};
-- For lifecycle: what changed, and what came too late for the ledger.
GRANT INSERT ON telemetry.touched TO {role};
GRANT SELECT, INSERT ON telemetry.late_sample TO {role};
