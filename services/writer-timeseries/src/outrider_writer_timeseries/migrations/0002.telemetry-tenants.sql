-- Telemetry one tenant at a time (row-level security and TimescaleDB's compression exclude each other, hence views).
CREATE VIEW telemetry.tenant_series WITH (security_barrier) AS
SELECT * FROM telemetry.series WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE INDEX series_metric ON telemetry.series (tenant, metric, device);

CREATE VIEW telemetry.tenant_sample WITH (security_barrier) AS
SELECT p.series_id, p.ts, p.value FROM telemetry.sample p JOIN telemetry.series s ON s.id = p.series_id
WHERE current_setting('outrider.tenant', true) IN ('*', s.tenant);

CREATE VIEW telemetry.tenant_sample_text WITH (security_barrier) AS
SELECT p.series_id, p.ts, p.value FROM telemetry.sample_text p JOIN telemetry.series s ON s.id = p.series_id
WHERE current_setting('outrider.tenant', true) IN ('*', s.tenant);

CREATE VIEW telemetry.tenant_latest WITH (security_barrier) AS
SELECT * FROM telemetry.latest WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE VIEW telemetry.tenant_event WITH (security_barrier) AS
SELECT * FROM telemetry.event WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

DO $$ BEGIN PERFORM runtime.create_tenant_sequence('telemetry'); END $$;

-- Thousands of devices at once: each sample is found by the index, which the views above, being joins, stand in the way of.
CREATE FUNCTION telemetry.tenant_positions(devices text[] DEFAULT NULL)
RETURNS TABLE (device text, ts timestamptz, lat double precision, lon double precision, heading double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT la.device, greatest(x.ts, y.ts), x.value, y.value, h.value
    FROM telemetry.series la
    JOIN telemetry.series lo ON (lo.tenant, lo.device, lo.metric, lo.kind) = (la.tenant, la.device, 'lon', 'number')
    LEFT JOIN telemetry.series hd ON (hd.tenant, hd.device, hd.metric, hd.kind) = (la.tenant, la.device, 'heading_deg', 'number')
    CROSS JOIN LATERAL (SELECT p.ts, p.value FROM telemetry.sample p WHERE p.series_id = la.id ORDER BY p.ts DESC LIMIT 1) x
    CROSS JOIN LATERAL (SELECT p.ts, p.value FROM telemetry.sample p WHERE p.series_id = lo.id ORDER BY p.ts DESC LIMIT 1) y
    LEFT JOIN LATERAL (SELECT p.value FROM telemetry.sample p WHERE p.series_id = hd.id AND p.ts > x.ts - interval '1 minute'
                       ORDER BY p.ts DESC LIMIT 1) h ON true
    WHERE la.tenant = current_setting('outrider.tenant', true) AND la.metric = 'lat' AND la.kind = 'number'
      AND (devices IS NULL OR la.device IN (SELECT unnest(devices)))
$$;
COMMENT ON FUNCTION telemetry.tenant_positions IS 'Where devices of this transaction''s tenant were last, all or these.';

CREATE FUNCTION telemetry.tenant_sparklines(devices text[], metric_ text, since timestamptz, step interval, points integer)
RETURNS TABLE (device text, n integer, value double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT s.device, b.n, x.value
    FROM telemetry.series s
    CROSS JOIN generate_series(0, points - 1) b(n)
    CROSS JOIN LATERAL (SELECT p.value FROM telemetry.sample p
                        WHERE p.series_id = s.id AND p.ts >= since + b.n * step AND p.ts < since + (b.n + 1) * step
                          AND p.ts >= since AND p.ts < since + points * step
                        ORDER BY p.ts LIMIT 1) x
    WHERE s.tenant = current_setting('outrider.tenant', true) AND s.device = ANY (devices) AND s.metric = metric_
      AND s.kind IN ('number', 'boolean')
$$;
COMMENT ON FUNCTION telemetry.tenant_sparklines IS 'Of each of these devices of the tenant the first sample of every step.';
REVOKE ALL ON FUNCTION telemetry.tenant_positions, telemetry.tenant_sparklines FROM PUBLIC;
