-- What people ask of the tables. Reads only; `since` bounds finished tasks by the day they were created, which prunes partitions.

-- name: tasks
SELECT id, workflow, version, tenant, class, status, attempts, hold_reason, hold_key, run_after, created_at, finished_at, calls, cost_usd, error,
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

-- name: ids_of_request
SELECT id::text AS id FROM backbeat.approval_requests WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid ORDER BY id LIMIT 4

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
SELECT w.id, w.workflow, w.status, w.temporal_id, w.waiting_for, w.deadline, w.result, w.error, w.created_at, w.finished_at,
       (SELECT jsonb_agg(jsonb_build_object('id', r.id, 'state', r.state, 'closed_by', r.closed_by) ORDER BY r.requested_at)
        FROM backbeat.approval_requests r WHERE r.workflow_id = w.id) AS approvals
FROM backbeat.orchestrated_workflows w WHERE w.id = %(id)s

-- name: budgets
SELECT coalesce(b.scope, c.scope) AS scope, coalesce(b.key, c.key) AS key, %(day)s::date AS day,
       CASE WHEN b.day IS NULL THEN c.usd ELSE b.cap_usd END AS cap_usd,
       coalesce(b.spent_usd, 0) AS spent_usd, coalesce(b.presumed_usd, 0) AS presumed_usd, coalesce(b.reserved_usd, 0) AS reserved_usd,
       coalesce(b.overrun_usd, 0) AS overrun_usd, CASE WHEN b.day IS NULL THEN c.tokens ELSE b.cap_tokens END AS cap_tokens,
       coalesce(b.spent_tokens, 0) AS spent_tokens, coalesce(b.presumed_tokens, 0) AS presumed_tokens,
       coalesce(b.reserved_tokens, 0) AS reserved_tokens, coalesce(b.calls, 0) AS calls, coalesce(b.unpriced_calls, 0) AS unpriced_calls, c.set_by
FROM (SELECT * FROM backbeat.budgets WHERE day = %(day)s::date) b FULL JOIN backbeat.budget_caps c ON (c.scope, c.key) = (b.scope, b.key)
ORDER BY 1 DESC, 2

-- name: cap
SELECT usd, tokens FROM backbeat.budget_caps WHERE (scope, key) = (%(scope)s, %(key)s)

-- name: known
SELECT CASE %(scope)s::text WHEN 'workflow' THEN EXISTS (SELECT FROM backbeat.workflows WHERE name = %(key)s)
       ELSE EXISTS (SELECT FROM backbeat.tenants WHERE id = %(key)s) END AS known

-- name: today
SELECT backbeat.utc_day(backbeat.now()) AS day
