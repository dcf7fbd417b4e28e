-- Device logs. Loki is an addition later; PostgreSQL stores and acknowledges.
CREATE SCHEMA logs;
DO $$ BEGIN PERFORM runtime.create_partitioned('logs.line',
    'tenant text NOT NULL, device text NOT NULL, ts timestamptz NOT NULL, level text NOT NULL, message text NOT NULL,
     fields jsonb NOT NULL, boot bigint, seq bigint, item integer NOT NULL, received_at timestamptz NOT NULL'); END $$;
CREATE INDEX line_device_ts ON logs.line (tenant, device, ts);
DO $$ BEGIN PERFORM runtime.create_accounting('logs'); END $$;
