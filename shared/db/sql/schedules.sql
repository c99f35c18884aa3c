-- Schedules. Every change is a function of migrations/postgres/0007_schedules.sql.

-- name: due
SELECT s.*, backbeat.now() AS now FROM backbeat.schedules s
WHERE s.next_at <= backbeat.now() AND NOT s.paused AND (s.selector IS NULL OR s.workflow || '@' || s.version = ANY (%(loaded)s::text[]))
ORDER BY s.next_at, s.name LIMIT 100

-- name: fire
SELECT backbeat.fire_schedule(%(name)s, %(watermark)s, %(slot)s, %(next_at)s, %(payloads)s::jsonb[], %(keys)s::bytea[],
    %(run_after)s, %(note)s) AS tasks

-- name: select
SELECT payload FROM backbeat.run_selector(%(name)s, %(watermark)s, %(limit)s) AS found(payload)

-- name: limit
SELECT set_config('statement_timeout', %(milliseconds)s::text, true)
