-- depends: 0004.tombstones
-- An erased device's id is free for nobody: every way to register a device finds it taken.
CREATE FUNCTION registry.keep_erased_away() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (SELECT FROM runtime.erased(ARRAY[NEW.id])) THEN
        RETURN NULL;  -- as ON CONFLICT DO NOTHING does, which all who add devices are ready for
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_erased_away BEFORE INSERT ON registry.device
    FOR EACH ROW EXECUTE FUNCTION registry.keep_erased_away();

CREATE FUNCTION registry.is_registered(device_ text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
BEGIN
    RETURN EXISTS (SELECT FROM registry.device WHERE id = device_);
END $$;
COMMENT ON FUNCTION registry.is_registered IS 'Whether an id is taken, by whomever.';

-- What the registry has of a device. The audit is append-only and stays, past_generation too: a secret must not revive.
CREATE FUNCTION registry.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
DECLARE
    counts jsonb;
    rows_ bigint;
BEGIN
    UPDATE registry.chart c SET updated_at = now(), version = c.version + 1, definition = jsonb_set(c.definition, '{series}',
        (SELECT coalesce(jsonb_agg(s), '[]') FROM jsonb_array_elements(c.definition -> 'series') s WHERE s ->> 'device' <> device_))
    WHERE c.tenant = tenant_ AND c.definition -> 'series' @> jsonb_build_array(jsonb_build_object('device', device_));
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := jsonb_build_object('chart', rows_);
    DELETE FROM registry.chart WHERE tenant = tenant_ AND definition -> 'series' = '[]';
    DELETE FROM registry.claim
    WHERE tenant = tenant_ AND (device = device_ OR used_by = device_ OR request ->> 'device' = device_);
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('claim', rows_);
    counts := counts || runtime.erase_rows('registry', tenant_, device_, '{}', '{claim,revoked_certificate}');
    DELETE FROM registry.device WHERE (tenant, id) = (tenant_, device_);
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    RETURN counts || jsonb_build_object('device', rows_);
END $$;
COMMENT ON FUNCTION registry.erase_device IS 'Removes a device with all the registry has of it, except the audit; {table: rows}.';

CREATE FUNCTION registry.acted(actor text, name_ text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$ SELECT actor = 'user:' || name_ OR starts_with(actor, 'token:' || name_ || '/') $$;

-- What the registry has of a person: the account, if there is one of this name, and wherever else the name stands.
CREATE FUNCTION registry.erase_person(tenant_ text, name_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
DECLARE
    home text := nullif(tenant_, '-');             -- '-': an administrator of the platform
    counts jsonb := '{}';
    rows_ bigint;
BEGIN
    DELETE FROM registry.chart USING registry.account a
    WHERE a.id = chart.owner AND a.name = name_ AND a.tenant IS NOT DISTINCT FROM home AND NOT chart.shared;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('chart', rows_);
    DELETE FROM registry.account WHERE name = name_ AND tenant IS NOT DISTINCT FROM home;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('account', rows_);
    IF NOT EXISTS (SELECT FROM registry.account WHERE name = name_) THEN
        DELETE FROM registry.attempt WHERE key = 'name:' || name_;
    END IF;
    UPDATE registry.device SET owner = '', updated_at = now(), version = version + 1 WHERE tenant = home AND owner = name_;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('device.owner', rows_);
    UPDATE registry.command SET created_by = 'erased' WHERE (home IS NULL OR tenant = home) AND registry.acted(created_by, name_);
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('command.created_by', rows_);
    UPDATE registry.claim SET created_by = CASE WHEN registry.acted(created_by, name_) THEN 'erased' ELSE created_by END,
                              decided_by = CASE WHEN registry.acted(decided_by, name_) THEN 'erased' ELSE decided_by END
    WHERE (home IS NULL OR tenant = home) AND (registry.acted(created_by, name_) OR registry.acted(decided_by, name_));
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('claim', rows_);
    UPDATE registry.emergency_stop SET stopped_by = 'erased'
    WHERE (home IS NULL OR tenant = home) AND registry.acted(stopped_by, name_);
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    RETURN counts || jsonb_build_object('emergency_stop', rows_);
END $$;
COMMENT ON FUNCTION registry.erase_person IS 'Removes a person''s account and name, except from the audit; {table: rows}.';
REVOKE ALL ON FUNCTION registry.keep_erased_away, registry.is_registered, registry.acted, registry.erase_device, registry.erase_person FROM PUBLIC;
