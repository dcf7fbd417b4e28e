-- Shared by all services: slots and depth (schema runtime), rejected messages (schema rejected), boot anchors (telemetry.boot).
CREATE SCHEMA runtime;
CREATE SCHEMA rejected;
CREATE SCHEMA telemetry;

-- ---------------------------------------------------------------- slots (delivery rules 12 and 14)
CREATE TABLE runtime.slot (
    group_name   text    NOT NULL,
    slot         integer NOT NULL,
    epoch        bigint  NOT NULL DEFAULT 0,       -- counts the leases of this slot; a new holder, a new epoch
    holder       text,                             -- application_name of the holder's database sessions
    replica      text,
    heartbeat_at timestamptz,
    acquired_at  timestamptz,
    retiring     boolean NOT NULL DEFAULT false,   -- to be emptied and removed by its holder
    PRIMARY KEY (group_name, slot)
);
COMMENT ON TABLE runtime.slot IS 'Fixed consumer slots; a replica attends a slot only while it holds its lease.';

CREATE TABLE runtime.replica (
    group_name   text NOT NULL,
    holder       text NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    PRIMARY KEY (group_name, holder)
);
COMMENT ON TABLE runtime.replica IS 'Live replicas of a group: their number gives each one''s fair share of the slots.';

CREATE TABLE runtime.published (
    producer_slot integer NOT NULL,
    epoch         bigint  NOT NULL,
    topic         text    NOT NULL,
    number        bigint  NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (producer_slot, topic, epoch)
);
CREATE TABLE runtime.committed (
    group_name    text    NOT NULL,
    producer_slot integer NOT NULL,
    topic         text    NOT NULL,
    epoch         bigint  NOT NULL,
    number        bigint  NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_name, producer_slot, topic)
);
-- Only the newest epoch that a consumer has committed is kept; what an older epoch lost on the way comes again from the devices.
CREATE VIEW runtime.depth AS
SELECT p.topic, g.group_name,
       sum(CASE WHEN c.epoch IS NULL OR p.epoch > c.epoch THEN p.number
                WHEN p.epoch = c.epoch THEN greatest(p.number - c.number, 0)
                ELSE 0 END)::bigint AS batches
FROM runtime.published p
CROSS JOIN (SELECT DISTINCT group_name FROM runtime.slot WHERE group_name LIKE 'writer-%') g
LEFT JOIN runtime.committed c
       ON c.group_name = g.group_name AND c.producer_slot = p.producer_slot AND c.topic = p.topic
WHERE (g.group_name = 'writer-logs') = (p.topic LIKE 'outrider/v1/logs/%')
GROUP BY p.topic, g.group_name;
COMMENT ON VIEW runtime.depth IS 'Bus batches published and not yet committed, per topic and consumer group.';

-- A group gets its first slots from its setting; from then on only an operator changes their number (raise_).
CREATE FUNCTION runtime.declare_slots(group_ text, slots integer, raise_ boolean DEFAULT false) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO runtime.slot (group_name, slot) SELECT group_, n FROM generate_series(0, slots - 1) n
    WHERE raise_ OR NOT EXISTS (SELECT FROM runtime.slot s WHERE s.group_name = group_)
    ON CONFLICT DO NOTHING
$$;

-- ---------------------------------------------------------------- time partitions, native or TimescaleDB
CREATE TABLE runtime.partitioned (
    name         text PRIMARY KEY,
    hypertable   boolean NOT NULL,
    starts_on    date NOT NULL
);
COMMENT ON TABLE runtime.partitioned IS 'Tables with one partition a day from starts_on; older rows share one, which is emptied but never dropped.';

