-- title: Shares of tiers and runtimes
-- units: calls calls, tasks tasks, cost_usd USD, unpriced calls, share ratio, usual ratio, apart ratio
-- labels: of, name
-- chart: shares share usual
-- n: tasks
-- source: llm_calls
--
-- A tier's share is of calls, a runtime's of tasks that called a model. Usual is what teams commonly settle on: 70 % of
-- calls small, 25 % medium, 5 % large; 90 % of tasks by cron, 10 % in Temporal.
SELECT
    kind AS of,
    name,
    calls,
    tasks,
    cost_usd,
    unpriced,
    if(kind = 'tier', calls / sum(calls) OVER (PARTITION BY kind), tasks / sum(tasks) OVER (PARTITION BY kind)) AS share,
    transform(concat(kind, ' ', name),
        ['tier small', 'tier medium', 'tier large', 'runtime cron', 'runtime temporal'], [0.7, 0.25, 0.05, 0.9, 0.1],
        CAST(NULL AS Nullable(Float64))) AS usual,
    share - usual AS apart
FROM (
    SELECT
        kind_name.1 AS kind,
        kind_name.2 AS name,
        sum(Calls) AS calls,
        uniqExactMerge(Tasks) AS tasks,
        if(unpriced = 0, ifNull(sum(Cost), 0), sum(Cost)) AS cost_usd,
        sum(Unpriced) AS unpriced
    FROM (
        SELECT
            Tier,
            Runtime,
            count() AS Calls,
            uniqExactState(TaskKey) AS Tasks,
            sum(CostUsd) AS Cost,
            countIf(CostUsd IS NULL AND CallStatus != 'refused') AS Unpriced
        FROM v_llm_calls_in(since = {since}, until = {until})
        GROUP BY Tier, Runtime
    )
    ARRAY JOIN [('tier', toString(Tier)), ('runtime', toString(Runtime))] AS kind_name
    GROUP BY kind, name
)
ORDER BY of DESC, usual DESC NULLS LAST, name
