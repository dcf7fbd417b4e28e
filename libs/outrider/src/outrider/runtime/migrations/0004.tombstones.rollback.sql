CREATE OR REPLACE FUNCTION rejected.keep(tenants text[], devices text[], streams text[], boots bigint[], seqs bigint[], reasons text[],
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
DROP FUNCTION rejected.erase_device, runtime.erase_rows, runtime.erased;
DROP TABLE runtime.tombstone, runtime.tombstone_version;
DROP FUNCTION runtime.tombstone_changed;
