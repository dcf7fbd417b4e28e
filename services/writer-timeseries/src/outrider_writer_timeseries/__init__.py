"""The ledger's writer: stores bus samples and events in PostgreSQL and acknowledges them to the devices."""
