DROP FUNCTION telemetry.erase_device;
