-- The registry: who a device is, what it may do, how it is configured. Every table is behind forced row-level security:
-- a transaction sees the tenant it names with SET LOCAL outrider.tenant, '*' for the whole platform, and nothing without.
CREATE SCHEMA registry;

CREATE FUNCTION registry.sees(tenant_ text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT current_setting('outrider.tenant', true) IN ('*', tenant_) $$;
COMMENT ON FUNCTION registry.sees IS 'True for rows of the tenant of this transaction; false or NULL, so no row, where none is set.';

CREATE FUNCTION registry.protect(table_ regclass, column_ text DEFAULT 'tenant') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', table_);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', table_);
    EXECUTE format('CREATE POLICY of_tenant ON %s USING (registry.sees(%I)) WITH CHECK (registry.sees(%I))',
                   table_, column_, column_);
END $$;

-- ---------------------------------------------------------------- tenants and people
CREATE TABLE registry.tenant (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    title      text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    version    bigint NOT NULL DEFAULT 1
);
DO $$ BEGIN PERFORM registry.protect('registry.tenant', 'name'); END $$;

CREATE TABLE registry.account (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant         text REFERENCES registry.tenant,           -- NULL: administrates the platform
    name           text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._@+-]{0,126}$'),
    role           text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    password_hash  text,                                      -- argon2id; NULL: cannot sign in with a password yet
    totp_generation integer NOT NULL DEFAULT 0,               -- the secret is derived from it
    totp_key_id    text,                                      -- and from this master key
    totp_confirmed_at timestamptz,                            -- NULL: no second factor
    totp_last_step bigint NOT NULL DEFAULT 0,                 -- a code is good once
    mqtt_generation integer NOT NULL DEFAULT 0,               -- 0: no login at the broker; the password is derived from it
    mqtt_key_id    text,                                      -- and from this master key
    mqtt_issued    integer NOT NULL DEFAULT 0,                -- highest generation ever: a password that ended never comes back
    created_at     timestamptz NOT NULL DEFAULT now(),
    password_changed_at timestamptz,
    disabled_at    timestamptz,
    version        bigint NOT NULL DEFAULT 1,
    UNIQUE (name),
    CHECK (tenant IS NOT NULL OR role = 'admin')
);
DO $$ BEGIN PERFORM registry.protect('registry.account'); END $$;

CREATE TABLE registry.token (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account    uuid NOT NULL REFERENCES registry.account ON DELETE CASCADE,
    tenant     text REFERENCES registry.tenant,
    name       text NOT NULL,
    hash       bytea NOT NULL UNIQUE,                         -- SHA-256 of the random token
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz
);
DO $$ BEGIN PERFORM registry.protect('registry.token'); END $$;

CREATE TABLE registry.session (
    hash       bytea PRIMARY KEY,                             -- SHA-256 of the cookie
    account    uuid NOT NULL REFERENCES registry.account ON DELETE CASCADE,
    tenant     text REFERENCES registry.tenant,
    acting_in  text REFERENCES registry.tenant ON DELETE SET NULL, -- the tenant a platform administrator looks at
    by_link    boolean NOT NULL DEFAULT false,                -- begun with a one-time link: may set a password without the old one
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    address    text NOT NULL DEFAULT ''
);
DO $$ BEGIN PERFORM registry.protect('registry.session'); END $$;

