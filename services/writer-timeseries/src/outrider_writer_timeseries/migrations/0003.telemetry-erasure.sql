-- Everything the ledger has of a device: samples, texts, events, accounting, boots, and last the series themselves.
CREATE FUNCTION telemetry.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    ids integer[] := ARRAY(SELECT id FROM telemetry.series WHERE (tenant, device) = (tenant_, device_));
    earlier integer[] := '{}';
    counts jsonb;
BEGIN
    -- A transaction that began before may store by ids whose series went meanwhile: lifecycle remembers them until the end.
    IF to_regclass('lifecycle.erasure') IS NOT NULL THEN
        EXECUTE 'SELECT ARRAY(SELECT unnest(series) FROM lifecycle.erasure
                 WHERE (tenant, kind, subject) = ($1, ''device'', $2) AND state <> ''done'')'
            INTO earlier USING tenant_, device_;
    END IF;
    counts := runtime.erase_rows('telemetry', tenant_, device_, ids || earlier, '{series}');
    DELETE FROM telemetry.series WHERE id = ANY (ids);
    IF ids <> '{}' THEN  -- what writers know of the series does not hold any more, whether there is a tombstone or not
        UPDATE runtime.tombstone_version SET number = number + 1;
    END IF;
    RETURN counts || jsonb_build_object('series', cardinality(ids));
END $$;
COMMENT ON FUNCTION telemetry.erase_device IS 'Removes a device from the ledger; {table: rows}. Whatever names series by id must go before.';
REVOKE ALL ON FUNCTION telemetry.erase_device FROM PUBLIC;
