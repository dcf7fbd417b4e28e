-- The service appends rows of evidence and owns what is made of them; positions it never changes but by merging, and
-- never removes: lifecycle does when they expire.
GRANT USAGE ON SCHEMA trips TO {role};
GRANT SELECT, INSERT, UPDATE ON trips.position, trips.progress, trips.rule TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON trips.vehicle, trips.touched, trips.trip, trips.retained, trips.outbox TO {role};
GRANT DELETE ON trips.rule TO {role};
GRANT SELECT ON trips.edit, trips.profile TO {role};
GRANT UPDATE (problem) ON trips.profile TO {role};
GRANT EXECUTE ON FUNCTION trips.lock TO {role};
-- Of the registry it may know which devices there are and of what type.
DO $$
BEGIN
    IF to_regclass('registry.device_types') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA registry TO {role};
        GRANT SELECT ON registry.device_types TO {role};
    END IF;
END $$;
-- Who serves people reads one tenant at a time; the registry alone writes, as it knows who asked. The gateway's own
-- grants name the two views it reads.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outrider_registry') THEN
        GRANT USAGE ON SCHEMA trips TO outrider_registry;
        GRANT SELECT ON trips.tenant_trip, trips.tenant_position, trips.tenant_vehicle, trips.tenant_edit, trips.tenant_profile
            TO outrider_registry;
        GRANT EXECUTE ON FUNCTION trips.tenant_edit_merge, trips.tenant_edit_split, trips.tenant_edit_undo,
            trips.tenant_put_profile, trips.tenant_drop_profile, trips.tenant_resegment TO outrider_registry;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outrider_lifecycle') THEN
        GRANT EXECUTE ON FUNCTION trips.erase_device TO outrider_lifecycle;
    END IF;
END $$;