CREATE TABLE registry.sign_in_link (
    hash       bytea PRIMARY KEY,
    account    uuid NOT NULL REFERENCES registry.account ON DELETE CASCADE,
    tenant     text REFERENCES registry.tenant,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
DO $$ BEGIN PERFORM registry.protect('registry.sign_in_link'); END $$;

CREATE TABLE registry.attempt (
    key text NOT NULL,                                        -- what is limited: 'name:…', 'address:…', 'claim:…'
    at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX attempt_key_at ON registry.attempt (key, at);
COMMENT ON TABLE registry.attempt IS 'Failed attempts of the last minutes, for rate limits that hold over all replicas. Holds no secret and no tenant.';

-- ---------------------------------------------------------------- devices
CREATE TABLE registry.device (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    tenant     text NOT NULL REFERENCES registry.tenant,
    name       text NOT NULL DEFAULT '',
    type       text NOT NULL DEFAULT '',                      -- van, truck, gateway, sensor …
    tier       text NOT NULL DEFAULT '',                      -- esp32, pi, phone, obd …
    tags       text[] NOT NULL DEFAULT '{}',
    latitude   double precision CHECK (latitude BETWEEN -90 AND 90),       -- of a device that stands still; positions of moving ones are telemetry
    longitude  double precision CHECK (longitude BETWEEN -180 AND 180),
    location   text NOT NULL DEFAULT '',
    firmware   text NOT NULL DEFAULT '',
    hardware   text NOT NULL DEFAULT '',
    serial     text,
    owner      text NOT NULL DEFAULT '',
    gateway    text REFERENCES registry.device,               -- the device that publishes for this one
    status     text NOT NULL DEFAULT 'active' CHECK (status IN ('pending', 'active', 'disabled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version    bigint NOT NULL DEFAULT 1,
    CHECK (gateway <> id)
);
CREATE INDEX device_tenant ON registry.device (tenant, id);
CREATE INDEX device_tags ON registry.device USING gin (tags);
CREATE INDEX device_gateway ON registry.device (gateway) WHERE gateway IS NOT NULL;
DO $$ BEGIN PERFORM registry.protect('registry.device'); END $$;

CREATE TABLE registry.metric (
    tenant      text NOT NULL REFERENCES registry.tenant,
    name        text NOT NULL CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'),
    kind        text NOT NULL DEFAULT 'number' CHECK (kind IN ('number', 'boolean', 'string', 'json')),
    unit        text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    version     bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant, name)
);
DO $$ BEGIN PERFORM registry.protect('registry.metric'); END $$;

CREATE TABLE registry.credential (
    device     text NOT NULL REFERENCES registry.device ON DELETE CASCADE,
    generation integer NOT NULL CHECK (generation > 0),
    tenant     text NOT NULL REFERENCES registry.tenant,
    kind       text NOT NULL CHECK (kind IN ('secret', 'certificate')),
    state      text NOT NULL CHECK (state IN ('delivered', 'active', 'replaced', 'revoked', 'expired')),
    -- delivered: the device has been sent it and has not confirmed; active: the broker takes it; the rest is history
    key_id     text NOT NULL,                                 -- which master key it is derived from
    verifier   bytea NOT NULL,                                -- SHA-256 of the secret, or of the certificate
    serial     text,                                          -- certificate's serial number, hex
    certificate text,                                         -- the certificate itself, PEM
    expires_at timestamptz,                                   -- certificate's end; a secret has none
    issued_at  timestamptz NOT NULL DEFAULT now(),
    rotates_at timestamptz NOT NULL,                          -- a secret gets a successor then; a certificate should be renewed
    grace_until timestamptz,                                  -- while a successor is delivered: until when this one still works
    delivered_at timestamptz,                                 -- when the broker last took it for the device
    confirmed_at timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (device, generation)
);
CREATE UNIQUE INDEX credential_active ON registry.credential (device, kind) WHERE state = 'active';
CREATE UNIQUE INDEX credential_delivered ON registry.credential (device, kind) WHERE state = 'delivered';
CREATE INDEX credential_rotates ON registry.credential (rotates_at) WHERE state = 'active';
CREATE INDEX credential_grace ON registry.credential (grace_until) WHERE state = 'active' AND grace_until IS NOT NULL;
DO $$ BEGIN PERFORM registry.protect('registry.credential'); END $$;

-- Secrets are derived from device and generation: a device that is erased and made again must not get its old ones.
CREATE TABLE registry.past_generation (
    device     text PRIMARY KEY,
    generation integer NOT NULL
);
CREATE FUNCTION registry.remember_generation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO registry.past_generation VALUES (OLD.device, OLD.generation)
    ON CONFLICT (device) DO UPDATE SET generation = greatest(past_generation.generation, EXCLUDED.generation);
    IF OLD.kind = 'certificate' AND OLD.expires_at > now() THEN  -- nor does its certificate work any more
        INSERT INTO registry.revoked_certificate (serial, tenant, device, expires_at)
        VALUES (OLD.serial, OLD.tenant, OLD.device, OLD.expires_at) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER DELETE ON registry.credential
    FOR EACH ROW EXECUTE FUNCTION registry.remember_generation();
CREATE FUNCTION registry.next_generation(device_ text) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT 1 + greatest(coalesce((SELECT max(generation) FROM registry.credential WHERE device = device_), 0),
                        coalesce((SELECT generation FROM registry.past_generation WHERE device = device_), 0))
$$;
COMMENT ON FUNCTION registry.next_generation IS 'A number no credential of this device id ever had. Lock the device row first.';

CREATE TABLE registry.claim (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9]{6,32}$'),
    tenant     text NOT NULL REFERENCES registry.tenant,
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'awaiting_approval', 'used', 'refused', 'revoked', 'expired')),
    key_id     text NOT NULL,                                 -- the token is derived: purpose claim, this id
    device     text,                                          -- the id the device gets; NULL: it asks for one, or gets a random one
    serial     text,                                          -- only a device with this serial number may use it
    template   jsonb NOT NULL DEFAULT '{}',                   -- type, tier, tags … of the device
    approval   boolean NOT NULL DEFAULT false,
    request    jsonb,                                         -- what the device sent first
    request_digest bytea,                                     -- tells a retry of the same device from another one
    used_by    text REFERENCES registry.device ON DELETE SET NULL,  -- the device it became, or will be once approved
    generation integer,                                       -- the credential it got
    client_until timestamptz,                                 -- see the comment on this column
    reply_due  boolean NOT NULL DEFAULT false,                -- somebody decided: the waiting device is told once more
    decided_by text NOT NULL DEFAULT '',
    refusals   integer NOT NULL DEFAULT 0,                    -- requests refused, as far as they are audited
    created_by text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
COMMENT ON COLUMN registry.claim.client_until IS
    'The broker has a client claim:ID while state IN (open, awaiting_approval) AND now() < expires_at, or now() < client_until:
a device whose reply got lost asks again, until it was seen online with its credential.';
CREATE INDEX claim_open ON registry.claim (expires_at) WHERE state IN ('open', 'awaiting_approval');
CREATE INDEX claim_client ON registry.claim (client_until) WHERE client_until IS NOT NULL;
CREATE INDEX claim_used_by ON registry.claim (used_by) WHERE used_by IS NOT NULL;
CREATE INDEX claim_reply ON registry.claim (id) WHERE reply_due;
DO $$ BEGIN PERFORM registry.protect('registry.claim'); END $$;

CREATE TABLE registry.revoked_certificate (
    serial     text PRIMARY KEY,
    tenant     text NOT NULL REFERENCES registry.tenant,
    device     text NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
DO $$ BEGIN PERFORM registry.protect('registry.revoked_certificate'); END $$;

-- ---------------------------------------------------------------- configuration, shadow, commands
CREATE TABLE registry.configuration_key (
    tenant      text NOT NULL REFERENCES registry.tenant,
    key         text NOT NULL CHECK (key ~ '^[a-z][a-z0-9_]{0,62}$'),
    type        text NOT NULL CHECK (type IN ('integer', 'number', 'boolean', 'string', 'json')),
    minimum     double precision,
    maximum     double precision,
    choices     jsonb,                                        -- array of the only values allowed
    unit        text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    version     bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant, key)
);
DO $$ BEGIN PERFORM registry.protect('registry.configuration_key'); END $$;

CREATE TABLE registry.configuration (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant     text NOT NULL REFERENCES registry.tenant,
    name       text NOT NULL,
    applies_to text NOT NULL CHECK (applies_to IN ('all', 'type', 'tier', 'tag')),
    selector   text NOT NULL DEFAULT '',                      -- the type, tier or tag
    priority   integer NOT NULL DEFAULT 0,                    -- higher ones win; then tag over tier over type over all; then name
    state      jsonb NOT NULL,
    version    bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name)
);
DO $$ BEGIN PERFORM registry.protect('registry.configuration'); END $$;

