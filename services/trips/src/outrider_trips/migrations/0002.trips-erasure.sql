-- Trips that an erased person merged or split stay so; who did it does not.
CREATE FUNCTION trips.erase_person(tenant_ text, name_ text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    rows_ bigint;
BEGIN
    UPDATE trips.edit SET
        actor = CASE WHEN actor = 'user:' || name_ OR starts_with(actor, 'token:' || name_ || '/') THEN 'erased' ELSE actor END,
        undone_by = CASE WHEN undone_by = 'user:' || name_ OR starts_with(undone_by, 'token:' || name_ || '/') THEN 'erased'
                         ELSE undone_by END
    WHERE tenant_ IN ('-', tenant)
      AND (actor = 'user:' || name_ OR starts_with(actor, 'token:' || name_ || '/')
           OR undone_by = 'user:' || name_ OR starts_with(undone_by, 'token:' || name_ || '/'));
    GET DIAGNOSTICS rows_ = ROW_COUNT;
    RETURN jsonb_build_object('edit', rows_);
END $$;
COMMENT ON FUNCTION trips.erase_person IS 'Removes a person''s name from edits of trips; {table: rows}.';
REVOKE ALL ON FUNCTION trips.erase_person FROM PUBLIC;
