-- name: admit
SELECT n, verdict, wait, charged FROM backbeat.admit(%(worker)s, %(route)s, %(limits)s::double precision[], %(most)s, %(news)s, %(asks)s)

-- name: block
SELECT backbeat.block_route(%(route)s, %(seconds)s, %(why)s, %(shrink)s) AS first

-- name: said
SELECT l.scope, l.key, l.body, NULL::double precision AS seconds FROM backbeat.llm_routes l
UNION ALL SELECT 'paused', p.key, NULL, NULL FROM backbeat.pauses p WHERE p.scope = 'route'
UNION ALL SELECT 'blocked', r.route, to_jsonb(r.blocked_by), extract(epoch FROM r.blocked_until - backbeat.clock())
FROM backbeat.llm_rate r WHERE r.blocked_until > backbeat.clock()
UNION ALL SELECT 'limited', r.route, to_jsonb(r.told), NULL
FROM backbeat.llm_rate r WHERE r.pace IS NOT NULL OR r.told IS DISTINCT FROM '{NULL,NULL,NULL}'
