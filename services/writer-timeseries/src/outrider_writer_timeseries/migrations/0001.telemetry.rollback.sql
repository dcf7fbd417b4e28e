DROP VIEW telemetry.latest;
DROP VIEW telemetry.sequence_state;
DROP TABLE telemetry.sequence, telemetry.event, telemetry.sample_json, telemetry.sample_text, telemetry.sample, telemetry.series;
DELETE FROM runtime.partitioned WHERE name LIKE 'telemetry.%';
