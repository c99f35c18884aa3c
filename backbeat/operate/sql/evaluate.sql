-- What an evaluation of tiers reads: what became of its tasks and their calls, and what people said of earlier ones.

-- name: open
SELECT count(*) AS tasks FROM backbeat.simple_tasks WHERE id = ANY (%(ids)s::uuid[])

-- name: ended
SELECT t.id, t.status, t.result, t.error_class, t.error, t.cost_usd, t.hold_reason, t.hold_key,
       (SELECT sum(extract(epoch FROM c.closed_at - c.opened_at))::double precision FROM backbeat.model_calls c WHERE c.owner = t.id) AS seconds,
       (SELECT count(*) FROM backbeat.model_calls c WHERE c.owner = t.id AND c.cost_usd IS NULL AND c.status = 'done') AS unpriced,
       (SELECT count(*) FROM backbeat.model_calls c WHERE c.owner = t.id AND c.status IN ('lost', 'refused')) AS faults,
       (SELECT array_agg(DISTINCT c.provider || ' ' || coalesce(c.model_answered, c.model)) FROM backbeat.model_calls c WHERE c.owner = t.id) AS models
FROM backbeat.tasks t WHERE t.id = ANY (%(ids)s::uuid[])

-- name: feedback
SELECT t.id, t.payload, f.finding, f.label FROM backbeat.feedback f JOIN backbeat.tasks t ON t.id = f.origin_id
WHERE t.workflow = %(workflow)s ORDER BY f.said_at, f.id
