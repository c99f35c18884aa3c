-- How tasks come in, and for whom. Every change of state is a function of migrations/postgres/0006_enqueue.sql.

-- name: enqueue
SELECT * FROM backbeat.enqueue(
    %(workflow)s, %(version)s, %(payloads)s::jsonb[], %(keys)s::bytea[], %(tenant)s, %(class)s,
    %(run_after)s, %(expires_at)s, %(source_at)s::timestamptz[], %(traceparent)s, %(origin)s, %(parent)s)

-- name: make_stage
CREATE TEMPORARY TABLE backbeat_stage (payload jsonb, key bytea) ON COMMIT DROP

-- name: fill_stage
COPY pg_temp.backbeat_stage (payload, key) FROM STDIN

-- name: enqueue_stage
SELECT e.task_id FROM (SELECT array_agg(s.payload ORDER BY s.ctid) AS payloads, array_agg(s.key ORDER BY s.ctid) AS keys FROM pg_temp.backbeat_stage s) g,
    backbeat.enqueue(%(workflow)s, %(version)s, g.payloads, g.keys, %(tenant)s, %(class)s,
        %(run_after)s, %(expires_at)s, NULL, %(traceparent)s, %(origin)s, %(parent)s) e
WHERE e.created

-- name: drop_stage
DROP TABLE pg_temp.backbeat_stage

-- name: register_definitions
SELECT backbeat.register_definitions(%(runtime)s, %(definitions)s::jsonb)

-- name: tenants
SELECT t.id AS tenant, t.weight, t.max_running, p.scope IS NOT NULL AS paused, p.reason,
       coalesce(f.ready, 0) AS ready, coalesce(f.running, 0) AS running
FROM backbeat.tenants t
LEFT JOIN backbeat.pauses p ON (p.scope, p.key) = ('tenant', t.id)
LEFT JOIN (SELECT f.tenant, sum(f.ready) AS ready, sum(f.running) AS running FROM backbeat.flows f GROUP BY f.tenant) f ON f.tenant = t.id
ORDER BY t.id

-- name: set_tenant
SELECT backbeat.set_tenant(%(tenant)s, %(weight)s, %(max_running)s, %(by)s)

-- name: refuse_unknown_tenants
SELECT backbeat.refuse_unknown_tenants(%(by)s)

-- name: workflows
SELECT w.name AS workflow, w.version, w.runtime, w.tier, w.seen_at, p.key IS NOT NULL AS paused, p.reason, coalesce(t.live, 0) AS live
FROM backbeat.workflows w
LEFT JOIN backbeat.pauses p ON (p.scope, p.key) = ('workflow', w.name)
LEFT JOIN (SELECT s.workflow, s.version, count(*) AS live FROM backbeat.simple_tasks s GROUP BY 1, 2) t ON (t.workflow, t.version) = (w.name, w.version)
ORDER BY w.name, w.version

-- name: pause
SELECT backbeat.pause(%(scope)s, %(key)s, %(reason)s, %(by)s) AS waiting

-- name: resume
SELECT backbeat.unpause(%(scope)s, %(key)s, %(by)s) AS resumed
