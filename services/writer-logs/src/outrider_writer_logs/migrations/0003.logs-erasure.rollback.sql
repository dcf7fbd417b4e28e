DROP FUNCTION logs.erase_device;
