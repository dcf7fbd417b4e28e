DROP FUNCTION registry.erase_device, registry.erase_person, registry.is_registered, registry.acted;
DROP TRIGGER keep_erased_away ON registry.device;
DROP FUNCTION registry.keep_erased_away;
