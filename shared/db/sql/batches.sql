-- name: due
SELECT d.tag, d.provider, d.status, d.calls, d.vendor_id, d.looks, d.lease, d.cancel, d.intended_at, ARRAY(
    SELECT o.vendor_id FROM backbeat.llm_batches o WHERE o.vendor_id IS NOT NULL AND o.intended_at > d.intended_at - interval '1 day') AS others
FROM backbeat.due_batches(%(providers)s::text[]) d

-- name: mark
SELECT backbeat.mark_batch(%(tag)s, %(lease)s, %(status)s, %(vendor_id)s, %(note)s, %(seconds)s) AS marked

-- name: calls
-- A custom id has at most 64 letters, digits and dashes.
SELECT c.batch || '-' || left(encode(sha256(convert_to(c.owner || ':' || c.seq || ':' || c.call_key, 'UTF8')), 'hex'), 32) AS name, c.owner AS id, c.call_key, c.seq, c.lease, c.tenant, c.workflow, c.version, c.route, c.tier, c.provider, c.model, c.price_version, c.request - 'price' AS request, c.request -> 'price' AS price, c.opened_at,
       coalesce(t.origin_id, w.origin_id) AS origin_id, coalesce(t.traceparent, w.traceparent) AS traceparent, coalesce(t.attempts, 1) AS attempts
FROM backbeat.model_calls c LEFT JOIN backbeat.tasks t ON t.id = c.owner LEFT JOIN backbeat.orchestrated_workflows w ON w.id = c.owner
WHERE c.batch = %(tag)s AND c.status = 'open' ORDER BY c.owner, c.call_key, c.seq
