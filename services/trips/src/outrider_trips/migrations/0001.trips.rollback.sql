-- A hypertable cannot be dropped together with other objects.
DROP VIEW trips.tenant_position;
DROP TABLE trips.position;
DELETE FROM runtime.partitioned WHERE name = 'trips.position';
DROP SCHEMA trips CASCADE;
