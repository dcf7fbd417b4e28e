-- Ingest stores nothing but boot anchors, when devices were heard, and rejected messages (through rejected.keep).
GRANT SELECT, INSERT ON telemetry.boot TO {role};
GRANT UPDATE (drift_ms, drift_at) ON telemetry.boot TO {role};
GRANT SELECT, INSERT, UPDATE ON telemetry.seen TO {role};
-- Of the registry it may know whose a device is and whether it is enabled, nothing else.
DO $$
BEGIN
    IF to_regclass('registry.directory') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA registry TO {role};
        GRANT SELECT ON registry.directory TO {role};
    END IF;
END $$;