CREATE TABLE registry.shadow (
    device           text PRIMARY KEY REFERENCES registry.device ON DELETE CASCADE,
    tenant           text NOT NULL REFERENCES registry.tenant,
    overrides        jsonb NOT NULL DEFAULT '{}',             -- this device's own wishes; they win over every configuration
    desired          jsonb NOT NULL DEFAULT '{}',             -- configurations merged, overrides on top: what is published
    desired_version  bigint NOT NULL DEFAULT 0,
    desired_at       timestamptz,
    reported         jsonb NOT NULL DEFAULT '{}',
    reported_stamps  jsonb NOT NULL DEFAULT '{}',             -- reported with the version each part of it came with
    reported_version bigint NOT NULL DEFAULT 0,               -- the highest one the device ever named
    reported_at      timestamptz,
    published_version bigint NOT NULL DEFAULT 0               -- newest version the broker has acknowledged
);
CREATE INDEX shadow_unpublished ON registry.shadow (device) WHERE published_version <> desired_version;
DO $$ BEGIN PERFORM registry.protect('registry.shadow'); END $$;

CREATE TABLE registry.command (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant     text NOT NULL REFERENCES registry.tenant,
    device     text NOT NULL REFERENCES registry.device ON DELETE CASCADE,
    name       text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    params     jsonb NOT NULL DEFAULT '{}',
    state      text NOT NULL DEFAULT 'queued' CHECK (state IN
                 ('queued', 'sent', 'accepted', 'running', 'succeeded', 'failed', 'rejected', 'expired', 'timed_out', 'canceled')),
    result     jsonb,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,                          -- not started by then: expired
    timeout_s  integer NOT NULL DEFAULT 300,                  -- not finished so long after it was accepted: timed out
    tried_at   timestamptz,                                   -- last time it was published
    sent_at    timestamptz,                                   -- first time the broker had a subscriber for it
    accepted_at timestamptz,
    finished_at timestamptz,
    CHECK ((finished_at IS NULL) = (state IN ('queued', 'sent', 'accepted', 'running')))
);
CREATE INDEX command_device ON registry.command (device, created_at DESC);
CREATE INDEX command_tenant ON registry.command (tenant, created_at DESC);
CREATE INDEX command_open ON registry.command (created_at) WHERE finished_at IS NULL;
DO $$ BEGIN PERFORM registry.protect('registry.command'); END $$;