CREATE FUNCTION runtime.create_partitioned(name_ text, columns_ text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    timescale boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    starts date := (now() AT TIME ZONE 'UTC')::date - 30;
BEGIN
    IF timescale THEN
        EXECUTE format('CREATE TABLE %s (%s)', name_, columns_);
        -- A chunk of each old day would cost a table a day, and its locks, for whatever a device sends of the past. The
        -- chunk of all days before starts_on is made by a row of 1970, while chunks are that long; then they get a day.
        EXECUTE format('SELECT create_hypertable(%L, %L, chunk_time_interval => %s, create_default_indexes => false)',
                       name_, 'ts', extract(epoch FROM starts::timestamp AT TIME ZONE 'UTC')::bigint * 1000000);
        EXECUTE (SELECT format('INSERT INTO %s VALUES (%s)', name_, string_agg(
                            CASE atttypid WHEN 'timestamptz'::regtype THEN '''epoch''' ELSE '''0''' END, ', ' ORDER BY attnum))
                 FROM pg_attribute WHERE attrelid = name_::regclass AND attnum > 0);
        EXECUTE format('DELETE FROM %s', name_);
        EXECUTE format('SELECT set_chunk_time_interval(%L, interval ''1 day'')', name_);
    ELSE
        EXECUTE format('CREATE TABLE %s (%s) PARTITION BY RANGE (ts)', name_, columns_);
        EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (MINVALUE) TO (%L)',
                       name_ || '_before', name_, starts::timestamp AT TIME ZONE 'UTC');
    END IF;
    INSERT INTO runtime.partitioned VALUES (name_, timescale, starts);
END $$;

