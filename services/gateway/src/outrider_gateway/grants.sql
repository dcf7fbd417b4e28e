-- Its own few rows; of the registry whether a key is good; of rejected messages one tenant's at a time.
GRANT USAGE ON SCHEMA gateway, rejected TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.upload, gateway.process TO {role};
GRANT SELECT ON rejected.tenant_message TO {role};
DO $$
BEGIN
    IF to_regproc('registry.check_token') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA registry TO {role};
        GRANT EXECUTE ON FUNCTION registry.check_token, registry.check_device_key, registry.check_device,
            registry.tenant_enabled TO {role};
    END IF;
END $$;
-- Gaps in the numbers of processes that died, to declare them gone.
DO $$
DECLARE
    view_ text;
BEGIN
    FOREACH view_ IN ARRAY ARRAY['telemetry.tenant_sequence', 'logs.tenant_sequence'] LOOP
        IF to_regclass(view_) IS NOT NULL THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', split_part(view_, '.', 1));
            EXECUTE format('GRANT SELECT ON %s TO {role}', view_);
        END IF;
    END LOOP;
END $$;
-- What questions are answered from: functions of its own for the ledger, rollups and devices, views for trips.
GRANT EXECUTE ON FUNCTION gateway.tenant_devices, gateway.tenant_series, gateway.tenant_metrics, gateway.tenant_samples,
    gateway.tenant_kept, gateway.tenant_touched, gateway.tenant_buckets, gateway.tenant_fleet, gateway.tenant_latest,
    gateway.tenant_stamp, gateway.note_position_read TO {role};
DO $$
BEGIN
    IF to_regclass('trips.tenant_trip') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA trips TO {role};
        GRANT SELECT ON trips.tenant_trip, trips.tenant_position TO {role};
    END IF;
END $$;
