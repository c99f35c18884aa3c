-- How long what is over is kept.

-- name: policies
SELECT r.policy, r.days, r.set_by, CASE r.policy
    WHEN 'ticks' THEN (SELECT min(t.started_at) FROM backbeat.ticks t)
    WHEN 'outbox' THEN (SELECT min(o.created_at) FROM backbeat.temporal_outbox o)
    WHEN 'workflows' THEN (SELECT min(w.finished_at) FROM backbeat.orchestrated_workflows w WHERE w.workflow <> 'approve_effect')
    ELSE (SELECT f.created_at FROM backbeat.finished_tasks f ORDER BY f.id LIMIT 1) END AS oldest
FROM backbeat.retention r ORDER BY r.policy

-- name: set
SELECT backbeat.set_retention(%(policy)s, %(days)s, %(by)s)
