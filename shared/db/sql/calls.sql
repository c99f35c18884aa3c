-- name: open_call
SELECT verdict, seq, response, detail, until FROM backbeat.open_call(
    %(owner)s, %(lease)s, %(key)s, %(request_hash)s, %(route)s, %(tier)s, %(provider)s, %(model)s,
    %(reserve_usd)s, %(reserve_tokens)s, %(price_version)s)

-- name: close_call
SELECT backbeat.close_call(
    %(owner)s, %(key)s, %(seq)s::smallint, %(status)s, %(usage)s::jsonb, %(cost)s, %(response)s::jsonb, %(valid)s,
    %(stop)s, %(model_answered)s, %(response_id)s, %(error_class)s, %(error)s) AS written

-- name: calls_of_lease
SELECT c.call_key, c.seq, c.status, c.tier, c.provider, c.model, c.price_version, c.cost_usd, c.uncached, c.cache_read, c.cache_write,
       c.output, c.reasoning, c.valid, c.stop, c.model_answered, c.response_id, c.error_class, c.error, c.opened_at, c.closed_at
FROM backbeat.model_calls c WHERE c.owner = %(owner)s AND c.lease = %(lease)s

-- name: route_p95
SELECT route, percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM closed_at - opened_at)::double precision) AS seconds
FROM (
    SELECT c.route, c.opened_at, c.closed_at FROM backbeat.model_calls c
    WHERE c.status = 'done' AND c.day >= backbeat.utc_day(backbeat.now()) - 1 ORDER BY c.closed_at DESC LIMIT 1000) recent
GROUP BY route
