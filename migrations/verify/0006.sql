-- Raises unless producers' functions are there: a name that is absent does not cast.

SELECT
    'backbeat.canonical'::regproc, 'backbeat.idempotency_key'::regproc, 'backbeat.enqueue'::regproc, 'backbeat.need_tenant'::regproc,
    'backbeat.set_tenant'::regproc, 'backbeat.refuse_unknown_tenants'::regproc;

SELECT 'backbeat_producer'::regrole;
