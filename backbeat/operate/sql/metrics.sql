-- What Postgres knows of the whole house, for whoever watches it. One label has at most as many values as %(most)s, and
-- one more for the rest. Each reads live rows, or a window of recent ones by an index.

-- name: queue
WITH counted AS (
    SELECT t.tenant, t.status, count(*) AS tasks, min(t.created_at) AS oldest FROM backbeat.simple_tasks t GROUP BY t.tenant, t.status
), ranked AS (
    SELECT c.tenant, row_number() OVER (ORDER BY sum(c.tasks) DESC, c.tenant) <= %(most)s AS named FROM counted c GROUP BY c.tenant
)
SELECT CASE WHEN r.named THEN c.tenant ELSE '_other' END AS tenant, c.status, sum(c.tasks) AS tasks,
       extract(epoch FROM backbeat.now() - min(c.oldest))::double precision AS age
FROM counted c JOIN ranked r USING (tenant) GROUP BY 1, 2 ORDER BY 1, 2

-- name: held
SELECT coalesce(t.hold_reason, '') AS reason, count(*) AS tasks FROM backbeat.simple_tasks t WHERE t.status = 'held' GROUP BY 1 ORDER BY 1

-- What a claim walks, without its locks.
-- name: walk
SELECT count(*) AS rows FROM (SELECT FROM backbeat.simple_tasks t WHERE t.status = 'ready' ORDER BY t.tier, t.vstart, t.id LIMIT 100) w

-- name: ticks
SELECT count(*) AS ticks, coalesce(sum(k.claimed), 0) AS claimed, coalesce(sum(k.settled), 0) AS settled,
       count(*) FILTER (WHERE k.ended_at IS NULL) AS unended,
       (SELECT extract(epoch FROM backbeat.now() - l.started_at)::double precision FROM backbeat.ticks l ORDER BY l.id DESC LIMIT 1) AS age
FROM backbeat.ticks k WHERE k.id >= backbeat.uuid7_floor(backbeat.now() - interval '5 minutes')

-- name: routes
WITH recent AS (
    SELECT c.route, count(*) FILTER (WHERE c.status = 'done') AS done, count(*) FILTER (WHERE c.status = 'open') AS open
    FROM (SELECT o.route, o.status FROM backbeat.model_calls o WHERE o.status = 'open'
          UNION ALL SELECT d.route, d.status FROM backbeat.model_calls d WHERE d.status = 'done' AND d.closed_at > backbeat.clock() - interval '1 minute') c
    GROUP BY c.route
), ranked AS (
    SELECT route, coalesce(n.done, 0) AS done, coalesce(n.open, 0) AS open, coalesce(backbeat.shrunk(r), 1) AS share,
           coalesce(r.blocked_until > backbeat.clock(), false) OR EXISTS (SELECT FROM backbeat.pauses p WHERE (p.scope, p.key) = ('route', route)) AS shut,
           row_number() OVER (ORDER BY coalesce(n.done, 0) DESC, route) <= %(most)s AS named
    FROM recent n FULL JOIN backbeat.llm_rate r USING (route)
)
SELECT CASE WHEN r.named THEN r.route ELSE '_other' END AS route, sum(r.done) AS done, sum(r.open) AS open, min(r.share) AS share, bool_or(r.shut) AS shut
FROM ranked r GROUP BY 1 ORDER BY 1

-- The ones that are nearest to their end.
-- name: budgets
SELECT b.scope, b.key, greatest(b.cap_usd - b.spent_usd - b.presumed_usd - b.reserved_usd, 0)::double precision AS usd,
       greatest(b.cap_tokens - b.spent_tokens - b.presumed_tokens - b.reserved_tokens, 0)::double precision AS tokens, s.share
FROM backbeat.budgets b CROSS JOIN LATERAL (
    SELECT least(greatest(1 - (b.spent_usd + b.presumed_usd + b.reserved_usd) / nullif(b.cap_usd, 0), 0),
                 greatest(1 - (b.spent_tokens + b.presumed_tokens + b.reserved_tokens)::numeric / nullif(b.cap_tokens, 0), 0))::double precision AS share) s
WHERE b.day = backbeat.utc_day(backbeat.now()) AND b.scope IN ('tenant', 'workflow') AND (b.cap_usd IS NOT NULL OR b.cap_tokens IS NOT NULL)
ORDER BY s.share NULLS FIRST, b.scope, b.key LIMIT %(most)s

-- name: spent
SELECT coalesce(sum(b.spent_usd), 0)::double precision AS spent, coalesce(sum(b.presumed_usd), 0)::double precision AS presumed,
       coalesce(sum(b.overrun_usd), 0)::double precision AS overrun, coalesce(sum(b.unpriced_calls), 0) AS unpriced
FROM backbeat.budgets b WHERE b.day = backbeat.utc_day(backbeat.now()) AND b.scope = 'tenant'

-- name: outbox
SELECT count(*) AS waiting, extract(epoch FROM backbeat.now() - min(o.created_at))::double precision AS age,
       (SELECT count(*) FROM backbeat.temporal_outbox d WHERE d.dead_at IS NOT NULL) AS dead
FROM backbeat.temporal_outbox o WHERE o.delivered_at IS NULL AND o.dead_at IS NULL

-- name: spans
SELECT count(*) FILTER (WHERE o.refused IS NULL) AS waiting, count(o.refused) AS refused,
       (SELECT coalesce(sum(h.shed), 0) FROM backbeat.telemetry_hosts h) AS shed
FROM backbeat.telemetry_outbox o

-- name: people
SELECT count(*) AS waiting, extract(epoch FROM backbeat.now() - min(a.requested_at))::double precision AS age,
       count(*) FILTER (WHERE a.deadline < backbeat.now() + interval '1 hour') AS urgent,
       (SELECT count(*) FROM backbeat.dead_letters d WHERE d.resolved_at IS NULL) AS dead,
       (SELECT count(*) FROM backbeat.side_effects e WHERE e.status = 'unknown') AS unknown,
       (SELECT count(*) FROM backbeat.switches) AS stops
FROM backbeat.approval_requests a WHERE a.state IN ('pending', 'changes')
