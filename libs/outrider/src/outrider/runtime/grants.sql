-- What every service may do beside its own schema.
GRANT USAGE ON SCHEMA runtime, rejected, telemetry TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON runtime.replica TO {role};
GRANT SELECT, UPDATE ON runtime.slot TO {role};
GRANT SELECT, INSERT, UPDATE ON runtime.published, runtime.committed TO {role};
GRANT DELETE ON runtime.published TO {role};
GRANT SELECT ON runtime.partitioned, runtime.tombstone, runtime.tombstone_version TO {role};
GRANT EXECUTE ON FUNCTION runtime.declare_slots, runtime.slot_retired, runtime.ensure_partitions, rejected.keep, telemetry.ledger_id,
    runtime.erased, runtime.horizons, runtime.horizon_of TO {role};
GRANT SELECT ON runtime.horizon TO {role};
GRANT SELECT, INSERT ON runtime.expired TO {role};
