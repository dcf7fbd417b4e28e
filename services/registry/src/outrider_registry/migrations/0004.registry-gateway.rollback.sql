DROP TRIGGER tell ON registry.token;
DROP FUNCTION registry.tenant_enabled;
DROP FUNCTION registry.check_device;
DROP FUNCTION registry.check_device_key;
DROP FUNCTION registry.check_token;
