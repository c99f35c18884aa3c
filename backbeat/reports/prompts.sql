-- title: Prompts, version by version
-- units: tasks tasks, calls calls, calls_per_task calls, input_tokens_per_task tokens, output_tokens_per_task tokens
-- units: cost_per_task_usd USD, pass_rate ratio, unpriced calls
-- by: workflow, version, tenant, tier, runtime, provider, model, day, week, month, total
-- default: workflow, version
-- chart: bars input_tokens_per_task
-- n: tasks
-- source: llm_calls
-- since: 35d
--
-- Version A stands beside version B; --by workflow,week shows a prompt that creeps. Tokens and cost per task
-- are of the tasks for which they are known. Passed / (passed + failed) is of answers that a schema was asked of.
SELECT
    {by},
    uniqExact(TaskKey) AS tasks,
    count() AS calls,
    calls / tasks AS calls_per_task,
    sum(InputTokens) / nullIf(uniqExactIf(TaskKey, InputTokens IS NOT NULL), 0) AS input_tokens_per_task,
    sum(OutputTokens) / nullIf(uniqExactIf(TaskKey, OutputTokens IS NOT NULL), 0) AS output_tokens_per_task,
    toDecimal128(sum(CostUsd), 12) / nullIf(uniqExactIf(TaskKey, CostUsd IS NOT NULL), 0) AS cost_per_task_usd,
    countIf(Validation = 'passed') / nullIf(countIf(Validation IN ('passed', 'failed')), 0) AS pass_rate,
    countIf(CostUsd IS NULL AND CallStatus != 'refused') AS unpriced
FROM v_llm_calls_in(since = {since}, until = {until})
GROUP BY {keys}
ORDER BY {keys}
