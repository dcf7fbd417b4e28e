DROP VIEW telemetry.latest;
DROP VIEW telemetry.sequence_state;
-- A hypertable cannot be dropped together with other objects.
DROP TABLE telemetry.sequence;
DROP TABLE telemetry.event;
DROP TABLE telemetry.sample_json;
DROP TABLE telemetry.sample_text;
DROP TABLE telemetry.sample;
DROP TABLE telemetry.series;
DELETE FROM runtime.partitioned WHERE name LIKE 'telemetry.%';
