DROP TRIGGER tell_gateway ON lifecycle.touched_hour;
DROP FUNCTION gateway.tell_hour, gateway.note_position_read, gateway.tenant_stamp, gateway.tenant_latest, gateway.tenant_fleet, gateway.tenant_buckets, gateway.rows_of,
    gateway.tenant_touched, gateway.tenant_kept, gateway.tenant_samples, gateway.tenant_metrics, gateway.tenant_series, gateway.tenant_devices, gateway.own_series;
