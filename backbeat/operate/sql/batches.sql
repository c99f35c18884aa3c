-- What people see of vendors' batches, and say about them.

-- name: listing
SELECT b.tag, b.status, b.route, b.provider, b.calls, count(c.*) FILTER (WHERE c.status = 'open') AS open, sum(c.reserved_usd) FILTER (WHERE c.status = 'open') AS reserved_usd,
       b.vendor_id, b.cancel, b.looks, b.intended_at, b.next_at, b.note
FROM backbeat.llm_batches b LEFT JOIN backbeat.model_calls c ON c.batch = b.tag
WHERE %(all)s OR b.status NOT IN ('ended', 'lost') GROUP BY b.tag ORDER BY b.intended_at DESC LIMIT %(limit)s

-- name: waiting
SELECT c.route, count(*) AS calls, sum(c.reserved_usd) AS reserved_usd, min(c.opened_at) AS since
FROM backbeat.model_calls c WHERE c.batch = '' AND c.status = 'open' GROUP BY c.route ORDER BY c.route

-- name: matching
SELECT b.tag, b.status, b.note FROM backbeat.llm_batches b WHERE starts_with(b.tag, %(tag)s)

-- name: resolve
SELECT backbeat.resolve_batch(%(tag)s, %(status)s, %(vendor_id)s, %(by)s) AS done
