-- name: lease
SELECT stream, seq, kind, lease, attempts, workflow, version, temporal_id, status, state_seq
FROM backbeat.lease_outbox(%(kinds)s, %(limit)s, %(seconds)s, %(loaded)s::text[])

-- name: settle
SELECT backbeat.settle_outbox(
    %(stream)s, %(seq)s, %(lease)s, %(outcome)s, %(error)s, %(delay)s, %(run_id)s) AS settled

-- name: workflow
SELECT w.id, w.workflow, w.version, w.tenant, w.input, w.status, w.temporal_id, w.origin_id, w.traceparent, w.created_at,
       w.parent_task, w.parent_workflow, (t.history -> -1 ->> 'lease')::bigint AS parent_lease
FROM backbeat.orchestrated_workflows w LEFT JOIN backbeat.finished_tasks t ON t.id = w.parent_task WHERE w.id = %(id)s

-- name: project
SELECT backbeat.project_state(
    %(workflow)s, %(seq)s, %(status)s, %(run_id)s, %(waiting_for)s, %(result)s::jsonb, %(error)s) AS written

-- name: to_check
SELECT id, temporal_id, status, state_seq FROM backbeat.workflows_to_check(%(limit)s, %(seconds)s)

-- name: restart
SELECT backbeat.restart_workflow(%(id)s, %(temporal_id)s) AS restarted
