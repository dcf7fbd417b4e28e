DROP FUNCTION trips.erase_person;
