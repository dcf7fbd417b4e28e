-- Everything the ledger has of a device: samples, texts, events, accounting, boots, and last the series themselves.
CREATE FUNCTION telemetry.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    ids integer[] := ARRAY(SELECT id FROM telemetry.series WHERE (tenant, device) = (tenant_, device_));
    counts jsonb := runtime.erase_rows('telemetry', tenant_, device_, ids, '{series}');
BEGIN
    DELETE FROM telemetry.series WHERE id = ANY (ids);
    RETURN counts || jsonb_build_object('series', cardinality(ids));
END $$;
COMMENT ON FUNCTION telemetry.erase_device IS 'Removes a device from the ledger; {table: rows}. Whatever names series by id must go before.';
REVOKE ALL ON FUNCTION telemetry.erase_device FROM PUBLIC;
