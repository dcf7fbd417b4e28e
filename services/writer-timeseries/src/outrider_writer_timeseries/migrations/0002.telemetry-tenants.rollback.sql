DROP FUNCTION telemetry.tenant_positions, telemetry.tenant_sparklines;
DROP VIEW telemetry.tenant_series, telemetry.tenant_sample, telemetry.tenant_sample_text, telemetry.tenant_latest,
    telemetry.tenant_event, telemetry.tenant_sequence;
DROP INDEX telemetry.series_metric;
