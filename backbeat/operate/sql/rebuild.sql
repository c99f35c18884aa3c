-- What Postgres knows of model calls and attempts, in pages: what the spans of ClickHouse's facts are told again from.
-- What was erased since, as the audit log says, is not told.

-- name: calls
SELECT c.owner, c.call_key, c.seq, c.owner_kind, c.lease, c.status, c.tier, c.provider, c.model, c.price_version, c.cost_usd, c.uncached, c.cache_read,
       c.cache_write, c.output, c.reasoning, c.valid, c.stop, c.model_answered, c.response_id, c.error_class, c.error, c.opened_at, c.closed_at,
       c.owner AS id, c.tenant, c.workflow, c.version, coalesce(f.attempts, t.attempts, 1) AS attempts, c.closed_at AS seen_at,
       coalesce(f.origin_id, t.origin_id, w.origin_id, c.owner) AS origin_id, coalesce(f.traceparent, t.traceparent, w.traceparent,
           '00-' || backbeat.trace_id('task', c.owner::text) || '-' || backbeat.span_id('enqueue', c.owner::text) || '-01') AS traceparent
FROM backbeat.model_calls c LEFT JOIN backbeat.finished_tasks f ON f.id = c.owner LEFT JOIN backbeat.simple_tasks t ON t.id = c.owner
LEFT JOIN backbeat.orchestrated_workflows w ON w.id = c.owner
WHERE c.status IN ('done', 'lost', 'refused') AND c.opened_at >= %(since)s
  AND NOT EXISTS (SELECT FROM backbeat.audit_log a WHERE a.action = 'erased' AND a.at >= c.opened_at
      AND a.subject IN ('tenant ' || c.tenant, 'task ' || c.owner, 'task ' || coalesce(f.origin_id, t.origin_id, w.origin_id)))
  AND (c.owner, c.call_key, c.seq) > (%(owner)s::uuid, %(key)s, %(seq)s) ORDER BY c.owner, c.call_key, c.seq LIMIT %(limit)s

-- name: tasks
SELECT f.id, f.tenant, f.workflow, f.version, f.tier, f.class, f.origin_id, f.traceparent, f.created_at, f.history
FROM backbeat.finished_tasks f JOIN backbeat.workflows w ON (w.name, w.version, w.trace) = (f.workflow, f.version, 'task')
WHERE f.id > %(after)s AND f.finished_at >= %(since)s
  AND NOT EXISTS (SELECT FROM backbeat.audit_log a WHERE a.action = 'erased' AND a.at >= f.finished_at
      AND a.subject IN ('tenant ' || f.tenant, 'task ' || f.id, 'task ' || f.origin_id))
ORDER BY f.id LIMIT %(limit)s

-- name: waiting
SELECT (SELECT coalesce(sum(h.files), 0) FROM backbeat.telemetry_hosts h) + (SELECT count(*) FROM backbeat.telemetry_outbox) AS batches
