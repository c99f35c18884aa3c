-- Raises unless the door of erasure is there.

SELECT 'backbeat.erase'::regproc;
