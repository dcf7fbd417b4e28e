-- depends: 0002.trips-erasure
-- From where a vehicle's segmentation goes on (outrider.trips.Checkpoint, with a digest of the rules it holds for), and when
-- rows that change nothing a watcher sees are looked at.
ALTER TABLE trips.vehicle ADD COLUMN checkpoint jsonb;
ALTER TABLE trips.touched ADD COLUMN look_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX touched_look ON trips.touched (look_at);
