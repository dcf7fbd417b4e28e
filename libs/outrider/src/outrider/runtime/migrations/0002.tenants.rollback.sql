DROP VIEW telemetry.tenant_seen;
DROP TABLE telemetry.seen;
DROP VIEW rejected.tenant_message;
