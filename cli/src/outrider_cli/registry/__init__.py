"""The commands that talk to the registry's REST API: devices, tenants, people, configuration, commands, audit."""
