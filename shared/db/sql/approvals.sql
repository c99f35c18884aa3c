-- name: policy_problem
SELECT backbeat.policy_problem(%(policy)s::jsonb) AS problem

-- name: create
SELECT id FROM backbeat.create_approval(%(workflow)s, %(step)s, %(hash)s)

-- name: close_if_pending
SELECT state, seconds_left FROM backbeat.close_if_pending(%(id)s)

-- name: decide
SELECT verdict, user_name, state, closed_by, closed_at, deadline FROM backbeat.decide(
    %(proof)s, %(request)s, %(decision)s, %(hash)s, %(comment)s, %(decision_id)s, %(via)s)

-- name: list
SELECT r.id, r.title, r.payload, r.hash, r.policy, r.state, r.requested_at, r.deadline, r.closed_at, r.closed_by, r.tenant,
       extract(epoch FROM r.deadline - backbeat.clock())::double precision AS seconds_left,
       (SELECT count(*) FROM backbeat.approval_decisions d WHERE d.request_id = r.id AND d.decision = 'approve') AS approvals,
       w.id AS workflow_id, w.workflow, w.temporal_id, w.origin_id, w.parent_task, w.traceparent
FROM backbeat.approval_requests r JOIN backbeat.orchestrated_workflows w ON w.id = r.workflow_id
WHERE (%(id)s::uuid IS NULL OR r.id = %(id)s) AND (%(state)s::text IS NULL OR r.state = %(state)s)
ORDER BY r.state <> 'pending', r.deadline, r.id LIMIT %(limit)s

-- name: history
SELECT at, actor, action, detail FROM backbeat.audit_log WHERE subject = %(id)s ORDER BY id
