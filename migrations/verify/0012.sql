-- Raises unless messages and their doors are there.

SELECT 'backbeat.messages'::regclass;

SELECT 'backbeat.route_notification'::regproc, 'backbeat.lease_message'::regproc, 'backbeat.settle_message'::regproc;