CREATE TABLE registry.emergency_stop (
    tenant     text PRIMARY KEY,                              -- '*': the whole platform
    reason     text NOT NULL,
    stopped_by text NOT NULL,
    stopped_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE registry.emergency_stop ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.emergency_stop FORCE ROW LEVEL SECURITY;
CREATE POLICY read ON registry.emergency_stop FOR SELECT USING (tenant = '*' OR registry.sees(tenant));
CREATE POLICY change ON registry.emergency_stop USING (registry.sees(tenant)) WITH CHECK (registry.sees(tenant));
COMMENT ON TABLE registry.emergency_stop IS 'While a row stands here, no command and no update of that tenant starts.';

-- ---------------------------------------------------------------- presence
CREATE TABLE registry.presence (
    device     text PRIMARY KEY REFERENCES registry.device ON DELETE CASCADE,
    tenant     text NOT NULL REFERENCES registry.tenant,
    state      text NOT NULL DEFAULT 'unknown' CHECK (state IN ('online', 'offline', 'unknown')),
    since      timestamptz NOT NULL DEFAULT now(),
    reason     text NOT NULL DEFAULT '',                      -- will, data, kicked, disabled, silent …
    status_at  timestamptz,                                   -- the device's own status message, receive time
    seen_at    timestamptz,                                   -- anything from the device
    status_digest bytea,                                      -- of that message: tells a retained one that came before
    boot       bigint,
    boots      integer NOT NULL DEFAULT 0,                    -- distinct boots seen
    recent_boots bigint[] NOT NULL DEFAULT '{}',              -- the last of them: a message that comes again counts no boot
    firmware   text NOT NULL DEFAULT '',
    tier       text NOT NULL DEFAULT ''
);
CREATE INDEX presence_tenant ON registry.presence (tenant, state);
DO $$ BEGIN PERFORM registry.protect('registry.presence'); END $$;

CREATE TABLE registry.presence_event (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    device text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now(),
    state  text NOT NULL,
    reason text NOT NULL DEFAULT ''
);
CREATE INDEX presence_event_device ON registry.presence_event (device, at DESC);
CREATE INDEX presence_event_at ON registry.presence_event (at);
DO $$ BEGIN PERFORM registry.protect('registry.presence_event'); END $$;

-- ---------------------------------------------------------------- console
CREATE TABLE registry.chart (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant     text NOT NULL REFERENCES registry.tenant,
    owner      uuid REFERENCES registry.account ON DELETE SET NULL,
    name       text NOT NULL,
    shared     boolean NOT NULL DEFAULT false,
    definition jsonb NOT NULL,                                -- devices, metrics, range, aggregation, appearance
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version    bigint NOT NULL DEFAULT 1
);
DO $$ BEGIN PERFORM registry.protect('registry.chart'); END $$;

-- ---------------------------------------------------------------- safe retries of POST
CREATE TABLE registry.idempotency (
    principal  text NOT NULL,
    key        text NOT NULL,
    tenant     text,
    request    bytea NOT NULL,                                -- SHA-256 of method, path and body
    status     integer,                                       -- NULL: the first try is still at work
    headers    jsonb NOT NULL DEFAULT '{}',
    body       bytea,                                         -- encrypted: an answer may hold a new secret
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key)
);
CREATE INDEX idempotency_created ON registry.idempotency (created_at);
DO $$ BEGIN PERFORM registry.protect('registry.idempotency'); END $$;

