-- Ingest stores nothing but boot anchors and rejected messages (through rejected.keep).
GRANT SELECT, INSERT ON telemetry.boot TO {role};
GRANT UPDATE (drift_ms, drift_at) ON telemetry.boot TO {role};
