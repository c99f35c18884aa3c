-- The queue, as workers and producers see it. Every change of state is a function of migrations/postgres/0002_queue.sql.

-- name: enqueue
SELECT * FROM backbeat.enqueue(
    %(workflow)s, %(version)s, %(payloads)s::jsonb[], %(keys)s::bytea[], %(tenant)s, %(class)s,
    %(run_after)s, %(expires_at)s, %(source_at)s::timestamptz[], %(traceparent)s, %(origin)s, %(parent)s)

-- name: anything_to_do
SELECT EXISTS (SELECT FROM backbeat.simple_tasks WHERE status IN ('pending', 'ready', 'running'))
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE status IN ('delayed', 'held') AND run_after <= backbeat.now())
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE status = 'held' AND hold_reason = 'version')
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE expires_at <= backbeat.now()) AS work

-- name: register_definitions
SELECT backbeat.register_definitions(%(runtime)s, %(definitions)s::jsonb)

-- name: register_worker
SELECT backbeat.register_worker(%(worker)s, %(kind)s, %(definitions)s::jsonb) AS released

-- name: start_tick
SELECT backbeat.start_tick(%(worker)s) AS id

-- name: end_tick
SELECT backbeat.end_tick(%(id)s, %(claimed)s, %(settled)s)

-- name: maintain_partitions
SELECT backbeat.maintain_partitions() AS made

-- name: expired_leases
SELECT id, lease, tenant, workflow, version, tier, attempts, origin_id, traceparent, worker, started_at, created_at, backbeat.clock() AS seen_at
FROM backbeat.simple_tasks WHERE status = 'running' AND lease_until < backbeat.clock() ORDER BY id LIMIT %(limit)s

-- name: reap
SELECT task_id, lease, status FROM backbeat.reap(%(limit)s, %(leases)s::bigint[])

-- name: sweep
SELECT due, expired, promoted, unloaded FROM backbeat.sweep(%(limit)s)

-- name: claim
SELECT id, tenant, workflow, version, tier, class, payload, attempts, max_attempts, alone, lease, worker, started_at, origin_id, idempotency_key,
       traceparent, created_at, source_at
FROM backbeat.claim(%(worker)s, %(loaded)s::text[], %(limit)s, %(lease_seconds)s, %(idle)s)

-- name: heartbeat
SELECT id FROM backbeat.heartbeat(%(worker)s, %(ids)s::uuid[], %(leases)s::bigint[], %(lease_seconds)s) AS lost(id)

-- name: settle
SELECT task_id, accepted, status FROM backbeat.settle(%(rows)s::jsonb)

-- name: switches
SELECT name, reason FROM backbeat.switches
