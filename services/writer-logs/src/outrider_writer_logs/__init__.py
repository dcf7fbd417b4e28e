"""Device logs: stores them in PostgreSQL and acknowledges them (Loki joins later as a sink)."""
