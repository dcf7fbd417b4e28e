-- The ledger: a series map and narrow typed tables, partitioned by time. (series_id, ts) makes storing idempotent.
CREATE TABLE telemetry.series (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text NOT NULL,
    device     text NOT NULL,
    metric     text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('number', 'boolean', 'string', 'json')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, device, metric, kind)
);
COMMENT ON TABLE telemetry.series IS 'One id per (device, metric, kind); a second kind of one metric is its own series.';

DO $$ BEGIN PERFORM runtime.create_partitioned('telemetry.sample',
    'series_id integer NOT NULL, ts timestamptz NOT NULL, value double precision NOT NULL, PRIMARY KEY (series_id, ts)'); END $$;
DO $$ BEGIN PERFORM runtime.create_partitioned('telemetry.sample_text',
    'series_id integer NOT NULL, ts timestamptz NOT NULL, value text NOT NULL, PRIMARY KEY (series_id, ts)'); END $$;
DO $$ BEGIN PERFORM runtime.create_partitioned('telemetry.sample_json',
    'series_id integer NOT NULL, ts timestamptz NOT NULL, value jsonb NOT NULL, PRIMARY KEY (series_id, ts)'); END $$;
COMMENT ON TABLE telemetry.sample IS 'Numbers and booleans (0 or 1).';

DO $$ BEGIN PERFORM runtime.create_partitioned('telemetry.event',
    'tenant text NOT NULL, device text NOT NULL, ts timestamptz NOT NULL, type text NOT NULL, message text NOT NULL,
     fields jsonb NOT NULL, boot bigint, seq bigint, item integer NOT NULL, received_at timestamptz NOT NULL'); END $$;
CREATE INDEX event_device_ts ON telemetry.event (tenant, device, ts);

DO $$ BEGIN PERFORM runtime.create_accounting('telemetry'); END $$;

CREATE VIEW telemetry.latest AS
SELECT s.tenant, s.device, s.metric, s.kind, l.ts, l.value
FROM telemetry.series s, LATERAL (
    (SELECT ts, to_jsonb(CASE WHEN s.kind = 'boolean' THEN NULL ELSE value END) AS value, value AS number
     FROM telemetry.sample WHERE s.kind IN ('number', 'boolean') AND series_id = s.id ORDER BY ts DESC LIMIT 1)
    UNION ALL
    (SELECT ts, to_jsonb(value), NULL FROM telemetry.sample_text WHERE s.kind = 'string' AND series_id = s.id ORDER BY ts DESC LIMIT 1)
    UNION ALL
    (SELECT ts, value, NULL FROM telemetry.sample_json WHERE s.kind = 'json' AND series_id = s.id ORDER BY ts DESC LIMIT 1)
) raw, LATERAL (
    SELECT raw.ts, CASE WHEN s.kind = 'boolean' THEN to_jsonb(raw.number <> 0) ELSE raw.value END AS value
) l;
COMMENT ON VIEW telemetry.latest IS 'The newest sample of every series, by its own time; value as JSON.';
