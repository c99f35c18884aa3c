-- A deep backlog: %(rows)s rows of 2,000 tenants, 50,000 of them in the windows of their flows, and 5,000 in a bulk lane.

INSERT INTO backbeat.tenants (id) SELECT 'tenant ' || n FROM generate_series(1, 2000) n;
INSERT INTO backbeat.flows (tenant, tier, class, last_v, ready)
SELECT 'tenant ' || n, 'small', 'normal', 25, 25 FROM generate_series(1, 2000) n;
INSERT INTO backbeat.flows (tenant, tier, class) VALUES ('default', 'bulk/rules', 'normal');
INSERT INTO backbeat.virtual_time (tier) VALUES ('small'), ('bulk/rules') ON CONFLICT DO NOTHING;
INSERT INTO backbeat.simple_tasks (
    id, tenant, workflow, version, tier, class, payload, status, vstart, estimate, max_attempts, origin_id, traceparent, created_at)
SELECT id, 'tenant ' || (1 + n % 2000), 'alpha', 1, 'small', 'normal', '{}', s.status,
       CASE s.status WHEN 'ready' THEN n / 4000.0 END, CASE s.status WHEN 'ready' THEN 1 END, 3, id, '00-' || repeat('a', 32) || '-' || repeat('b', 16) || '-01', now()
FROM generate_series(1, %(rows)s) n, LATERAL (SELECT backbeat.uuid7() AS id, CASE WHEN n <= 50000 THEN 'ready' ELSE 'pending' END AS status OFFSET 0) s;
INSERT INTO backbeat.simple_tasks (
    id, tenant, workflow, version, tier, class, payload, status, max_attempts, origin_id, traceparent, created_at)
SELECT id, 'default', 'screen', 1, 'bulk/rules', 'normal', '{}', 'pending', 3, id, '00-' || repeat('a', 32) || '-' || repeat('b', 16) || '-01', now()
FROM generate_series(1, 5000) n, LATERAL (SELECT backbeat.uuid7() AS id WHERE n > 0) s;
ANALYZE backbeat.simple_tasks; ANALYZE backbeat.flows; ANALYZE backbeat.tenants;
