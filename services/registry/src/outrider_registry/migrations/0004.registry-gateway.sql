-- What the HTTP gateway may ask: is this key or token good, whose is it. It gives the SHA-256 of what was sent to it and gets
-- no verifier, no hash and no list of anything back.
CREATE FUNCTION registry.check_token(hash_ bytea)
RETURNS TABLE (holder text, name text, tenant text, role text, scopes text[], refused text, valid_s double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
#variable_conflict use_column
BEGIN
    UPDATE registry.token k SET last_used_at = now()
    WHERE k.hash = hash_ AND k.expires_at > now() AND k.revoked_at IS NULL
      AND coalesce(k.last_used_at < now() - interval '1 minute', true);
    RETURN QUERY
    SELECT k.id::text, a.name, a.tenant, a.role, k.scopes,
           CASE WHEN a.disabled_at IS NOT NULL THEN 'The account of this token is disabled. Ask an administrator.'
                WHEN t.disabled_at IS NOT NULL THEN 'The tenant is disabled. Ask an administrator of the platform.' END,
           extract(epoch FROM k.expires_at - now())::double precision
    FROM registry.token k JOIN registry.account a ON a.id = k.account LEFT JOIN registry.tenant t ON t.name = a.tenant
    WHERE k.hash = hash_ AND k.expires_at > now() AND k.revoked_at IS NULL;
END $$;
COMMENT ON FUNCTION registry.check_token IS
    'Whose API token has this SHA-256; no row for one that is unknown, over or revoked. `refused` says why a good one is not taken.';

-- A secret works while it is active, while a successor is on its way and for the grace it was given, and the successor does too.
CREATE FUNCTION registry.check_device_key(device_ text, hash_ bytea)
RETURNS TABLE (holder text, tenant text, refused text, valid_s double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
#variable_conflict use_column
DECLARE
    salt bytea := uuid_send(gen_random_uuid());  -- how long a comparison takes tells nothing about what is stored
    found_ integer;
    until_ timestamptz;
BEGIN
    SELECT c.generation, c.grace_until INTO found_, until_ FROM registry.credential c
    WHERE c.device = device_ AND c.kind = 'secret' AND c.state IN ('active', 'delivered')
      AND (c.grace_until IS NULL OR c.grace_until > now())
      AND sha256(salt || c.verifier) = sha256(salt || hash_);
    IF found_ IS NULL THEN
        RETURN;
    END IF;
    UPDATE registry.credential c SET last_used_at = now()
    WHERE c.device = device_ AND c.generation = found_ AND coalesce(c.last_used_at < now() - interval '1 minute', true);
    RETURN QUERY
    SELECT d.id, d.tenant,
           CASE WHEN t.disabled_at IS NOT NULL THEN 'The tenant is disabled. Ask an administrator of the platform.'
                WHEN d.status = 'pending' THEN 'The device ' || d.id || ' waits for approval. Approve its claim first.'
                WHEN d.status <> 'active' THEN 'The device ' || d.id || ' is disabled. Enable it first.' END,
           extract(epoch FROM until_ - now())::double precision
    FROM registry.device d JOIN registry.tenant t ON t.name = d.tenant WHERE d.id = device_;
END $$;
COMMENT ON FUNCTION registry.check_device_key IS
    'Whether this is the SHA-256 of a secret of the device; no row where it is not. `refused` says why a right one is not taken.';

CREATE FUNCTION registry.check_device(device_ text)
RETURNS TABLE (tenant text, gateway text, refused text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
    SELECT d.tenant, d.gateway,
           CASE WHEN t.disabled_at IS NOT NULL THEN 'The tenant is disabled. Ask an administrator of the platform.'
                WHEN d.status = 'pending' THEN 'The device ' || d.id || ' waits for approval. Approve its claim first.'
                WHEN d.status <> 'active' THEN 'The device ' || d.id || ' is disabled. Enable it first.' END
    FROM registry.device d JOIN registry.tenant t ON t.name = d.tenant WHERE d.id = device_
$$;
COMMENT ON FUNCTION registry.check_device IS 'Whose a device is, and which device speaks for it.';

CREATE FUNCTION registry.tenant_enabled(name_ text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog SET outrider.tenant = '*' AS $$
    SELECT EXISTS (SELECT FROM registry.tenant t WHERE t.name = name_ AND t.disabled_at IS NULL)
$$;

-- Who remembers a token hears when it ends.
CREATE TRIGGER tell AFTER INSERT OR DELETE OR UPDATE OF scopes, expires_at, revoked_at ON registry.token
    FOR EACH ROW EXECUTE FUNCTION registry.tell('token', 'id');

REVOKE ALL ON FUNCTION registry.check_token, registry.check_device_key, registry.check_device, registry.tenant_enabled FROM PUBLIC;
