-- How tasks come in, and for whom. Every change of state is a function of migrations/postgres/0006_enqueue.sql.

-- name: enqueue
SELECT * FROM backbeat.enqueue(
    %(workflow)s, %(version)s, %(payloads)s::jsonb[], %(keys)s::bytea[], %(tenant)s, %(class)s,
    %(run_after)s, %(expires_at)s, %(source_at)s::timestamptz[], %(traceparent)s, %(origin)s, %(parent)s)

-- name: make_stage
CREATE TEMPORARY TABLE backbeat_stage (payload jsonb, key bytea) ON COMMIT DROP

-- name: fill_stage
COPY pg_temp.backbeat_stage (payload, key) FROM STDIN

-- name: enqueue_stage
SELECT e.task_id FROM (SELECT array_agg(s.payload ORDER BY s.ctid) AS payloads, array_agg(s.key ORDER BY s.ctid) AS keys FROM pg_temp.backbeat_stage s) g,
    backbeat.enqueue(%(workflow)s, %(version)s, g.payloads, g.keys, %(tenant)s, %(class)s,
        %(run_after)s, %(expires_at)s, NULL, %(traceparent)s, %(origin)s, %(parent)s) e
WHERE e.created

-- name: drop_stage
DROP TABLE pg_temp.backbeat_stage
