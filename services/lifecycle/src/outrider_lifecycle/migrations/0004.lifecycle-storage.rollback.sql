DROP FUNCTION lifecycle.tenant_storage, lifecycle.measure_devices, lifecycle.measure_tables, lifecycle.parts;
DROP TABLE lifecycle.storage_forecast, lifecycle.storage_history, lifecycle.storage_device, lifecycle.storage_day,
    lifecycle.storage_table;
