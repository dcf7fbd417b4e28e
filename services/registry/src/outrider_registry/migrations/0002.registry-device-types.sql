-- What the service of trips may know of devices: which there are, and of what type. Owned by the administrator, like
-- registry.directory, so RLS does not hide it.
CREATE VIEW registry.device_types AS SELECT id AS device, tenant, type FROM registry.device;
COMMENT ON VIEW registry.device_types IS 'Of every device its tenant and type.';
