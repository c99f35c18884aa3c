-- What people say about results.

-- name: subjects
SELECT t.id, t.origin_id, t.workflow, t.version, t.tenant, t.traceparent FROM backbeat.tasks t WHERE t.id = ANY (%(ids)s::uuid[])
UNION ALL
SELECT w.id, w.origin_id, w.workflow, w.version, w.tenant, w.traceparent FROM backbeat.orchestrated_workflows w WHERE w.id = ANY (%(ids)s::uuid[])

-- name: add
SELECT count(*) AS added FROM backbeat.add_feedback(%(rows)s::jsonb)

-- name: said
SELECT id, task_id, origin_id, finding, label, said_by, said_at FROM backbeat.feedback
WHERE said_at >= backbeat.now() - %(since)s::interval AND id > %(after)s ORDER BY id LIMIT %(limit)s

-- name: latest
SELECT id, task_id, origin_id, finding, label, said_by, said_at FROM backbeat.feedback
WHERE said_at >= backbeat.now() - %(since)s::interval AND (%(task)s::uuid IS NULL OR %(task)s IN (task_id, origin_id))
ORDER BY said_at DESC, id DESC LIMIT %(limit)s
