-- Whose texts leave: rows that are over, and what is in the way.

-- name: tasks
SELECT f.id FROM backbeat.finished_tasks f WHERE f.tenant = %(tenant)s::text OR f.id = %(task)s::uuid OR f.origin_id = %(task)s::uuid ORDER BY f.id

-- name: workflows
SELECT w.id, w.temporal_id FROM backbeat.orchestrated_workflows w
WHERE w.tenant = %(tenant)s::text OR w.id = %(task)s::uuid OR w.origin_id = %(task)s::uuid ORDER BY w.id

-- Dead letters, agents and feedback have rows of their own, also where retention has taken the task.
-- name: others
SELECT d.id FROM backbeat.dead_letters d WHERE d.tenant = %(tenant)s::text OR d.id = %(task)s::uuid OR d.origin_id = %(task)s::uuid
UNION SELECT a.id FROM backbeat.agents a WHERE a.tenant = %(tenant)s::text OR a.id = %(task)s::uuid
UNION SELECT c.owner FROM backbeat.model_calls c WHERE c.tenant = %(tenant)s::text OR c.owner = %(task)s::uuid
UNION SELECT b.task_id FROM backbeat.feedback b WHERE b.task_id = %(task)s::uuid OR b.origin_id = %(task)s::uuid ORDER BY 1

-- name: live
SELECT (SELECT count(*) FROM backbeat.simple_tasks t WHERE t.tenant = %(tenant)s::text OR t.id = %(task)s::uuid OR t.origin_id = %(task)s::uuid) AS tasks,
       (SELECT count(*) FROM backbeat.orchestrated_workflows w WHERE w.finished_at IS NULL
            AND (w.tenant = %(tenant)s::text OR w.id = %(task)s::uuid OR w.origin_id = %(task)s::uuid)) AS workflows

-- name: count
SELECT (SELECT count(*) FROM backbeat.finished_tasks f WHERE f.id = ANY (%(ids)s)) AS finished_tasks,
       (SELECT count(*) FROM backbeat.dead_letters d WHERE d.id = ANY (%(ids)s)) AS dead_letters,
       (SELECT count(*) FROM backbeat.model_calls c WHERE c.owner = ANY (%(ids)s)) AS model_calls,
       (SELECT count(*) FROM backbeat.agents a WHERE a.id = ANY (%(ids)s)) AS agents,
       (SELECT count(*) FROM backbeat.agent_steps s WHERE s.task_id = ANY (%(ids)s)) AS agent_steps,
       (SELECT count(*) FROM backbeat.side_effects e WHERE e.owner = ANY (%(ids)s)) AS side_effects,
       (SELECT count(*) FROM backbeat.orchestrated_workflows w WHERE w.id = ANY (%(ids)s)) AS orchestrated_workflows,
       (SELECT count(*) FROM backbeat.orchestrated_workflows_steps s WHERE s.workflow_id = ANY (%(ids)s)) AS orchestrated_workflows_steps,
       (SELECT count(*) FROM backbeat.approval_requests r WHERE r.workflow_id = ANY (%(ids)s)) AS approval_requests,
       (SELECT count(*) FROM backbeat.notifications o JOIN backbeat.approval_requests r ON r.id = o.request_id WHERE r.workflow_id = ANY (%(ids)s)) AS notifications,
       (SELECT count(*) FROM backbeat.feedback b WHERE b.task_id = ANY (%(ids)s)) AS feedback

-- name: kept
SELECT count(*) AS decisions FROM backbeat.approval_decisions d JOIN backbeat.approval_requests r ON r.id = d.request_id WHERE r.workflow_id = ANY (%(ids)s)

-- name: waiting
SELECT o.id FROM backbeat.telemetry_outbox o WHERE o.refused IS NULL

-- name: erase
SELECT backbeat.erase(%(ids)s::uuid[], %(subject)s, %(by)s, %(reason)s) AS rows
