DROP VIEW registry.device_types;
