DROP SCHEMA restored CASCADE;
DROP FUNCTION lifecycle.tenant_request_archive_task;
DROP VIEW lifecycle.tenant_archive_task, lifecycle.tenant_archive;
DROP TABLE lifecycle.archive_task, lifecycle.archive;
