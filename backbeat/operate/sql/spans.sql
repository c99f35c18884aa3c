-- Which spans must exist, by Postgres alone: their ids follow from the rows they describe.

-- name: expected_spans
WITH chosen AS (
    SELECT t.id, t.history, split_part(t.traceparent, '-', 2) AS trace_id FROM backbeat.finished_tasks t WHERE t.id = ANY (%(tasks)s::uuid[])
), flows AS (
    SELECT c.id AS task_id, c.trace_id, w.id FROM chosen c JOIN backbeat.orchestrated_workflows w ON w.parent_task = c.id
)
SELECT c.id AS task_id, c.trace_id, 'enqueue' AS kind, backbeat.span_id('enqueue', c.id::text) AS span_id FROM chosen c
UNION ALL
SELECT c.id, c.trace_id, 'process', backbeat.span_id('process', c.id::text, h.entry ->> 'lease')
FROM chosen c CROSS JOIN LATERAL jsonb_array_elements(c.history) AS h(entry) WHERE h.entry ? 'lease'
UNION ALL
SELECT c.id, c.trace_id, 'call', backbeat.span_id('call', m.owner::text, m.call_key, m.seq::text)
FROM chosen c JOIN backbeat.model_calls m ON m.owner = c.id
UNION ALL
SELECT c.id, c.trace_id, 'effect', backbeat.span_id('effect', e.key)
FROM chosen c JOIN backbeat.side_effects e ON e.owner_kind = 'task' AND e.owner = c.id
UNION ALL
SELECT f.task_id, f.trace_id, 'escalate', backbeat.span_id('escalate', f.id::text) FROM flows f
UNION ALL
SELECT f.task_id, f.trace_id, step.kind, backbeat.span_id(step.kind, r.id::text)
FROM flows f JOIN backbeat.approval_requests r ON r.workflow_id = f.id
CROSS JOIN (VALUES ('approval.requested'), ('approval.decided')) AS step(kind)
WHERE step.kind = 'approval.requested' OR r.closed_at IS NOT NULL AND r.state <> 'cancelled'
UNION ALL
SELECT f.task_id, f.trace_id, 'effect', backbeat.span_id('effect', e.key)
FROM flows f JOIN backbeat.side_effects e ON e.owner_kind = 'workflow' AND e.owner = f.id
