-- Erased devices: nobody gets their ids again, and what still arrives of them is dropped and counted.
CREATE TABLE runtime.tombstone (
    device    text PRIMARY KEY,
    tenant    text NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    reason    text NOT NULL DEFAULT ''
);
COMMENT ON TABLE runtime.tombstone IS 'Devices that were erased. Their ids stay, so that nothing of them is stored again.';

-- Changes with the table, in the same transaction: writers compare one number and read the table only when it changed.
CREATE TABLE runtime.tombstone_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number   bigint NOT NULL DEFAULT 0
);
INSERT INTO runtime.tombstone_version DEFAULT VALUES;

CREATE FUNCTION runtime.tombstone_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    UPDATE runtime.tombstone_version SET number = number + 1;
    PERFORM pg_notify('outrider_registry', 'device:' || CASE WHEN TG_OP = 'DELETE' THEN OLD.device ELSE NEW.device END);
    RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER INSERT OR DELETE ON runtime.tombstone
    FOR EACH ROW EXECUTE FUNCTION runtime.tombstone_changed();

CREATE FUNCTION runtime.erased(devices text[]) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT device FROM runtime.tombstone WHERE device = ANY (devices)
$$;
COMMENT ON FUNCTION runtime.erased IS 'Which of these devices are erased.';

-- ---------------------------------------------------------------- erasing: the part that is the same in every schema
-- Any schema may have a function erase_device(tenant text, device text) RETURNS jsonb ({table: rows}), SECURITY DEFINER and
-- idempotent; lifecycle finds and calls them all. Most consist of this.
CREATE FUNCTION runtime.erase_rows(schema_ text, tenant_ text, device_ text, series_ integer[], spared text[] DEFAULT '{}')
RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    found record;
    rows_ bigint;
    counts jsonb := '{}';
BEGIN
    FOR found IN
        SELECT c.relname, bool_or(a.attname = 'series_id') AS by_series
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname IN ('tenant', 'device', 'series_id') AND NOT a.attisdropped
        WHERE n.nspname = schema_ AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> ALL (spared)
        GROUP BY c.relname
        HAVING bool_or(a.attname = 'series_id') OR count(*) FILTER (WHERE a.attname IN ('tenant', 'device')) = 2
        ORDER BY c.relname
    LOOP
        IF found.by_series THEN
            EXECUTE format('DELETE FROM %I.%I WHERE series_id = ANY ($1)', schema_, found.relname) USING series_;
        ELSE
            EXECUTE format('DELETE FROM %I.%I WHERE (tenant, device) = ($1, $2)', schema_, found.relname)
                USING tenant_, device_;
        END IF;
        GET DIAGNOSTICS rows_ = ROW_COUNT;
        counts := counts || jsonb_build_object(found.relname, rows_);
    END LOOP;
    RETURN counts;
END $$;
COMMENT ON FUNCTION runtime.erase_rows IS
    'Deletes a device''s rows of every table in a schema that has a series_id, or a tenant and a device; {table: rows}.';

CREATE FUNCTION rejected.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    messages bigint;
    batches bigint;
BEGIN
    SELECT rejected.purge(ARRAY(SELECT id FROM rejected.message WHERE (tenant, device) = (tenant_, device_))) INTO messages;
    -- Bus batches that no writer could read hold many devices and go whole: the numbered messages in them come again.
    SELECT rejected.purge(ARRAY(
        SELECT id FROM rejected.message
        WHERE topic LIKE 'outrider/%' AND position(convert_to('"' || device_ || '"', 'UTF8') IN payload) > 0
    )) INTO batches;
    DELETE FROM rejected.usage WHERE (tenant, device) = (tenant_, device_);
    RETURN jsonb_build_object('message', messages, 'unreadable bus batches', batches);
END $$;
COMMENT ON FUNCTION rejected.erase_device IS 'Removes what was refused of a device; how much.';

-- ---------------------------------------------------------------- and nothing refused of an erased device is kept
CREATE OR REPLACE FUNCTION rejected.keep(tenants text[], devices text[], streams text[], boots bigint[], seqs bigint[], reasons text[],
                              details text[], topics text[], payloads bytea[], received timestamptz[], service_ text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    kept bigint;
    gone text[] := ARRAY(SELECT runtime.erased(devices));
BEGIN
    IF gone <> '{}' THEN  -- of an erased device nothing is kept, only that something came
        INSERT INTO rejected.overflow AS o (reason, messages, bytes)
        SELECT 'erased', count(*), coalesce(sum(length(payload)), 0)
        FROM unnest(devices, payloads) AS i(device, payload) WHERE i.device = ANY (gone)
        ON CONFLICT (reason) DO UPDATE
            SET messages = o.messages + excluded.messages, bytes = o.bytes + excluded.bytes, last_at = now();
    END IF;
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
        WHERE i.device <> ALL (gone) AND (i.seq IS NULL OR NOT EXISTS (
            SELECT FROM rejected.message m WHERE (m.tenant, m.device, m.stream, m.boot, m.seq, m.reason)
                                               = (i.tenant, i.device, i.stream, i.boot, i.seq, i.reason)))
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
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA runtime, rejected FROM PUBLIC;
