-- title: What model calls cost
-- units: tasks tasks, calls calls, input_tokens tokens, output_tokens tokens, cost_usd USD, cost_per_task_usd USD
-- units: unpriced calls
-- by: workflow, version, tenant, tier, runtime, provider, model, day, week, month, total
-- chart: bars cost_usd
-- n: calls
-- source: llm_calls
--
-- For a chargeback: --by month,tenant --since 2026-10-01 --until 2026-11-01. Each month's costs add up to the last digit.
-- A task that calls two models counts under both. `unpriced` calls are in no cost, and a task without any known cost is
-- not among those that cost per task is of.
SELECT
    {by},
    uniqExact(TaskKey) AS tasks,
    count() AS calls,
    sum(InputTokens) AS input_tokens,
    sum(OutputTokens) AS output_tokens,
    if(unpriced = 0, ifNull(sum(CostUsd), 0), sum(CostUsd)) AS cost_usd,
    toDecimal128(cost_usd, 12) / nullIf(uniqExactIf(TaskKey, CostUsd IS NOT NULL), 0) AS cost_per_task_usd,
    countIf(CostUsd IS NULL AND CallStatus != 'refused') AS unpriced
FROM v_llm_calls_in(since = {since}, until = {until})
GROUP BY {keys}
ORDER BY {keys}
