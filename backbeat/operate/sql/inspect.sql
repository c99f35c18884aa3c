-- What people ask of the tables. Reads only; `since` bounds finished tasks by the day they were created, which prunes partitions.

-- name: tasks
SELECT id, workflow, version, tenant, class, status, attempts, hold_reason, hold_key, CASE hold_reason WHEN 'route' THEN history -> -1 ->> 'error' END AS hold_why,
       run_after, created_at, finished_at, calls, cost_usd, error,
       (SELECT r.state FROM backbeat.approval_requests r WHERE r.workflow_id = t.workflow_id ORDER BY r.requested_at DESC LIMIT 1) AS approval
FROM backbeat.tasks t
WHERE id >= backbeat.uuid7_floor(backbeat.now() - %(since)s::interval)
  AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s)) AND (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
ORDER BY id DESC LIMIT %(limit)s

-- name: counts
SELECT status, count(*) AS tasks FROM backbeat.tasks
WHERE id >= backbeat.uuid7_floor(backbeat.now() - %(since)s::interval)
  AND (%(workflow)s::text IS NULL OR workflow = %(workflow)s) AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
GROUP BY status
ORDER BY array_position('{pending,ready,running,delayed,held,succeeded,escalated,dead,cancelled,expired}', status)

-- name: task
SELECT id, workflow, version, tenant, tier, class, status,
       (SELECT r.state FROM backbeat.approval_requests r WHERE r.workflow_id = t.workflow_id ORDER BY r.requested_at DESC LIMIT 1) AS approval, hold_reason, hold_key, run_after, payload, result, error_class, error, attempts, history,
       worker, origin_id, parent_id, workflow_id, traceparent, source_at, created_at, finished_at
FROM backbeat.tasks t WHERE id = %(id)s

-- name: ids_of_task
SELECT id::text AS id FROM backbeat.tasks WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid ORDER BY id LIMIT 4

-- name: ids_of_letter
SELECT id::text AS id FROM backbeat.dead_letters WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid ORDER BY id LIMIT 4

-- name: ids_of_request
SELECT id::text AS id FROM backbeat.approval_requests WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid ORDER BY id LIMIT 4

-- name: ids_of_workflow
SELECT id::text AS id FROM backbeat.orchestrated_workflows WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid ORDER BY id LIMIT 4

-- name: ids_of_agent
SELECT id::text AS id FROM backbeat.agents WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid ORDER BY id LIMIT 4

-- name: ids_of_token
SELECT id FROM backbeat.api_tokens WHERE id BETWEEN left(replace(%(low)s, '-', ''), 16) AND left(replace(%(high)s, '-', ''), 16) ORDER BY id LIMIT 4

-- name: calls
SELECT call_key, seq, status, tier, provider, coalesce(model_answered, model) AS model, uncached, cache_read, cache_write, output, reasoning,
       uncached + cache_read + cache_write AS input, reserved_usd, cost_usd, price_version, valid, stop, error_class, error, lease, opened_at, closed_at,
       extract(epoch FROM closed_at - opened_at)::double precision AS seconds
FROM backbeat.model_calls WHERE owner = %(owner)s ORDER BY opened_at, call_key, seq

-- name: effects
SELECT key, kind, status, owner_kind, owner, approval_id, outcome, error, fires, intended_at, done_at, resolved_by
FROM backbeat.side_effects WHERE owner = ANY (%(owners)s::uuid[]) ORDER BY intended_at, key

-- name: effect
SELECT key, mark, kind, status, owner_kind, owner, origin_id, approval_id, request, request_hash, outcome, error, token, fires, fire_until, traceparent,
       intended_at, done_at, resolved_by, greatest(extract(epoch FROM fire_until - backbeat.clock()), 0)::double precision AS busy_seconds
FROM backbeat.side_effects WHERE key = %(key)s

-- name: orchestration
SELECT w.id, w.workflow, w.status, w.temporal_id, w.waiting_for,
       coalesce((SELECT max(r.deadline) FROM backbeat.approval_requests r WHERE r.workflow_id = w.id), w.deadline) AS deadline, w.result, w.error, w.created_at, w.finished_at,
       (SELECT jsonb_agg(jsonb_build_object('id', r.id, 'state', r.state, 'closed_by', r.closed_by) ORDER BY r.requested_at)
        FROM backbeat.approval_requests r WHERE r.workflow_id = w.id) AS approvals
FROM backbeat.orchestrated_workflows w WHERE w.id = %(id)s

-- name: budgets
WITH recent AS (
    SELECT CASE WHEN c.workflow IS NULL THEN 'tenant' ELSE 'workflow' END AS scope, coalesce(c.workflow, c.tenant) AS key, sum(c.cost_usd) / 10800 AS usd,
           sum(c.uncached + c.cache_read + c.cache_write + c.output) / 10800 AS tokens
    FROM backbeat.model_calls c
    WHERE c.status = 'done' AND c.closed_at > backbeat.now() - interval '3 hours' AND %(day)s::date = backbeat.utc_day(backbeat.now())
    GROUP BY GROUPING SETS ((c.workflow), (c.tenant))
), used AS (
    SELECT b.scope, b.key, b.cap_usd, b.cap_tokens, b.soft, b.spent_usd, b.presumed_usd, b.reserved_usd, b.overrun_usd, b.spent_tokens, b.presumed_tokens,
           b.reserved_tokens, b.calls, b.unpriced_calls
    FROM backbeat.budgets b WHERE b.day = %(day)s::date OR b.day = '-infinity' AND b.scope = %(scope)s::text
    UNION ALL
    SELECT c.scope, c.key, c.usd, c.tokens, c.soft, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM backbeat.budget_caps c
    WHERE NOT EXISTS (SELECT FROM backbeat.budgets b WHERE (b.scope, b.key, b.day) = (c.scope, c.key, %(day)s::date))
)
SELECT u.*, CASE WHEN u.scope IN ('workflow', 'tenant') THEN %(day)s::date END AS day,
       CASE WHEN u.cap_usd IS NOT NULL THEN greatest(u.cap_usd - u.spent_usd - u.presumed_usd - u.reserved_usd, 0) END AS remaining_usd,
       CASE WHEN u.cap_tokens IS NOT NULL THEN greatest(u.cap_tokens - u.spent_tokens - u.presumed_tokens - u.reserved_tokens, 0) END AS remaining_tokens,
       round(u.spent_usd + u.presumed_usd + coalesce(r.usd, 0) * d.seconds, 6) AS forecast_usd,
       round(u.spent_tokens + u.presumed_tokens + coalesce(r.tokens, 0) * d.seconds)::bigint AS forecast_tokens,
       CASE WHEN u.soft THEN 'soft' ELSE 'hard' END AS kind, c.set_by
FROM used u LEFT JOIN recent r USING (scope, key) LEFT JOIN backbeat.budget_caps c USING (scope, key) CROSS JOIN LATERAL (
    SELECT CASE WHEN u.scope IN ('workflow', 'tenant') AND %(day)s::date = backbeat.utc_day(backbeat.now())
        THEN extract(epoch FROM (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC' - backbeat.now())::numeric END AS seconds) d
WHERE %(scope)s::text IS NULL OR u.scope = %(scope)s
ORDER BY array_position('{workflow,tenant,task,agent}', u.scope), u.key

-- name: lost_calls
SELECT owner, call_key, seq, workflow, tenant, provider, model, response_id, day, reserved_usd, reserved_tokens, opened_at, error_class
FROM backbeat.model_calls WHERE status = 'lost' ORDER BY opened_at, owner, call_key, seq

-- name: cap
SELECT max(usd) AS usd, max(tokens) AS tokens, coalesce(bool_or(soft), false) AS soft,
       (SELECT max(w.max_usd) FROM backbeat.workflows w WHERE w.name = %(key)s AND %(scope)s::text IN ('task', 'agent')) AS granted_usd,
       (SELECT max(w.max_tokens) FROM backbeat.workflows w WHERE w.name = %(key)s AND %(scope)s::text IN ('task', 'agent')) AS granted_tokens
FROM backbeat.budget_caps WHERE (scope, key) = (%(scope)s, %(key)s)

-- name: known
SELECT CASE %(scope)s::text WHEN 'tenant' THEN EXISTS (SELECT FROM backbeat.tenants WHERE id = %(key)s)
       ELSE EXISTS (SELECT FROM backbeat.workflows WHERE name = %(key)s) END AS known

-- name: today
SELECT backbeat.utc_day(backbeat.now()) AS day

-- name: newest_effects
SELECT key, kind, status, owner_kind, owner, origin_id, request, outcome, error, fires, intended_at, done_at, resolved_by
FROM backbeat.side_effects WHERE %(status)s::text IS NULL OR status = %(status)s ORDER BY intended_at DESC LIMIT %(limit)s
