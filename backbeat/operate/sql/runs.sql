-- Runs of orchestrations, as people start, see and end them.

-- name: start
SELECT id, created, same FROM backbeat.start_orchestration(%(workflow)s, %(version)s, %(tenant)s, %(input)s, %(key)s, %(traceparent)s)

-- name: refuse_start
SELECT backbeat.refuse_start(%(workflow)s, %(by)s, %(error)s)

-- name: runs
SELECT w.id, w.workflow, w.version, w.tenant, w.status, w.waiting_for, w.created_at, w.updated_at, w.finished_at, w.error
FROM backbeat.orchestrated_workflows w
WHERE w.id >= backbeat.uuid7_floor(backbeat.now() - %(since)s::interval)
  AND (%(statuses)s::text[] IS NULL OR w.status = ANY (%(statuses)s)) AND w.workflow = coalesce(%(workflow)s, w.workflow) AND w.tenant = coalesce(%(tenant)s, w.tenant)
ORDER BY w.id DESC LIMIT %(limit)s

-- name: run
SELECT w.id, w.workflow, w.version, w.tenant, w.status, w.waiting_for,
       w.deadline, w.temporal_id, w.run_id, w.generation, w.state_seq, w.input, w.result, w.error,
       w.parent_workflow, w.parent_step, w.parent_task, w.start_key, w.origin_id, w.traceparent, w.created_at, w.updated_at, w.finished_at
FROM backbeat.orchestrated_workflows w WHERE w.id = %(id)s

-- name: steps
SELECT seq, name AS step, kind, status, waits_for, started_at, ended_at, detail FROM backbeat.orchestrated_workflows_steps WHERE workflow_id = %(id)s ORDER BY seq

-- name: undelivered
SELECT seq, kind, attempts, created_at, last_error, dead_at FROM backbeat.temporal_outbox WHERE stream = %(id)s AND delivered_at IS NULL ORDER BY seq

-- name: cancel
SELECT EXISTS (SELECT FROM backbeat.cancel_workflow(%(id)s, %(reason)s)) AS answer

-- name: retry
SELECT backbeat.retry_workflow(%(id)s, %(by)s) AS answer

-- name: recheck
SELECT EXISTS (SELECT FROM backbeat.recheck_workflow(%(id)s)) AS answer

-- name: open
SELECT id FROM backbeat.orchestrated_workflows WHERE temporal_id = %(temporal_id)s AND finished_at IS NULL
