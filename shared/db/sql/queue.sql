-- The queue, as workers and producers see it. Every change of state is a function of migrations/postgres/0002_queue.sql.

-- name: ready_tiers
SELECT DISTINCT tier FROM backbeat.flows WHERE ready > 0

-- name: anything_to_do
SELECT EXISTS (SELECT FROM backbeat.simple_tasks WHERE status = 'ready')
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE status = 'running' AND lease_until < backbeat.clock())
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE status IN ('delayed', 'held') AND run_after <= backbeat.now())
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE status = 'held' AND hold_reason = 'version')
    -- In the index' order, or a burst that nobody has analysed yet would be read whole.
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE expires_at <= backbeat.now() AND status <> 'running' ORDER BY expires_at LIMIT 1 OFFSET 0)
    OR EXISTS (SELECT FROM backbeat.schedules WHERE next_at <= backbeat.now() AND NOT paused)
    OR EXISTS (SELECT FROM backbeat.llm_batches WHERE next_at <= backbeat.clock() AND status NOT IN ('ended', 'lost'))
    OR EXISTS (SELECT FROM backbeat.model_calls WHERE batch = '' AND status = 'open' AND opened_at <= backbeat.clock() - interval '1 minute')
    -- Pending rows alone are no work: their tenant may be paused, or at its cap.
    OR EXISTS (SELECT FROM backbeat.simple_tasks WHERE status = 'pending') AND EXISTS (
        SELECT FROM backbeat.flow_rooms f
        WHERE f.room > 0 AND EXISTS (
            SELECT FROM backbeat.simple_tasks t WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class)
            ORDER BY t.rank, t.id LIMIT 1 OFFSET 0)) AS work,
    -- Whether a day is to be opened, or something is older than its policy says; of orchestrations a day's worth is looked at,
    -- since those that asked for approvals stay.
    to_regclass('backbeat.finished_tasks_' || to_char(backbeat.utc_day(backbeat.now()) + 14, 'YYYYMMDD')) IS NULL
    OR EXISTS (
        SELECT FROM backbeat.retention r, LATERAL (SELECT backbeat.now() - make_interval(days => r.days) AS at) b WHERE CASE r.policy
            WHEN 'ticks' THEN EXISTS (SELECT FROM backbeat.ticks k WHERE k.id < backbeat.uuid7_floor(b.at))
            WHEN 'workflows' THEN EXISTS (SELECT FROM backbeat.notifications n WHERE n.id < backbeat.uuid7_floor(b.at)) OR EXISTS (
                SELECT FROM backbeat.orchestrated_workflows w WHERE w.workflow <> 'approve_effect' AND w.finished_at BETWEEN b.at - interval '1 day' AND b.at
                    AND NOT EXISTS (SELECT FROM backbeat.approval_requests a WHERE a.workflow_id = w.id))
            WHEN 'finished' THEN EXISTS (
                SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'backbeat.finished_tasks'::regclass AND c.relname ~ '^finished_tasks_\d{8}$'
                    AND c.relname < 'finished_tasks_' || to_char(backbeat.utc_day(b.at), 'YYYYMMDD') AND NOT EXISTS (
                    SELECT FROM backbeat.simple_tasks t
                    WHERE t.id >= backbeat.uuid7_floor(right(c.relname, 8)::timestamp AT TIME ZONE 'UTC')
                        AND t.id < backbeat.uuid7_floor((right(c.relname, 8)::date + 1)::timestamp AT TIME ZONE 'UTC')
                    ORDER BY t.id LIMIT 1 OFFSET 0))
            END) AS due

-- name: register_worker
SELECT backbeat.register_worker(%(worker)s, %(kind)s, %(definitions)s::jsonb) AS released

-- name: start_tick
SELECT backbeat.start_tick(%(worker)s) AS id

-- name: end_tick
SELECT backbeat.end_tick(%(id)s, %(claimed)s, %(settled)s)

-- name: maintain_partitions
SELECT backbeat.maintain_partitions() AS made, backbeat.retain() AS removed, backbeat.retain_agents()

-- name: expired_leases
SELECT id, lease, tenant, workflow, version, tier, attempts, origin_id, traceparent, worker, started_at, created_at, source_at, parent_id, backbeat.clock() AS seen_at
FROM backbeat.simple_tasks WHERE status = 'running' AND lease_until < backbeat.clock() ORDER BY id LIMIT %(limit)s

-- name: reap
SELECT task_id, lease, status FROM backbeat.reap(%(limit)s, %(leases)s::bigint[])

-- name: sweep
SELECT due, expired, promoted, unloaded FROM backbeat.sweep(%(limit)s)

-- name: claim
SELECT id, tenant, workflow, version, tier, class AS class_, payload, attempts, max_attempts, alone, lease, worker, started_at, origin_id, coalesce(first_id, id) AS first_id, idempotency_key,
       traceparent, created_at, source_at, parent_id
FROM backbeat.claim(%(worker)s, %(loaded)s::text[], %(limit)s, %(lease_seconds)s, %(idle)s)

-- name: claim_bulk
SELECT id, tenant, workflow, version, tier, class AS class_, payload, attempts, max_attempts, alone, lease, worker, started_at, origin_id, coalesce(first_id, id) AS first_id, idempotency_key,
       traceparent, created_at, source_at, parent_id
FROM backbeat.claim_bulk(%(worker)s, %(loaded)s::text[], %(limit)s, %(lease_seconds)s, %(idle)s)

-- name: turn
SELECT id, tenant, workflow, version, tier, class AS class_, payload, attempts, max_attempts, alone, lease, worker, started_at, origin_id, coalesce(first_id, id) AS first_id, idempotency_key,
       traceparent, created_at, source_at, parent_id
FROM backbeat.turn(%(rows)s::jsonb, %(worker)s, %(loaded)s::text[], %(limit)s, %(lease_seconds)s)

-- name: heartbeat
SELECT id FROM backbeat.heartbeat(%(worker)s, %(ids)s::uuid[], %(leases)s::bigint[], %(lease_seconds)s) AS lost(id)

-- name: settle
SELECT id FROM backbeat.settle(%(rows)s::jsonb) AS refused(id)

-- name: switches
SELECT name, reason FROM backbeat.switches

-- name: register_definitions
SELECT backbeat.register_definitions(%(runtime)s, %(definitions)s::jsonb)
