-- Its own schema, and the two tables by which the ledger's writer says what changed.
GRANT USAGE ON SCHEMA lifecycle TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lifecycle TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lifecycle TO {role};
GRANT SELECT, DELETE ON telemetry.touched, telemetry.late_sample TO {role};
GRANT SELECT ON telemetry.series, telemetry.sample TO {role};
-- It alone moves horizons and drops partitions.
GRANT EXECUTE ON FUNCTION runtime.drop_partitions, runtime.raise_horizon TO {role};
GRANT SELECT, DELETE ON runtime.expired TO {role};
