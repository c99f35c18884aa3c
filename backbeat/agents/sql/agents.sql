-- Agents. Every change of state is a function of migrations/postgres/0011_agents.sql, or follows from how a step's task ended.

-- name: begin_step
SELECT a.id, a.max_steps,
       CASE WHEN j.failed > j.tolerated THEN format('%%s of %%s children failed, %%s are tolerated', j.failed, cardinality(j.children), j.tolerated) END AS failed
FROM backbeat.begin_step(%(task)s, %(lease)s) a LEFT JOIN backbeat.joins j ON j.id = a.task_id

-- name: steps
SELECT number, task_id, action, tool, args, coalesce(reasoning, '') AS reasoning, observation FROM backbeat.agent_steps WHERE agent_id = %(agent)s ORDER BY number

-- name: children
SELECT cardinality(j.children) AS total, c.n, c.id::text AS id, coalesce(a.workflow, f.workflow, t.workflow) AS definition, coalesce(a.status, f.status, t.status) AS status,
       coalesce(a.result, f.result) AS result, coalesce(a.error, f.error) AS error
FROM backbeat.joins j CROSS JOIN LATERAL unnest(j.children) WITH ORDINALITY AS c(id, n)
LEFT JOIN backbeat.agents a ON a.id = c.id LEFT JOIN backbeat.finished_tasks f ON f.id = c.id LEFT JOIN backbeat.simple_tasks t ON t.id = c.id
WHERE j.id = %(join)s ORDER BY c.n OFFSET %(start)s LIMIT %(size)s
