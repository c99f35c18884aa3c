-- How the tables and the sessions on them are. Real time: sessions and vacuums know no other.

-- name: tables
SELECT c.relname AS name, s.n_live_tup AS live, s.n_dead_tup AS dead, greatest(s.last_autovacuum, s.last_vacuum) AS vacuumed_at,
       extract(epoch FROM clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::double precision AS vacuumed_ago,
       current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean
           AND coalesce(c.reloptions @> '{autovacuum_enabled=false}', false) IS FALSE AS vacuumed_by_itself
FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.schemaname = 'backbeat' AND c.relname IN ('simple_tasks', 'flows', 'virtual_time', 'budgets', 'model_calls', 'idempotency')
ORDER BY s.n_dead_tup DESC, c.relname

-- Live rows at 100 bytes an entry, which is more than ours take, and what a page of 8 kB wastes.
-- name: indexes
SELECT c.relname AS name, pg_relation_size(c.oid) AS bytes, greatest(s.n_live_tup, 0) * 100 + 65536 AS expected
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_stat_all_tables s ON s.relid = i.indrelid
WHERE s.schemaname = 'backbeat' AND s.relname IN ('simple_tasks', 'flows', 'budgets') ORDER BY 2 DESC, 1

-- name: holders
SELECT * FROM (
    SELECT 'pid ' || a.pid AS who, a.pid, coalesce(nullif(a.application_name, ''), r.rolname, '?') AS application, age(a.backend_xmin) AS transactions,
           extract(epoch FROM clock_timestamp() - a.xact_start)::double precision AS seconds
    FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
    WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid() AND (a.datname = current_database() OR a.datname IS NULL)
    UNION ALL
    SELECT 'replication slot ' || s.slot_name, NULL, s.plugin, greatest(age(s.xmin), age(s.catalog_xmin)), NULL FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction ' || p.gid, NULL, p.owner, age(p.transaction), extract(epoch FROM clock_timestamp() - p.prepared)::double precision
    FROM pg_prepared_xacts p WHERE p.database = current_database()) h
ORDER BY transactions DESC, seconds DESC NULLS LAST LIMIT 1

-- name: idle
SELECT count(*) FILTER (WHERE a.state LIKE 'idle in transaction%%' AND a.state_change < clock_timestamp() - interval '1 minute') AS idle,
       min(a.pid) FILTER (WHERE a.state LIKE 'idle in transaction%%' AND a.state_change < clock_timestamp() - interval '1 minute') AS pid,
       count(*) FILTER (WHERE a.backend_type IS NULL) AS hidden
FROM pg_stat_activity a WHERE a.datname = current_database() AND a.usesysid IS NOT NULL

-- name: queue
SELECT (SELECT coalesce(trim_scale(sum(b.overrun_usd)), 0) FROM backbeat.budgets b WHERE (b.scope, b.day) = ('tenant', backbeat.utc_day(backbeat.now()))) AS overrun,
       (SELECT string_agg(r.said, ', ' ORDER BY r.said) FROM (
            SELECT p.key || ' held' AS said FROM backbeat.pauses p WHERE p.scope = 'route'
            UNION ALL SELECT l.route || ': ' || l.blocked_by FROM backbeat.llm_rate l
            WHERE l.blocked_until > backbeat.clock() AND l.blocked_by NOT IN ('rate_limited', 'overloaded', 'unavailable', 'used_up')) r) AS shut,
       (SELECT count(*) FROM backbeat.dead_letters d WHERE d.resolved_at IS NULL) AS dead,
       (SELECT count(*) FROM backbeat.notifications n WHERE n.routed_at IS NULL) + (SELECT count(*) FROM backbeat.messages m WHERE m.status = 'open') AS unsent,
       (SELECT extract(epoch FROM backbeat.now() - least((SELECT min(n.created_at) FROM backbeat.notifications n WHERE n.routed_at IS NULL),
            (SELECT min(m.due_at) FROM backbeat.messages m WHERE m.status = 'open')))::double precision) AS unsent_for,
       (SELECT count(*) FROM backbeat.messages m WHERE m.status = 'dead' AND m.due_at > backbeat.now() - interval '1 day') AS unsendable,
       EXISTS (SELECT FROM backbeat.messages) AS channels,
       (SELECT extract(epoch FROM backbeat.now() - min(t.created_at))::double precision FROM backbeat.simple_tasks t
        WHERE t.status IN ('pending', 'ready') AND NOT EXISTS (SELECT FROM backbeat.switches s WHERE s.name = 'all')
            AND NOT EXISTS (SELECT FROM backbeat.pauses p WHERE (p.scope, p.key) IN (('tenant', t.tenant), ('workflow', t.workflow)))) AS waits,
       (SELECT count(*) FROM backbeat.ticks k WHERE k.id >= backbeat.uuid7_floor(backbeat.now() - interval '5 minutes')) AS ticks,
       (SELECT max(right(c.relname, 8))::date - backbeat.utc_day(backbeat.now()) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'backbeat.finished_tasks'::regclass AND c.relname ~ '\d{8}$') AS days_ahead

-- name: stops
SELECT CASE s.name WHEN 'all' THEN 'all work is' ELSE 'effects are' END || ' stopped' AS what, s.thrown_at AS since, s.thrown_by AS by, s.reason,
       'backbeat resume --' || s.name AS undo, true AS switch
FROM backbeat.switches s
UNION ALL
SELECT format('%s %s is paused', p.scope, p.key), p.paused_at, p.paused_by, p.reason, format('backbeat %s resume %s', p.scope, p.key), false
FROM backbeat.pauses p WHERE p.scope IN ('tenant', 'workflow') ORDER BY switch DESC, since, what

-- name: spools
SELECT h.host, h.files, h.quarantined, h.shed, extract(epoch FROM backbeat.clock() - h.oldest_at)::double precision AS oldest FROM backbeat.telemetry_hosts h
UNION ALL
SELECT 'Postgres', count(*) FILTER (WHERE o.refused IS NULL), count(o.refused), 0, extract(epoch FROM backbeat.clock()
    - to_timestamp(min(('x' || translate(left(o.id::text, 13), '-', ''))::bit(48)::bigint) FILTER (WHERE o.refused IS NULL) / 1000.0))::double precision
FROM backbeat.telemetry_outbox o HAVING count(*) > 0
ORDER BY oldest DESC NULLS LAST
