-- title: Prompts, version by version
-- units: tasks tasks, calls calls, calls_per_task calls, input_tokens_per_task tokens, output_tokens_per_task tokens
-- units: cost_per_task_usd USD, pass_rate ratio, unpriced calls, findings findings
-- units: false_positive_rate share of what was found, accuracy share of what was judged
-- by: workflow, version, tenant, tier, runtime, provider, model, day, week, month, total
-- default: workflow, version
-- chart: bars input_tokens_per_task
-- n: calls
-- source: llm_calls
-- source: feedback
-- since: 35d
--
-- Version A stands beside version B; --by workflow,week shows a prompt that creeps. Tokens and cost per task
-- are of the tasks for which they are known. Passed / (passed + failed) is of answers that a schema was asked of.
-- What people said in the period of the results of these tasks is counted as in `quality`.
WITH words AS (
    SELECT
        task, countIf(label = 'correct') AS correct, countIf(label = 'false_positive') AS false_positive,
        countIf(label = 'wrong') AS wrong, countIf(label = 'missed') AS missed, count() AS findings
    FROM (
        -- Told twice, a word is still the last one.
        SELECT cityHash64(TaskId) AS task, argMax(Label, (Timestamp, FeedbackId)) AS label FROM feedback
        WHERE Timestamp >= {since} AND Timestamp < {until} GROUP BY task, cityHash64(Finding))
    GROUP BY task
)
SELECT
    {keys},
    any(p.tasks) AS tasks,
    any(p.calls) AS calls,
    any(p.calls_per_task) AS calls_per_task,
    any(p.input_tokens_per_task) AS input_tokens_per_task,
    any(p.output_tokens_per_task) AS output_tokens_per_task,
    any(p.cost_per_task_usd) AS cost_per_task_usd,
    any(p.pass_rate) AS pass_rate,
    any(p.unpriced) AS unpriced,
    sum(w.findings) AS findings,
    round(sum(w.false_positive) / nullIf(sum(w.correct + w.false_positive + w.wrong), 0), 4) AS false_positive_rate,
    round(sum(w.correct) / nullIf(sum(w.correct + w.false_positive + w.wrong + w.missed), 0), 4) AS accuracy
FROM (
    SELECT
        {by},
        uniqExact(TaskKey) AS tasks,
        count() AS calls,
        calls / tasks AS calls_per_task,
        sum(InputTokens) / nullIf(uniqExactIf(TaskKey, InputTokens IS NOT NULL), 0) AS input_tokens_per_task,
        sum(OutputTokens) / nullIf(uniqExactIf(TaskKey, OutputTokens IS NOT NULL), 0) AS output_tokens_per_task,
        toDecimal128(sum(CostUsd), 12) / nullIf(uniqExactIf(TaskKey, CostUsd IS NOT NULL), 0) AS cost_per_task_usd,
        countIf(Validation = 'passed') / nullIf(countIf(Validation IN ('passed', 'failed')), 0) AS pass_rate,
        countIf(CostUsd IS NULL AND CallStatus != 'refused') AS unpriced,
        groupUniqArrayIf(TaskKey, TaskKey IN (SELECT task FROM words)) AS judged
    FROM v_llm_calls_in(since = {since}, until = {until})
    GROUP BY {keys}
) AS p
LEFT ARRAY JOIN judged AS judged_task
LEFT JOIN words AS w ON w.task = judged_task
GROUP BY {keys}
ORDER BY {keys}
