-- What orchestrations ask of Postgres. Every change of state is a function of migrations/postgres/0009_joins.sql.

-- name: project_run
SELECT backbeat.project_run(
    %(workflow)s, %(seq)s, %(status)s, %(run_id)s, %(waiting_for)s, %(result)s::jsonb, %(error)s, %(steps)s::jsonb) AS written

-- name: cancel_orphans
SELECT backbeat.cancel_orphans(%(workflow)s) AS ended

-- name: child_workflow
SELECT id, status, waiting_for, result, error FROM backbeat.child_workflow(%(run)s, %(step)s, %(workflow)s, %(input)s::jsonb)

-- name: add_children
SELECT cardinality(children) AS children, children_left AS left, failed, tolerated
FROM backbeat.add_children(%(run)s, %(step)s, %(start)s, %(name)s, %(version)s, %(payloads)s::jsonb[], %(tolerated)s, %(seal)s)

-- name: join
SELECT cardinality(children) AS children, children_left AS left, failed, tolerated
FROM backbeat.joins WHERE (workflow_id, step) = (%(run)s, %(step)s)

-- name: children
SELECT c.id, c.n::integer - 1 AS n FROM backbeat.joins j CROSS JOIN LATERAL unnest(j.children) WITH ORDINALITY AS c(id, n)
WHERE (j.workflow_id, j.step) = (%(run)s, %(step)s) AND c.n > %(start)s ORDER BY c.n LIMIT %(limit)s

-- name: results
SELECT id, status, result, concat_ws(': ', error_class, error) AS error FROM backbeat.finished_tasks WHERE id = ANY (%(ids)s)

-- name: wrote
SELECT status, fire_until IS NULL AS given_back FROM backbeat.side_effects WHERE key = %(key)s

-- name: start
SELECT id, created, same FROM backbeat.start_orchestration(%(workflow)s, %(version)s, %(tenant)s, %(input)s, %(key)s, %(traceparent)s)

-- name: runs
SELECT w.id, w.workflow, w.version, w.tenant, w.status, w.waiting_for, w.created_at, w.updated_at, w.finished_at, w.error
FROM backbeat.orchestrated_workflows w
WHERE w.id >= backbeat.uuid7_floor(backbeat.now() - %(since)s)
  AND (%(statuses)s::text[] IS NULL OR w.status = ANY (%(statuses)s)) AND w.workflow = coalesce(%(workflow)s, w.workflow) AND w.tenant = coalesce(%(tenant)s, w.tenant)
ORDER BY w.id DESC LIMIT %(limit)s

-- name: run
SELECT w.id, w.workflow, w.version, w.tenant, w.status, w.waiting_for, w.deadline, w.temporal_id, w.run_id, w.generation, w.state_seq, w.input, w.result, w.error,
       w.parent_workflow, w.parent_step, w.parent_task, w.start_key, w.origin_id, w.traceparent, w.created_at, w.updated_at, w.finished_at
FROM backbeat.orchestrated_workflows w WHERE w.id = %(id)s

-- name: steps
SELECT seq, name AS step, kind, status, waits_for, started_at, ended_at, detail FROM backbeat.orchestrated_workflows_steps WHERE workflow_id = %(id)s ORDER BY seq

-- name: undelivered
SELECT seq, kind, attempts, created_at, last_error, dead_at FROM backbeat.temporal_outbox WHERE stream = %(id)s AND delivered_at IS NULL ORDER BY seq

-- name: cancel
SELECT backbeat.cancel_workflow(%(id)s, %(reason)s) AS answer

-- name: retry
SELECT backbeat.retry_workflow(%(id)s, %(by)s) AS answer

-- name: recheck
SELECT EXISTS (SELECT FROM backbeat.recheck_workflow(%(id)s)) AS answer
