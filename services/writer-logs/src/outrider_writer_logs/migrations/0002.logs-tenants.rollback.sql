DROP VIEW logs.tenant_line, logs.tenant_sequence;
