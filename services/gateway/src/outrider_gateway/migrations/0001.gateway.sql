-- The gateway keeps little: which number an upload with an Idempotency-Key got, and which processes number uploads.
CREATE SCHEMA gateway;

CREATE TABLE gateway.upload (
    tenant     text   NOT NULL,
    device     text   NOT NULL,
    key        text   NOT NULL,                                -- its Idempotency-Key
    stream     text   NOT NULL CHECK (stream IN ('telemetry', 'log', 'event')),
    boot       bigint NOT NULL,                                -- its number
    seq        bigint NOT NULL,
    ts         bigint NOT NULL,                                -- time of samples that carry none, epoch ms
    digest     bytea  NOT NULL,                                -- SHA-256 of its bytes: what a retry must have too
    outcome    jsonb,                                          -- what its ack said; NULL: none has come yet
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, device, key)
);
CREATE INDEX upload_created_at ON gateway.upload (created_at);
COMMENT ON TABLE gateway.upload IS 'Uploads of the last 24 hours that may be retried: the retry gets the same number, in any replica.';

CREATE TABLE gateway.process (
    boot       bigint PRIMARY KEY,                             -- what the process numbers its uploads with
    replica    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gateway.process IS 'Processes that number uploads. The numbers that one left open when it died are declared gone by another.';

CREATE FUNCTION gateway.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH erased AS (DELETE FROM gateway.upload WHERE (tenant, device) = (tenant_, device_) RETURNING 1)
    SELECT jsonb_build_object('gateway.upload', count(*)) FROM erased
$$;
COMMENT ON FUNCTION gateway.erase_device IS 'Removes what there is of a device; {table: rows}.';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA gateway FROM PUBLIC;