-- ---------------------------------------------------------------- audit: append-only, one hash chain per tenant
CREATE TABLE registry.audit (
    tenant   text NOT NULL,                                   -- '-' for the platform itself
    number   bigint NOT NULL,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,                                   -- user:NAME, token:NAME/ID, device:ID, registry
    action   text NOT NULL,                                   -- device.create, shadow.change, position.read …
    object   text NOT NULL,                                   -- device:ID, user:NAME …
    detail   jsonb NOT NULL,
    address  text NOT NULL,
    previous bytea NOT NULL,
    hash     bytea NOT NULL,
    PRIMARY KEY (tenant, number)
);
CREATE INDEX audit_object ON registry.audit (tenant, object, number DESC);
CREATE INDEX audit_at ON registry.audit (at);
ALTER TABLE registry.audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.audit FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON registry.audit FOR SELECT USING (registry.sees(tenant));
CREATE POLICY append ON registry.audit FOR INSERT WITH CHECK (true); -- by the owner, in audit_append: nobody else may insert

CREATE TABLE registry.audit_head (
    tenant text PRIMARY KEY,
    number bigint NOT NULL,
    hash   bytea NOT NULL
);
-- Not forced: audit_append, which runs as the owner, keeps the heads of all.
ALTER TABLE registry.audit_head ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON registry.audit_head FOR SELECT USING (registry.sees(tenant));

-- What the hash covers: every column, in one canonical text. jsonb prints its keys in one order.
CREATE FUNCTION registry.audit_hash(previous_ bytea, tenant_ text, number_ bigint, at_ timestamptz, actor_ text, action_ text,
                                    object_ text, detail_ jsonb, address_ text) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(previous_ || convert_to(jsonb_build_array(
        tenant_, number_, (extract(epoch FROM at_) * 1000000)::bigint, actor_, action_, object_, detail_, address_)::text, 'UTF8'))
$$;

