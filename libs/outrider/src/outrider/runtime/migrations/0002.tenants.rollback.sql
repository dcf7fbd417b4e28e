DROP VIEW telemetry.tenant_seen;
DROP TABLE telemetry.seen;
DROP FUNCTION runtime.create_tenant_sequence;
DROP FUNCTION rejected.tenant_purge, rejected.tenant_mark_replayed;
DROP INDEX rejected.message_tenant;
DROP VIEW rejected.tenant_message;
