DROP FUNCTION runtime.raise_horizon, runtime.horizon_of, runtime.horizons;
DROP TABLE runtime.expired, runtime.horizon;
DROP FUNCTION runtime.drop_chunks_before, runtime.drop_partitions, runtime.create_shared_chunk;
DROP FUNCTION runtime.create_partitioned(text, text, integer);
DROP FUNCTION runtime.partition_start;
ALTER TABLE runtime.partitioned DROP COLUMN days;
