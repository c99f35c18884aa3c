-- name: open_calls
SELECT n, verdict, seq, response, detail, until FROM backbeat.open_calls(%(worker)s, %(calls)s)

-- name: close_calls
SELECT n FROM backbeat.close_calls(%(ends)s) AS written(n)

-- name: return_blocks
SELECT backbeat.return_blocks(%(worker)s)

-- name: calls_of_lease
SELECT c.call_key, c.seq, c.status, c.tier, c.provider, c.model, c.price_version, c.cost_usd, c.uncached, c.cache_read, c.cache_write,
       c.output, c.reasoning, c.valid, c.stop, c.model_answered, c.response_id, c.error_class, c.error, c.opened_at, c.closed_at
FROM backbeat.model_calls c WHERE c.owner = %(owner)s AND c.lease IS NOT DISTINCT FROM %(lease)s::bigint

-- name: route_p95
SELECT route, percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM closed_at - opened_at)::double precision) AS seconds
FROM (
    SELECT c.route, c.opened_at, c.closed_at FROM backbeat.model_calls c
    WHERE c.status = 'done' AND c.day >= backbeat.utc_day(backbeat.now()) - 1 ORDER BY c.closed_at DESC LIMIT 1000) recent
GROUP BY route

-- name: likely_shares
SELECT workflow, route, least(percentile_cont(0.95) WITHIN GROUP (ORDER BY usd), 1)::numeric AS usd,
       least(percentile_cont(0.95) WITHIN GROUP (ORDER BY tokens), 1)::numeric AS tokens
FROM (
    SELECT c.workflow, c.route, coalesce(c.cost_usd / nullif(c.reserved_usd, 0), 1)::double precision AS usd,
           coalesce((c.uncached + c.cache_read + c.cache_write + c.output)::double precision / nullif(c.reserved_tokens, 0), 1) AS tokens
    FROM backbeat.model_calls c
    WHERE c.status = 'done' AND c.day >= backbeat.utc_day(backbeat.now()) - 1 ORDER BY c.closed_at DESC LIMIT 1000) recent
GROUP BY workflow, route HAVING count(*) >= 20

-- name: beat
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gap) AS seconds FROM (
    SELECT extract(epoch FROM m.minute - lag(m.minute) OVER (ORDER BY m.minute))::double precision AS gap
    FROM (SELECT DISTINCT date_trunc('minute', t.started_at) AS minute FROM backbeat.ticks t WHERE t.id >= backbeat.uuid7_floor(backbeat.now() - interval '6 hours')) m) gaps

-- name: last_prefixes
SELECT DISTINCT ON (workflow, model, prefix) workflow, model, prefix, extract(epoch FROM backbeat.clock() - closed_at)::double precision AS age
FROM (
    SELECT c.workflow, c.model, c.prefix, c.closed_at FROM backbeat.model_calls c
    WHERE c.status = 'done' AND c.prefix IS NOT NULL AND c.day >= backbeat.utc_day(backbeat.now()) - 1 ORDER BY c.closed_at DESC LIMIT 1000) recent
ORDER BY workflow, model, prefix, closed_at DESC