-- The only way in. Serialises the writers of one tenant until they commit, so that the chain has no fork and no gap.
CREATE FUNCTION registry.audit_append(tenant_ text, actor_ text, action_ text, object_ text, detail_ jsonb, address_ text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    head registry.audit_head;
    at_ timestamptz := clock_timestamp();
BEGIN
    IF NOT coalesce(registry.sees(tenant_), false) AND NOT (tenant_ = '-' AND coalesce(current_setting('outrider.tenant', true), '') <> '') THEN
        RAISE insufficient_privilege USING MESSAGE = 'audit of another tenant';
    END IF;
    INSERT INTO registry.audit_head VALUES (tenant_, 0, '') ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM registry.audit_head WHERE tenant = tenant_ FOR UPDATE;
    head.number := head.number + 1;
    INSERT INTO registry.audit (tenant, number, at, actor, action, object, detail, address, previous, hash)
    VALUES (tenant_, head.number, at_, actor_, action_, object_, detail_, address_, head.hash,
            registry.audit_hash(head.hash, tenant_, head.number, at_, actor_, action_, object_, detail_, address_))
    RETURNING hash INTO head.hash;
    UPDATE registry.audit_head SET number = head.number, hash = head.hash WHERE tenant = tenant_;
    RETURN head.number;
END $$;

CREATE FUNCTION registry.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE = 'the audit is append-only';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON registry.audit
    FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_change();

-- ---------------------------------------------------------------- who is told of a change: NOTIFY outrider_registry, 'kind:id'
CREATE FUNCTION registry.tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
BEGIN
    PERFORM pg_notify('outrider_registry', TG_ARGV[0] || ':' || (changed ->> TG_ARGV[1]));
    -- moving a device to another gateway changes what both gateways may do
    IF TG_TABLE_NAME = 'device' THEN
        IF TG_OP <> 'INSERT' AND OLD.gateway IS NOT NULL THEN PERFORM pg_notify('outrider_registry', 'device:' || OLD.gateway); END IF;
        IF TG_OP <> 'DELETE' AND NEW.gateway IS NOT NULL THEN PERFORM pg_notify('outrider_registry', 'device:' || NEW.gateway); END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON registry.device
    FOR EACH ROW EXECUTE FUNCTION registry.tell('device', 'id');
CREATE TRIGGER tell AFTER INSERT OR DELETE OR UPDATE OF state ON registry.credential
    FOR EACH ROW EXECUTE FUNCTION registry.tell('device', 'device');
CREATE TRIGGER tell AFTER INSERT OR DELETE OR UPDATE OF state, client_until, reply_due ON registry.claim
    FOR EACH ROW EXECUTE FUNCTION registry.tell('claim', 'id');
CREATE TRIGGER tell AFTER INSERT OR DELETE ON registry.revoked_certificate
    FOR EACH ROW EXECUTE FUNCTION registry.tell('revocation', 'serial');
CREATE TRIGGER tell AFTER INSERT OR DELETE OR UPDATE OF mqtt_generation, mqtt_key_id, disabled_at, tenant, role ON registry.account
    FOR EACH ROW EXECUTE FUNCTION registry.tell('account', 'id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON registry.tenant
    FOR EACH ROW EXECUTE FUNCTION registry.tell('tenant', 'name');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OF state ON registry.command
    FOR EACH ROW EXECUTE FUNCTION registry.tell('command', 'id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OF desired_version, reported ON registry.shadow
    FOR EACH ROW EXECUTE FUNCTION registry.tell('shadow', 'device');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OF state ON registry.presence
    FOR EACH ROW EXECUTE FUNCTION registry.tell('presence', 'device');
CREATE TRIGGER tell AFTER INSERT OR DELETE ON registry.emergency_stop
    FOR EACH ROW EXECUTE FUNCTION registry.tell('stop', 'tenant');

-- What ingest may know of devices: whose they are and whether they may speak. Owned by the administrator, so RLS does not hide it.
CREATE VIEW registry.directory AS
SELECT d.id AS device, d.tenant, d.status = 'active' AND t.disabled_at IS NULL AS enabled
FROM registry.device d JOIN registry.tenant t ON t.name = d.tenant;
COMMENT ON VIEW registry.directory IS 'Of every device its tenant, and whether its messages are accepted.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA registry FROM PUBLIC;
