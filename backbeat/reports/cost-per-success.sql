-- title: What a task that succeeds costs
-- units: tasks tasks, succeeded tasks, success_rate ratio, cost_usd USD, cost_per_success_usd USD, unpriced calls
-- by: workflow, version, tenant, runtime, day, week, month, total
-- chart: bars cost_per_success_usd
-- n: tasks
-- source: llm_calls, task_runs
--
-- All calls of the period, those of failed attempts too, over the tasks that succeeded in it. Nothing succeeded: unknown.
SELECT
    {keys},
    uniqExact(TaskKey) AS tasks,
    uniqExactIf(TaskKey, Succeeded) AS succeeded,
    succeeded / tasks AS success_rate,
    if(unpriced = 0, ifNull(sum(Cost), 0), sum(Cost)) AS cost_usd,
    toDecimal128(cost_usd, 12) / nullIf(succeeded, 0) AS cost_per_success_usd,
    sum(Unpriced) AS unpriced
FROM (
    SELECT {by}, TaskKey, CostUsd AS Cost, CostUsd IS NULL AND CallStatus != 'refused' AS Unpriced, false AS Succeeded
    FROM v_llm_calls_in(since = {since}, until = {until})
    UNION ALL
    SELECT {by}, TaskKey, NULL AS Cost, false AS Unpriced, Outcome = 'succeed' AS Succeeded
    FROM v_task_runs_in(since = {since}, until = {until})
)
GROUP BY {keys}
ORDER BY {keys}