CREATE FUNCTION runtime.ensure_partitions(name_ text, days date[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    registered runtime.partitioned;
    day date;
    part text;
BEGIN
    SELECT * INTO STRICT registered FROM runtime.partitioned WHERE name = name_;
    IF registered.hypertable THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('outrider partitions ' || name_));
    FOREACH day IN ARRAY days LOOP
        part := name_ || '_' || to_char(day, 'YYYYMMDD');
        IF day >= registered.starts_on AND to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', part, name_,
                           day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION runtime.ensure_partitions IS 'Create the daily partitions these days need; a no-op on hypertables and for days before starts_on.';

CREATE FUNCTION runtime.slot_retired(group_ text, slot_ integer, holder_ text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM runtime.slot WHERE (group_name, slot, holder) = (group_, slot_, holder_) AND retiring
$$;
COMMENT ON FUNCTION runtime.slot_retired IS 'Removes a retiring slot once its holder has emptied and ended the session.';

-- ---------------------------------------------------------------- sequence accounting (delivery rules 6 and 9)
CREATE FUNCTION runtime.create_accounting(schema_ text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($sql$
        CREATE TABLE %1$I.sequence (
            tenant     text   NOT NULL,
            device     text   NOT NULL,
            stream     text   NOT NULL,
            boot       bigint NOT NULL,
            stored     int8multirange NOT NULL DEFAULT '{}',
            gone       int8multirange NOT NULL DEFAULT '{}',   -- what the device says it discarded
            duplicates bigint NOT NULL DEFAULT 0,
            conflicts  bigint NOT NULL DEFAULT 0,
            rejected   bigint NOT NULL DEFAULT 0,
            first_at   timestamptz NOT NULL,
            last_at    timestamptz NOT NULL,
            mark_seq   bigint NOT NULL DEFAULT 0,              -- gaps below it were there at mark_at
            mark_at    timestamptz NOT NULL,
            needed_at  timestamptz,
            gapped     boolean GENERATED ALWAYS AS (
                           NOT isempty(stored + gone)
                           AND (stored + gone) <> int8multirange(int8range(1, upper(stored + gone)))) STORED,
            PRIMARY KEY (tenant, device, stream, boot)
        );
        COMMENT ON TABLE %1$I.sequence IS 'Which numbered messages are stored, per device, stream and boot.';
        CREATE INDEX sequence_gapped ON %1$I.sequence (mark_at) WHERE gapped;
        CREATE VIEW %1$I.sequence_state AS
        SELECT tenant, device, stream, boot,
               coalesce((SELECT upper(r) - 1 FROM unnest(stored + gone) r WHERE lower(r) = 1), 0) AS contiguous_seq,
               coalesce(upper(stored + gone) - 1, 0) AS last_seq,
               CASE WHEN gapped THEN (SELECT sum(upper(r) - lower(r)) FROM unnest(
                   int8multirange(int8range(1, upper(stored + gone))) - stored - gone) r)::bigint ELSE 0 END AS missing,
               coalesce((SELECT sum(upper(r) - lower(r)) FROM unnest(gone) r), 0)::bigint AS gone,
               duplicates, conflicts, rejected, first_at, last_at
        FROM %1$I.sequence;
    $sql$, schema_);
END $$;

-- ---------------------------------------------------------------- boot anchors (delivery rule 2)
CREATE TABLE telemetry.boot (
    tenant      text   NOT NULL,
    device      text   NOT NULL,
    boot        bigint NOT NULL,
    anchor_ms   bigint NOT NULL,                   -- wall time of uptime 0, epoch ms
    anchored_at timestamptz NOT NULL DEFAULT now(),
    drift_ms    bigint,                            -- evidence only: a later real time of this boot minus the anchor's
    drift_at    timestamptz,
    PRIMARY KEY (tenant, device, boot)
);
COMMENT ON TABLE telemetry.boot IS 'Wall time of uptime 0 per boot of a device without a clock; the first one wins, for ever.';

-- ---------------------------------------------------------------- the ledger's identity (delivery rule 9)
CREATE TABLE telemetry.ledger (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id         uuid NOT NULL,
    cluster    text NOT NULL,                      -- system identifier, database oid and timeline: a restore changes one of them
    renewed_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION telemetry.ledger_id() RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    here text := (SELECT system_identifier FROM pg_control_system()) || '/'
              || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/'
              || (SELECT timeline_id FROM pg_control_checkpoint());
    result uuid;
BEGIN
    SELECT id INTO result FROM telemetry.ledger WHERE cluster = here;  -- the usual case takes no lock
    IF result IS NULL THEN
        INSERT INTO telemetry.ledger AS l (id, cluster) VALUES (gen_random_uuid(), here)
        ON CONFLICT (only_row) DO UPDATE SET id = excluded.id, cluster = excluded.cluster, renewed_at = now()
            WHERE l.cluster <> excluded.cluster;
        SELECT id INTO STRICT result FROM telemetry.ledger;
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION telemetry.ledger_id IS 'The id that every ack carries; renewed by itself when the database was restored, so that devices offer their rows again.';

-- ---------------------------------------------------------------- rejected messages
CREATE TABLE rejected.message (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL,
    device      text NOT NULL,
    stream      text NOT NULL,
    boot        bigint,
    seq         bigint,
    reason      text NOT NULL,
    detail      text NOT NULL,
    topic       text NOT NULL,
    payload     bytea NOT NULL,
    digest      text NOT NULL,                     -- first 16 hex of the payload's SHA-256, as in the ack
    service     text NOT NULL,
    received_at timestamptz NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz
);
-- A numbered message that comes again is the same rejection; NULLs are distinct, so unnumbered ones are all kept.
CREATE UNIQUE INDEX message_numbered ON rejected.message (tenant, device, stream, boot, seq, reason);
CREATE INDEX message_rejected_at ON rejected.message (rejected_at);

CREATE TABLE rejected.quota (
    only_row             boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    device_messages      bigint NOT NULL DEFAULT 150000,
    device_payload_bytes bigint NOT NULL DEFAULT 256 * 1024 * 1024,
    total_messages       bigint NOT NULL DEFAULT 1000000,
    total_payload_bytes  bigint NOT NULL DEFAULT 4::bigint * 1024 * 1024 * 1024
);
COMMENT ON TABLE rejected.quota IS 'How much is kept whole; past it a rejection is only counted, in rejected.overflow. Change it with UPDATE.';
INSERT INTO rejected.quota DEFAULT VALUES;

CREATE TABLE rejected.usage (
    tenant   text NOT NULL,
    device   text NOT NULL,
    messages bigint NOT NULL,
    bytes    bigint NOT NULL,
    PRIMARY KEY (tenant, device)
);
CREATE TABLE rejected.overflow (
    reason   text PRIMARY KEY,
    messages bigint NOT NULL,
    bytes    bigint NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE rejected.overflow IS 'Rejections past the quota, counted per reason.';

-- The only way in for services: keeps what the quota allows, counts the rest. Returns how many were kept.
CREATE FUNCTION rejected.keep(tenants text[], devices text[], streams text[], boots bigint[], seqs bigint[], reasons text[],
                              details text[], topics text[], payloads bytea[], received timestamptz[], service_ text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    kept bigint;
BEGIN
    -- Locks are taken in one order by everyone, so two services never wait for each other.
    PERFORM FROM rejected.usage u WHERE (u.tenant, u.device) IN (SELECT unnest(tenants), unnest(devices))
        ORDER BY u.tenant, u.device FOR UPDATE;
    WITH incoming AS (
        SELECT i.*, u.messages AS used_messages, u.bytes AS used_bytes,
               count(*) OVER w AS batch_messages, sum(length(i.payload)) OVER w AS batch_bytes,
               count(*) OVER t AS all_messages, sum(length(i.payload)) OVER t AS all_bytes
        FROM unnest(tenants, devices, streams, boots, seqs, reasons, details, topics, payloads, received)
             WITH ORDINALITY AS i(tenant, device, stream, boot, seq, reason, detail, topic, payload, received_at, n)
        LEFT JOIN rejected.usage u USING (tenant, device)
        WHERE i.seq IS NULL OR NOT EXISTS (
            SELECT FROM rejected.message m WHERE (m.tenant, m.device, m.stream, m.boot, m.seq, m.reason)
                                               = (i.tenant, i.device, i.stream, i.boot, i.seq, i.reason))
        WINDOW w AS (PARTITION BY i.tenant, i.device ORDER BY i.n), t AS (ORDER BY i.n)
    ), total AS (
        SELECT coalesce(sum(messages), 0) AS messages, coalesce(sum(bytes), 0) AS bytes FROM rejected.usage
    ), judged AS (
        SELECT i.*, coalesce(i.used_messages, 0) + i.batch_messages <= q.device_messages
                AND coalesce(i.used_bytes, 0) + i.batch_bytes <= q.device_payload_bytes
                AND t.messages + i.all_messages <= q.total_messages
                AND t.bytes + i.all_bytes <= q.total_payload_bytes AS fits
        FROM incoming i, rejected.quota q, total t
    ), inserted AS (
        INSERT INTO rejected.message (tenant, device, stream, boot, seq, reason, detail, topic, payload, digest, service, received_at)
        SELECT tenant, device, stream, boot, seq, reason, detail, topic, payload,
               left(encode(sha256(payload), 'hex'), 16), service_, received_at
        FROM judged WHERE fits
        ON CONFLICT DO NOTHING
        RETURNING tenant, device, length(payload) AS bytes
    ), counted AS (
        INSERT INTO rejected.usage AS u (tenant, device, messages, bytes)
        SELECT tenant, device, count(*), sum(bytes) FROM inserted GROUP BY tenant, device ORDER BY tenant, device
        ON CONFLICT (tenant, device) DO UPDATE SET messages = u.messages + excluded.messages, bytes = u.bytes + excluded.bytes
        RETURNING 1
    ), overflowed AS (
        INSERT INTO rejected.overflow AS o (reason, messages, bytes)
        SELECT reason, count(*), sum(length(payload)) FROM judged WHERE NOT fits GROUP BY reason ORDER BY reason
        ON CONFLICT (reason) DO UPDATE
            SET messages = o.messages + excluded.messages, bytes = o.bytes + excluded.bytes, last_at = now()
        RETURNING 1
    )
    SELECT count(*) INTO kept FROM inserted;
    RETURN kept;
END $$;

-- For operators: removes rejected messages and gives their quota back.
CREATE FUNCTION rejected.purge(ids bigint[]) RETURNS bigint
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM rejected.message WHERE id = ANY (ids) RETURNING tenant, device, length(payload) AS bytes
    ), back AS (
        UPDATE rejected.usage u SET messages = u.messages - g.messages, bytes = u.bytes - g.bytes
        FROM (SELECT tenant, device, count(*) AS messages, sum(bytes) AS bytes FROM gone GROUP BY tenant, device) g
        WHERE (u.tenant, u.device) = (g.tenant, g.device)
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA runtime, rejected, telemetry FROM PUBLIC;
