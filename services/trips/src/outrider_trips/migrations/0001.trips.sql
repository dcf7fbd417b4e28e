-- Trips: rows of evidence of motion per device and time, and what they are segmented into. A trip is a function of the set
-- of rows, so rows merge by greatest() in any order, and a window of event time can be segmented again at any time.
CREATE SCHEMA trips;

CREATE TABLE trips.vehicle (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL,
    device      text NOT NULL,
    moves       boolean NOT NULL DEFAULT false,    -- has ever sent a position, a speed, an odometer, ignition or gear
    first_at    timestamptz,                       -- oldest and newest row ever, in event time
    last_at     timestamptz,
    received_at timestamptz,                       -- when ingest received the newest message that changed a row
    slot        integer,                           -- through which slot its data comes
    state       text NOT NULL DEFAULT 'idle' CHECK (state IN ('idle', 'driving', 'paused')),
    since_at    timestamptz,                       -- of that state
    as_of_at    timestamptz,                       -- the clock's time at which it was segmented last
    due_at      timestamptz,                       -- when the clock alone changes something
    not_before  timestamptz NOT NULL DEFAULT '-infinity', -- pacing: segmented again not earlier
    window_from timestamptz,                       -- from where the window of the newest row was loaded
    frozen_rows bigint NOT NULL DEFAULT 0,         -- late rows of windows whose positions are gone
    segmented_at timestamptz,
    registered  boolean,                           -- NULL: the registry never knew it; false: it did, and does no more
    UNIQUE (tenant, device)
) WITH (fillfactor = 70);
CREATE INDEX vehicle_device ON trips.vehicle (device);
CREATE INDEX vehicle_due ON trips.vehicle (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE trips.vehicle IS 'Devices that sent what may be evidence of motion, and where their segmentation stands.';

DO $$ BEGIN PERFORM runtime.create_partitioned('trips.position',
    'vehicle integer NOT NULL, ts timestamptz NOT NULL, lat double precision, lon double precision, alt_m double precision,
     speed_kmh double precision, heading_deg double precision, accuracy_m double precision, hdop double precision,
     ignition boolean, gear text COLLATE "C", rpm double precision, odometer_km double precision,
     soc_pct double precision, fuel_pct double precision, PRIMARY KEY (vehicle, ts)'); END $$;
COMMENT ON TABLE trips.position IS 'Evidence of motion, one row per vehicle and millisecond; of two values for one place the greater one stays.';

-- Appended by the consumer in the transaction that stores the rows; taken by whoever segments the vehicle.
CREATE TABLE trips.touched (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vehicle     integer NOT NULL,
    from_at     timestamptz NOT NULL,              -- event time of the rows that changed
    to_at       timestamptz NOT NULL,
    rows        integer NOT NULL DEFAULT 0,
    frozen      integer NOT NULL DEFAULT 0,        -- of them, how many lie before the horizon
    moves       boolean NOT NULL DEFAULT false,
    received_at timestamptz,                       -- NULL: no data came, an operator or a profile touched it
    slot        integer,
    at          timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX touched_vehicle ON trips.touched (vehicle);

CREATE TABLE trips.progress (
    slot        integer PRIMARY KEY,
    received_at timestamptz NOT NULL               -- all that ingest received before it is stored
) WITH (fillfactor = 50);
COMMENT ON TABLE trips.progress IS 'How far each slot has come; the clock of its vehicles'' trips does not run ahead of it.';

-- ---------------------------------------------------------------- trips and what operators changed
CREATE TABLE trips.trip (
    id          uuid PRIMARY KEY,
    vehicle     integer NOT NULL REFERENCES trips.vehicle ON DELETE CASCADE,
    tenant      text NOT NULL,
    device      text NOT NULL,
    rev         integer NOT NULL DEFAULT 1,        -- one more whenever a final trip changed
    state       text NOT NULL CHECK (state IN ('driving', 'paused', 'final')),
    micro       boolean NOT NULL,                  -- too short to count
    edited      boolean NOT NULL,                  -- merged or split by an operator
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,              -- of an open trip: its newest sign of life
    start_lat   double precision,
    start_lon   double precision,
    end_lat     double precision,
    end_lon     double precision,
    distance_km double precision,                  -- the best of GPS, speed and odometer
    distance_uncertainty_km double precision,
    duration_s  double precision NOT NULL,
    moving_s    double precision,
    idle_s      double precision,
    stop_s      double precision,
    avg_speed_kmh double precision,
    max_speed_kmh double precision,
    start_reason text NOT NULL,
    end_reason  text,
    confidence  double precision NOT NULL,
    evidence    text NOT NULL,
    detail      jsonb NOT NULL,                    -- outrider.trips.to_json: track, stops, gaps, distances by source …
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (end_at >= start_at)
);
CREATE INDEX trip_vehicle ON trips.trip (vehicle, start_at DESC);
CREATE INDEX trip_tenant ON trips.trip (tenant, start_at DESC, id DESC);
CREATE INDEX trip_device ON trips.trip (tenant, device, start_at DESC, id DESC);
CREATE INDEX trip_open ON trips.trip (tenant) WHERE state <> 'final';

-- Anchored in event time, so that they hold when late data changes the trips around them.
CREATE TABLE trips.edit (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    vehicle   integer NOT NULL REFERENCES trips.vehicle ON DELETE CASCADE,
    tenant    text NOT NULL,
    device    text NOT NULL,
    kind      text NOT NULL CHECK (kind IN ('merge', 'split')),
    ids       uuid[] NOT NULL,                     -- the trips it was made on
    from_at   timestamptz NOT NULL,                -- merge: all trips that overlap it are one; split: where
    to_at     timestamptz NOT NULL,
    actor     text NOT NULL,
    made_at   timestamptz NOT NULL DEFAULT now(),
    undone_at timestamptz,
    undone_by text
);
CREATE INDEX edit_vehicle ON trips.edit (vehicle, from_at);
CREATE INDEX edit_tenant ON trips.edit (tenant, made_at DESC);

CREATE TABLE trips.profile (
    tenant     text NOT NULL DEFAULT '*',
    type       text NOT NULL DEFAULT '*',          -- type of device
    rules      jsonb NOT NULL CHECK (jsonb_typeof(rules) = 'object'),
    problem    text,                               -- why the service cannot use it; it goes by the next general one
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, type)
);
COMMENT ON TABLE trips.profile IS 'Rules that differ from the defaults; the specific one wins key by key (tenant and type, tenant, type, all).';
CREATE TABLE trips.rule (name text PRIMARY KEY);
COMMENT ON TABLE trips.rule IS 'Keys that a profile may have; written by the service when it starts.';

CREATE FUNCTION trips.check_profile() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    bad text;
BEGIN
    SELECT key INTO bad FROM jsonb_object_keys(NEW.rules) key
    WHERE key NOT IN (SELECT name FROM trips.rule) AND EXISTS (SELECT FROM trips.rule) LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE 'There is no rule %; known are %.', bad, (SELECT string_agg(name, ', ' ORDER BY name) FROM trips.rule);
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER check_profile BEFORE INSERT OR UPDATE OF rules ON trips.profile
    FOR EACH ROW EXECUTE FUNCTION trips.check_profile();

-- ---------------------------------------------------------------- what leaves: retained topics and events
CREATE TABLE trips.retained (
    tenant    text NOT NULL,
    device    text NOT NULL,
    payload   text,                                -- NULL: the topic is to be cleared
    wanted    bigint NOT NULL DEFAULT 1,
    published bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, device)
) WITH (fillfactor = 60);
CREATE INDEX retained_unpublished ON trips.retained (tenant, device) WHERE wanted <> published;
COMMENT ON TABLE trips.retained IS 'What fleet/v1/{tenant}/{device}/trip is to hold, and whether the broker has it.';

CREATE TABLE trips.outbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant  text NOT NULL,
    device  text NOT NULL,
    topic   text NOT NULL,
    payload text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- ---------------------------------------------------------------- one tenant at a time
CREATE FUNCTION trips.sees(tenant_ text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT current_setting('outrider.tenant', true) IN ('*', tenant_) $$;

CREATE VIEW trips.tenant_trip WITH (security_barrier) AS
SELECT id, tenant, device, rev, state, micro, edited, start_at, end_at, start_lat, start_lon, end_lat, end_lon, distance_km,
       distance_uncertainty_km, duration_s, moving_s, idle_s, stop_s, avg_speed_kmh, max_speed_kmh, start_reason, end_reason,
       confidence, evidence, created_at, updated_at, detail
FROM trips.trip WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE VIEW trips.tenant_position WITH (security_barrier) AS
SELECT v.tenant, v.device, p.ts, p.lat, p.lon, p.alt_m, p.speed_kmh, p.heading_deg, p.accuracy_m, p.hdop, p.ignition,
       p.gear, p.rpm, p.odometer_km, p.soc_pct, p.fuel_pct
FROM trips.vehicle v JOIN trips.position p ON p.vehicle = v.id
WHERE current_setting('outrider.tenant', true) IN ('*', v.tenant);

CREATE VIEW trips.tenant_vehicle WITH (security_barrier) AS
SELECT tenant, device, state, since_at, first_at, last_at, frozen_rows, segmented_at
FROM trips.vehicle WHERE moves AND current_setting('outrider.tenant', true) IN ('*', tenant);
COMMENT ON VIEW trips.tenant_vehicle IS 'Devices that move: idle, driving or paused, and since when.';

CREATE VIEW trips.tenant_edit WITH (security_barrier) AS
SELECT id, tenant, device, kind, ids, CASE kind WHEN 'split' THEN from_at END AS at, actor, made_at, undone_at, undone_by
FROM trips.edit WHERE current_setting('outrider.tenant', true) IN ('*', tenant);

CREATE VIEW trips.tenant_profile WITH (security_barrier) AS
SELECT tenant, type, rules, problem, updated_at FROM trips.profile
WHERE current_setting('outrider.tenant', true) IN ('*', tenant)
   OR tenant = '*' AND current_setting('outrider.tenant', true) <> '';

-- What a transaction that appends rows or segments holds shared, and one that erases a device holds alone.
CREATE FUNCTION trips.lock(alone boolean) RETURNS void
LANGUAGE sql AS $$
    SELECT CASE WHEN alone THEN pg_advisory_xact_lock(7305441) ELSE pg_advisory_xact_lock_shared(7305441) END
$$;

-- ---------------------------------------------------------------- edits by operators; the service applies them
CREATE FUNCTION trips.touch_edit(edit_ trips.edit) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    horizon timestamptz := runtime.horizon_of('trips.position', edit_.tenant);
BEGIN
    IF edit_.from_at < horizon THEN
        RAISE 'Positions before % are gone: trips that old cannot be changed any more.', horizon;
    END IF;
    INSERT INTO trips.touched (vehicle, from_at, to_at) VALUES (edit_.vehicle, edit_.from_at, edit_.to_at);
END $$;

CREATE FUNCTION trips.tenant_edit_merge(ids_ uuid[], actor_ text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    found record;
    made trips.edit;
BEGIN
    SELECT count(*) AS trips, count(DISTINCT vehicle) AS vehicles, min(vehicle) AS vehicle, min(tenant) AS tenant,
           min(device) AS device, min(start_at) AS from_at, max(end_at) AS to_at INTO found
    FROM trips.trip WHERE id = ANY (ids_) AND trips.sees(tenant);
    IF found.trips < (SELECT count(DISTINCT i) FROM unnest(ids_) i) THEN
        RAISE 'Not all of these trips exist. Late data may have changed them: list the trips again.';
    END IF;
    IF found.trips < 2 OR found.vehicles > 1 THEN
        RAISE 'Only two or more trips of one device can be merged.';
    END IF;
    INSERT INTO trips.edit (vehicle, tenant, device, kind, ids, from_at, to_at, actor)
    VALUES (found.vehicle, found.tenant, found.device, 'merge', ids_, found.from_at, found.to_at, actor_)
    RETURNING * INTO made;
    PERFORM trips.touch_edit(made);
    RETURN made.id;
END $$;
COMMENT ON FUNCTION trips.tenant_edit_merge IS 'Says that trips of one device, and what lies between them, are one; the id of the edit.';

CREATE FUNCTION trips.tenant_edit_split(id_ uuid, at_ timestamptz, actor_ text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    found trips.trip;
    made trips.edit;
BEGIN
    SELECT * INTO found FROM trips.trip WHERE id = id_ AND trips.sees(tenant);
    IF found.id IS NULL THEN
        RAISE 'There is no trip %. Late data may have changed it: list the trips again.', id_;
    END IF;
    IF at_ <= found.start_at OR at_ >= found.end_at THEN
        RAISE 'The trip lasts from % to %: the place to split it lies between.', found.start_at, found.end_at;
    END IF;
    INSERT INTO trips.edit (vehicle, tenant, device, kind, ids, from_at, to_at, actor)
    VALUES (found.vehicle, found.tenant, found.device, 'split', ARRAY[id_], at_, at_, actor_) RETURNING * INTO made;
    PERFORM trips.touch_edit(made);
    RETURN made.id;
END $$;
COMMENT ON FUNCTION trips.tenant_edit_split IS 'Says that a trip is two, from this moment on; the id of the edit.';

CREATE FUNCTION trips.tenant_edit_undo(edit_ uuid, actor_ text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    undone trips.edit;
BEGIN
    UPDATE trips.edit SET undone_at = now(), undone_by = actor_
    WHERE id = edit_ AND undone_at IS NULL AND trips.sees(tenant) RETURNING * INTO undone;
    IF undone.id IS NULL THEN
        RAISE 'There is no edit %, or it was taken back already.', edit_;
    END IF;
    PERFORM trips.touch_edit(undone);
END $$;
COMMENT ON FUNCTION trips.tenant_edit_undo IS 'Takes a merge or split back.';

CREATE FUNCTION trips.tenant_put_profile(type_ text, rules_ jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO trips.profile (tenant, type, rules) VALUES (nullif(current_setting('outrider.tenant'), ''), type_, rules_)
    ON CONFLICT (tenant, type) DO UPDATE SET rules = excluded.rules, problem = NULL
$$;
COMMENT ON FUNCTION trips.tenant_put_profile IS 'Sets the rules of this transaction''s tenant for a type of device (*: all). Holds for windows that are touched from now on.';

CREATE FUNCTION trips.tenant_drop_profile(type_ text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM trips.profile WHERE (tenant, type) = (current_setting('outrider.tenant'), type_)
$$;

CREATE FUNCTION trips.tenant_resegment(device_ text, from_ timestamptz, to_ timestamptz) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH asked AS (
        INSERT INTO trips.touched (vehicle, from_at, to_at)
        SELECT id, greatest(from_, first_at, runtime.horizon_of('trips.position', tenant)), least(to_, last_at) FROM trips.vehicle
        WHERE device = device_ AND trips.sees(tenant) AND moves
          AND greatest(from_, first_at, runtime.horizon_of('trips.position', tenant)) <= least(to_, last_at)
        RETURNING 1
    )
    SELECT count(*) FROM asked
$$;
COMMENT ON FUNCTION trips.tenant_resegment IS 'Has a device''s trips of this time segmented again, say by changed rules.';

-- ---------------------------------------------------------------- erase
CREATE FUNCTION trips.erase_device(tenant_ text, device_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    vehicle_ integer;
    counts jsonb := '{}';
    rows_ bigint;
BEGIN
    PERFORM trips.lock(true);
    SELECT id INTO vehicle_ FROM trips.vehicle WHERE (tenant, device) = (tenant_, device_);
    DELETE FROM trips.position WHERE vehicle = vehicle_;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('position', rows_);
    DELETE FROM trips.trip WHERE vehicle = vehicle_;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('trip', rows_);
    DELETE FROM trips.edit WHERE vehicle = vehicle_;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    counts := counts || jsonb_build_object('edit', rows_);
    DELETE FROM trips.touched WHERE vehicle = vehicle_;
    DELETE FROM trips.outbox WHERE (tenant, device) = (tenant_, device_);
    DELETE FROM trips.vehicle WHERE id = vehicle_;
    -- The service empties the topic at the broker, and then removes the row.
    UPDATE trips.retained SET payload = NULL, wanted = wanted + 1
    WHERE (tenant, device) = (tenant_, device_) AND payload IS NOT NULL;
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    RETURN counts || jsonb_build_object('retained', rows_);
END $$;
COMMENT ON FUNCTION trips.erase_device IS 'Removes all of a device, and has its retained topic emptied; {table: rows}.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA trips FROM PUBLIC;
