-- Agents, as people look at them and take a hand in them.

-- name: agents
SELECT a.id, a.workflow, a.version, a.status, a.steps, b.spent_tokens + b.presumed_tokens AS tokens, b.cap_tokens, b.spent_usd + b.presumed_usd AS cost_usd,
       a.tenant, a.parent_id IS NOT NULL AS child, a.forked_from, a.error, a.created_at, a.finished_at
FROM backbeat.agents a LEFT JOIN backbeat.budgets b ON (b.scope, b.key, b.day) = ('agent', a.id::text, '-infinity')
WHERE a.created_at > backbeat.now() - %(since)s::interval AND a.status = ANY (coalesce(%(statuses)s::text[], ARRAY[a.status]))
  AND a.workflow = coalesce(%(workflow)s, a.workflow) ORDER BY a.id DESC LIMIT %(limit)s

-- name: agent
SELECT a.*, b.spent_tokens + b.presumed_tokens AS tokens, b.cap_tokens, b.spent_usd + b.presumed_usd AS cost_usd, b.cap_usd, j.children_left, j.failed AS children_failed
FROM backbeat.agents a LEFT JOIN backbeat.budgets b ON (b.scope, b.key, b.day) = ('agent', a.id::text, '-infinity') LEFT JOIN backbeat.joins j ON j.id = a.task_id
WHERE a.id = %(id)s

-- name: steps
SELECT number, action, tool, args, reasoning, output, observation, input_tokens, output_tokens, input_tokens + output_tokens AS tokens, cost_usd, task_id, ended_at
FROM backbeat.agent_steps WHERE agent_id = %(id)s ORDER BY number

-- name: cancel
SELECT coalesce(sum(c), 0) AS ended FROM backbeat.cancel_agent(%(id)s, %(reason)s, %(by)s) AS c

-- name: resume
SELECT min(t::text) AS task FROM backbeat.resume_agent(%(id)s, %(tokens)s, %(usd)s, %(steps)s, %(by)s, %(reason)s) AS t

-- name: fork
SELECT min(f::text) AS fork FROM backbeat.fork_agent(%(id)s, %(steps)s::integer, backbeat.uuid7(), %(by)s) AS f
