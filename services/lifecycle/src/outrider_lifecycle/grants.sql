-- Its own schema, and the two tables by which the ledger's writer says what changed.
GRANT USAGE ON SCHEMA lifecycle TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lifecycle TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lifecycle TO {role};
GRANT SELECT, DELETE ON telemetry.touched, telemetry.late_sample TO {role};
GRANT SELECT ON telemetry.series TO {role};
-- What expires.
DO $$
DECLARE
    name_ text;
BEGIN
    FOREACH name_ IN ARRAY ARRAY['telemetry.sample', 'telemetry.sample_text', 'telemetry.sample_json', 'telemetry.event',
                                 'logs.line', 'trips.position'] LOOP
        IF to_regclass(name_) IS NOT NULL THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', split_part(name_, '.', 1));
            EXECUTE format('GRANT SELECT, DELETE ON %s TO {role}', name_);
        END IF;
    END LOOP;
    IF to_regclass('trips.vehicle') IS NOT NULL THEN
        GRANT SELECT ON trips.vehicle TO {role};
        GRANT SELECT, DELETE ON trips.trip TO {role};
    END IF;
END $$;
-- It alone moves horizons and drops partitions.
GRANT EXECUTE ON FUNCTION runtime.drop_partitions, runtime.raise_horizon TO {role};
GRANT SELECT, DELETE ON runtime.expired TO {role};
-- What was restored of the archive stands apart from the ledger.
GRANT USAGE ON SCHEMA restored TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA restored TO {role};
