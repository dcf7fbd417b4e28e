DROP FUNCTION lifecycle.have_ended, lifecycle.running, lifecycle.erase, lifecycle.erasers, lifecycle.lift_tombstone, lifecycle.tenant_request_erasure;
DROP VIEW lifecycle.tenant_erasure;
CREATE OR REPLACE FUNCTION lifecycle.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT runtime.erase_rows('lifecycle', tenant_, device_,
                              ARRAY(SELECT id FROM telemetry.series WHERE (tenant, device) = (tenant_, device_)))
$$;
DROP TABLE lifecycle.erasure;
