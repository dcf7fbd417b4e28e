ALTER TABLE trips.touched DROP COLUMN look_at;
ALTER TABLE trips.vehicle DROP COLUMN checkpoint;
