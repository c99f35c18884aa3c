-- Raises unless the queue is there: a name that is absent does not cast.

SELECT
    'backbeat.tenants'::regclass, 'backbeat.pauses'::regclass, 'backbeat.simple_tasks_urgent'::regclass,
    'backbeat.ending'::regtype, 'backbeat.departure'::regtype, 'backbeat.workflows'::regclass, 'backbeat.estimates'::regclass,
    'backbeat.flows'::regclass, 'backbeat.virtual_time'::regclass, 'backbeat.simple_tasks'::regclass,
    'backbeat.finished_tasks'::regclass, 'backbeat.dead_letters'::regclass, 'backbeat.dead_letters_open'::regclass, 'backbeat.idempotency'::regclass,
    'backbeat.workers'::regclass, 'backbeat.ticks'::regclass, 'backbeat.switches'::regclass,
    'backbeat.leases'::regclass, 'backbeat.flow_rooms'::regclass, 'backbeat.tasks'::regclass, 'backbeat.simple_tasks_ready'::regclass,
    'backbeat.simple_tasks_alone'::regclass, 'backbeat.simple_tasks_pending'::regclass, 'backbeat.simple_tasks_delayed'::regclass, 'backbeat.simple_tasks_held'::regclass,
    'backbeat.simple_tasks_running'::regclass, 'backbeat.simple_tasks_expiring'::regclass;

SELECT
    'backbeat.class_weight'::regproc, 'backbeat.maintain_partitions'::regproc, 'backbeat.register_worker'::regproc,
    'backbeat.promote'::regproc, 'backbeat.sweep'::regproc,
    'backbeat.release_held'::regproc, 'backbeat.claim'::regproc, 'backbeat.turn'::regproc, 'backbeat.fan_out'::regproc,
    'backbeat.lock_flows'::regproc, 'backbeat.startable'::regproc, 'backbeat.claim_bulk'::regproc,
    'backbeat.heartbeat'::regproc, 'backbeat.leave_flows'::regproc, 'backbeat.end_tasks'::regproc,
    'backbeat.history_entry'::regproc, 'backbeat.cause_stands'::regproc, 'backbeat.finish'::regproc, 'backbeat.settle'::regproc,
    'backbeat.reap'::regproc, 'backbeat.start_tick'::regproc, 'backbeat.end_tick'::regproc;
