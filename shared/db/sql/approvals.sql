-- name: policy_problem
SELECT backbeat.policy_problem(%(policy)s::jsonb) AS problem

-- name: create
SELECT id FROM backbeat.create_approval(%(workflow)s, %(step)s, %(hash)s, %(editable)s)

-- name: close_if_pending
SELECT state, settled, seconds_left, revision FROM backbeat.close_if_pending(%(id)s)

-- name: revise
SELECT backbeat.revise_approval(%(id)s, %(revision)s, %(body)s::jsonb) AS revised

-- name: decide
SELECT verdict, user_name, state, closed_by, closed_at, deadline, problem FROM backbeat.decide(
    %(proof)s, %(request)s, %(decision)s, %(hash)s, %(comment)s, %(decision_id)s, %(via)s, %(body)s::jsonb, %(problem)s)

-- name: list
SELECT r.id, r.title, r.payload, r.hash, r.policy, r.state, r.requested_at, r.deadline, r.closed_at, r.closed_by, r.tenant,
       extract(epoch FROM r.deadline - backbeat.clock())::double precision AS seconds_left,
       (SELECT count(*) FROM backbeat.approval_decisions d WHERE (d.request_id, d.revision, d.decision) = (r.id, r.revision, 'approve')) AS approvals,
       r.revision, r.editable, r.stuck, r.requested_by, r.effect_after, CASE WHEN r.state = 'changes' THEN (
           SELECT d.comment FROM backbeat.approval_decisions d WHERE d.request_id = r.id AND d.decision = 'request_changes'
           ORDER BY d.decided_at DESC LIMIT 1) END AS asked,
       CASE WHEN r.claimed_until > backbeat.clock() THEN r.claimed_by END AS claimed_by,
       CASE WHEN r.claimed_until > backbeat.clock() THEN r.claimed_until END AS claimed_until,
       w.id AS workflow_id, w.workflow, w.temporal_id, w.origin_id, w.parent_task, w.traceparent
FROM backbeat.approval_requests r JOIN backbeat.orchestrated_workflows w ON w.id = r.workflow_id
WHERE (%(id)s::uuid IS NULL OR r.id = %(id)s) AND (%(states)s::text[] IS NULL OR r.state = ANY (%(states)s))
  AND (%(token)s::text IS NULL OR EXISTS (
      SELECT FROM backbeat.api_tokens t, LATERAL backbeat.rights(r, t.user_name, t.groups, backbeat.clock()) AS g
      WHERE t.id = %(token)s AND NOT g.barred AND NOT EXISTS (
          SELECT FROM backbeat.approval_decisions d WHERE (d.request_id, d.revision, d.decision) = (r.id, r.revision, 'approve')
            AND (d.user_name = t.user_name OR d.for_user = g.name))))
ORDER BY r.closed_at IS NOT NULL, r.deadline, r.id LIMIT %(limit)s

-- name: votes
SELECT id, user_name, decision, via, decided_at FROM backbeat.approval_decisions
WHERE request_id = %(id)s AND decision IN ('approve', 'reject', 'request_changes', 'edit', 'revoke') ORDER BY decided_at, id
