-- What changed and what came too late: lifecycle's rollups follow the ledger by these two tables.
CREATE TABLE telemetry.touched (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL,                   -- start of five minutes, UTC
    series integer[] NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE telemetry.touched ALTER series SET STORAGE EXTERNAL;  -- compressing it costs more than writing it
CREATE INDEX touched_bucket ON telemetry.touched (bucket, id);
COMMENT ON TABLE telemetry.touched IS 'Series that got numbers in these five minutes, one row per transaction and five minutes; removed when rolled up.';

CREATE TABLE telemetry.late_sample (
    series_id integer NOT NULL,
    ts        timestamptz NOT NULL,
    value     double precision NOT NULL,
    PRIMARY KEY (series_id, ts)
);
COMMENT ON TABLE telemetry.late_sample IS 'Numbers from before the raw horizon (delivery rule 17), until they are merged into the rollups and archived.';
