"""The wire contract v1: topics, payloads, limits, reasons and the bus batch; it knows no service and does no I/O."""
