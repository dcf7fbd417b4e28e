DROP SCHEMA logs CASCADE;
DELETE FROM runtime.partitioned WHERE name LIKE 'logs.%';
