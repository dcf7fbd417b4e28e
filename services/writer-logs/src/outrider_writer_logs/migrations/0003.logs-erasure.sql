-- A device's log lines and their accounting.
CREATE FUNCTION logs.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN runtime.erase_rows('logs', tenant_, device_, '{}');
END $$;
COMMENT ON FUNCTION logs.erase_device IS 'Removes a device''s log lines; {table: rows}.';
REVOKE ALL ON FUNCTION logs.erase_device FROM PUBLIC;
