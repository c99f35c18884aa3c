-- Raises unless hosts can tell of their spools, and the outbox and its doors are there.

SELECT 'backbeat.telemetry_hosts'::regclass, 'backbeat.telemetry_outbox'::regclass;

SELECT 'backbeat.tell_spool'::regproc, 'backbeat.put_spans'::regproc, 'backbeat.lease_spans'::regproc, 'backbeat.settle_spans'::regproc;
