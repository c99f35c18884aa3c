-- What orchestrations ask of Postgres. Every change of state is a function of migrations/postgres/0009_joins.sql.

-- name: project_run
SELECT backbeat.project_run(
    %(workflow)s, %(seq)s, %(status)s, %(run_id)s, %(waiting_for)s, %(result)s::jsonb, %(error)s, %(steps)s::jsonb) AS written

-- name: cancel_orphans
SELECT backbeat.cancel_orphans(%(workflow)s) AS ended

-- name: child_workflow
SELECT id, status, waiting_for, result, error FROM backbeat.child_workflow(%(run)s, %(step)s, %(workflow)s, %(input)s::jsonb)

-- name: add_children
SELECT id, cardinality(children) AS children, children_left AS left, failed, tolerated
FROM backbeat.add_children(%(run)s, %(step)s, %(start)s, %(name)s, %(version)s, %(payloads)s::jsonb[], %(tolerated)s, %(seal)s)

-- name: join
SELECT cardinality(children) AS children, children_left AS left, failed, tolerated, sealed AS known
FROM backbeat.joins WHERE (workflow_id, step) = (%(run)s, %(step)s)

-- name: children
SELECT c.id, c.n::integer - 1 AS n FROM backbeat.joins j CROSS JOIN LATERAL unnest(j.children) WITH ORDINALITY AS c(id, n)
WHERE (j.workflow_id, j.step) = (%(run)s, %(step)s) AND c.n > %(start)s ORDER BY c.n LIMIT %(limit)s

-- name: results
SELECT id, status, result, concat_ws(': ', error_class, error) AS error FROM backbeat.finished_tasks WHERE id = ANY (%(ids)s)

-- name: wrote
SELECT status = 'done' OR fire_until IS NOT NULL AS maybe FROM backbeat.side_effects WHERE key = %(key)s
UNION ALL SELECT true WHERE backbeat.may_be_lost(%(key)s)
