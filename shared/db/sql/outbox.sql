-- name: lease
SELECT stream, seq, kind, lease, attempts, workflow, version, temporal_id, status, state_seq
FROM backbeat.lease_outbox(%(kinds)s, %(limit)s, %(seconds)s)

-- name: settle
SELECT backbeat.settle_outbox(
    %(stream)s, %(seq)s, %(lease)s, %(outcome)s, %(error)s, %(delay)s, %(run_id)s) AS settled

-- name: workflow
SELECT id, workflow, version, tenant, input, status, temporal_id, origin_id, traceparent
FROM backbeat.orchestrated_workflows WHERE id = %(id)s

-- name: project
SELECT backbeat.project_state(
    %(workflow)s, %(seq)s, %(status)s, %(run_id)s, %(waiting_for)s, %(result)s::jsonb, %(error)s) AS written

-- name: to_check
SELECT id, temporal_id, status, state_seq FROM backbeat.workflows_to_check(%(limit)s, %(seconds)s)

-- name: restart
SELECT backbeat.restart_workflow(%(id)s, %(temporal_id)s) AS restarted
