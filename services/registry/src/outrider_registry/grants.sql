-- The registry owns its schema's rows; the audit it can only append to, through a function.
GRANT USAGE ON SCHEMA registry TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.tenant, registry.account, registry.token, registry.session,
    registry.sign_in_link, registry.attempt, registry.device, registry.metric, registry.credential, registry.claim,
    registry.revoked_certificate, registry.configuration_key, registry.configuration, registry.shadow, registry.command,
    registry.emergency_stop, registry.presence, registry.presence_event, registry.chart, registry.idempotency TO {role};
GRANT SELECT ON registry.audit, registry.audit_head TO {role};
GRANT EXECUTE ON FUNCTION registry.sees, registry.audit_hash, registry.audit_append, registry.next_generation TO {role};
-- Of other services' data it reads one tenant at a time, through views that show nothing where no tenant is set.
DO $$
DECLARE
    view_ text;
BEGIN
    FOREACH view_ IN ARRAY ARRAY['telemetry.tenant_series', 'telemetry.tenant_sample', 'telemetry.tenant_sample_text',
        'telemetry.tenant_latest', 'telemetry.tenant_event', 'telemetry.tenant_sequence', 'telemetry.tenant_seen',
        'logs.tenant_line', 'logs.tenant_sequence', 'rejected.tenant_message',
        'trips.tenant_trip', 'trips.tenant_edit', 'trips.tenant_profile'] LOOP
        IF to_regclass(view_) IS NOT NULL THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', split_part(view_, '.', 1));
            EXECUTE format('GRANT SELECT ON %s TO {role}', view_);
        END IF;
    END LOOP;
    IF to_regclass('telemetry.tenant_latest') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION telemetry.tenant_positions, telemetry.tenant_sparklines TO {role};
    END IF;
END $$;
-- Rejected messages it marks and removes, one tenant's at a time.
GRANT EXECUTE ON FUNCTION rejected.tenant_mark_replayed, rejected.tenant_purge TO {role};
-- Trips it reads, and changes as operators say, one tenant's at a time, where that service is installed.
DO $$
DECLARE
    function_ text;
BEGIN
    FOREACH function_ IN ARRAY ARRAY['trips.tenant_edit_merge', 'trips.tenant_edit_split', 'trips.tenant_edit_undo',
        'trips.tenant_put_profile', 'trips.tenant_drop_profile', 'trips.tenant_resegment'] LOOP
        IF to_regproc(function_) IS NOT NULL THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {role}', function_);
        END IF;
    END LOOP;
END $$;
-- Erasures it asks for, in the transaction in which it forgets device or person; lifecycle carries them out.
GRANT EXECUTE ON FUNCTION registry.erase_device, registry.erase_person, registry.is_registered TO {role};
DO $$
DECLARE
    name_ text;
BEGIN
    FOREACH name_ IN ARRAY ARRAY['lifecycle.tenant_erasure', 'lifecycle.tenant_archive', 'lifecycle.tenant_archive_task'] LOOP
        IF to_regclass(name_) IS NOT NULL THEN
            GRANT USAGE ON SCHEMA lifecycle TO {role};
            EXECUTE format('GRANT SELECT ON %s TO {role}', name_);
        END IF;
    END LOOP;
    FOREACH name_ IN ARRAY ARRAY['lifecycle.tenant_request_erasure', 'lifecycle.lift_tombstone', 'lifecycle.tenant_policy',
        'lifecycle.tenant_set_policy', 'lifecycle.tenant_request_archive_task', 'lifecycle.tenant_storage'] LOOP
        IF to_regproc(name_) IS NOT NULL THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {role}', name_);
        END IF;
    END LOOP;
END $$;
