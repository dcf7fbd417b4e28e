DROP VIEW lifecycle.tenant_rollup_1m, lifecycle.tenant_rollup_5m, lifecycle.tenant_rollup_1h;
-- A hypertable cannot be dropped together with other objects.
DROP TABLE lifecycle.rollup_1m;
DROP TABLE lifecycle.rollup_5m;
DROP TABLE lifecycle.rollup_1h;
DROP SCHEMA lifecycle CASCADE;
DELETE FROM runtime.partitioned WHERE name LIKE 'lifecycle.%';
