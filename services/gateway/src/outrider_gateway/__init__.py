"""HTTP for devices that have no MQTT, and the query API."""
