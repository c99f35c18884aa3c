-- What people say about routes, and how these stand.

-- name: set
SELECT backbeat.set_route(%(scope)s, %(key)s, %(body)s::jsonb, %(by)s) AS was

-- name: unblock
SELECT backbeat.block_route(%(route)s, NULL, NULL, false) AS done

-- name: standing
SELECT r.route, backbeat.shrunk(r) AS rate, CASE WHEN r.blocked_until > backbeat.clock() THEN r.blocked_until END AS blocked_until, r.blocked_by, r.told FROM backbeat.llm_rate r

-- name: last_minute
SELECT c.route, count(*) AS requests, sum(c.uncached + c.cache_write) AS input, sum(c.output) AS output, count(*) FILTER (WHERE c.status = 'open') AS in_flight
FROM (
    SELECT * FROM backbeat.model_calls o WHERE o.status = 'open'
    UNION ALL SELECT * FROM backbeat.model_calls d WHERE d.status = 'done' AND d.closed_at > backbeat.clock() - interval '1 minute') c
GROUP BY c.route

-- name: held
SELECT key, reason FROM backbeat.pauses WHERE scope = 'route'
