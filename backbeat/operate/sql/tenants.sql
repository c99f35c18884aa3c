-- Tenants and workflows, as people see, weigh and pause them.

-- name: tenants
SELECT t.id AS tenant, t.weight, t.max_running, p.scope IS NOT NULL AS paused, p.reason,
       coalesce(f.ready, 0) AS ready, coalesce(f.running, 0) AS running
FROM backbeat.tenants t
LEFT JOIN backbeat.pauses p ON (p.scope, p.key) = ('tenant', t.id)
LEFT JOIN (SELECT f.tenant, sum(f.ready) AS ready, sum(f.running) AS running FROM backbeat.flows f GROUP BY f.tenant) f ON f.tenant = t.id
ORDER BY t.id

-- name: set_tenant
SELECT backbeat.set_tenant(%(tenant)s, %(weight)s, %(max_running)s::integer, %(by)s)

-- name: refuse_unknown_tenants
SELECT backbeat.refuse_unknown_tenants(%(by)s)

-- name: workflows
SELECT w.name AS workflow, w.version, w.runtime, w.tier, w.seen_at, w.canary, w.stable, p.key IS NOT NULL AS paused, p.reason, coalesce(t.live, 0) AS live
FROM backbeat.workflows w
LEFT JOIN backbeat.pauses p ON (p.scope, p.key) = ('workflow', w.name)
LEFT JOIN (SELECT s.workflow, s.version, count(*) AS live FROM backbeat.simple_tasks s GROUP BY 1, 2) t ON (t.workflow, t.version) = (w.name, w.version)
ORDER BY w.name, w.version

-- name: set_canary
SELECT EXISTS (SELECT FROM backbeat.set_canary(%(workflow)s, %(version)s::integer, %(percent)s, %(by)s)) AS done

-- name: pause
SELECT backbeat.pause(%(scope)s, %(key)s, %(reason)s, %(by)s) AS waiting

-- name: resume
SELECT backbeat.unpause(%(scope)s, %(key)s, %(by)s) AS resumed
