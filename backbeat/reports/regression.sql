-- title: Cost per task: last complete week against the one before
-- units: monday day, tasks tasks, tasks_before tasks, cost_per_task_usd USD, before_usd USD, change ratio
-- units: calls_per_task ln ratio, tokens_per_call ln ratio, price_per_token ln ratio, retries ln ratio, unpriced calls
-- by: workflow, version, tenant, tier, runtime, provider, model, total
-- chart: parts calls_per_task tokens_per_call price_per_token retries
-- n: tasks
-- source: llm_calls
-- since: 21d
--
-- Cost per task is (first-attempt calls / tasks) x (all calls / first-attempt calls) x (tokens / calls) x (cost / tokens).
-- Each part says by how much it changed, as a natural logarithm: they add up to ln(1 + change), and exp(part) is a factor.
-- Weeks begin on Monday in --zone, so one with a change of clocks has an hour more or less; the current one is left out.
-- With fewer than 30 tasks in either week nothing is compared: change is unknown. Calls whose cost or tokens are unknown
-- are in no figure but `unpriced` (of both weeks).
WITH
    toMonday(toDate({until}, {zone})) AS this_monday,
    this_monday - 7 AS last_monday,
    this_monday - 14 AS monday_before
SELECT
    {keys},
    last_monday AS monday,
    Tasks[2] AS tasks,
    Tasks[1] AS tasks_before,
    toDecimal128(Cost[2], 12) / nullIf(tasks, 0) AS cost_per_task_usd,
    toDecimal128(Cost[1], 12) / nullIf(tasks_before, 0) AS before_usd,
    if(judged, exp(ln_cost - ln_tasks) - 1, NULL) AS change,
    if(judged AND Firsts[1] > 0 AND Firsts[2] > 0, ln_firsts - ln_tasks, NULL) AS calls_per_task,
    if(judged, ln_tokens - ln_calls, NULL) AS tokens_per_call,
    if(judged, ln_cost - ln_tokens, NULL) AS price_per_token,
    if(judged AND Firsts[1] > 0 AND Firsts[2] > 0, ln_calls - ln_firsts, NULL) AS retries,
    Unpriced[1] + Unpriced[2] AS unpriced
FROM (
    SELECT
        {keys},
        sumForEach(if(Week = monday_before, [TaskCount, 0], [0, TaskCount])) AS Tasks,
        sumForEach(if(Week = monday_before, [FirstCalls, 0], [0, FirstCalls])) AS Firsts,
        sumForEach(if(Week = monday_before, [PricedCalls, 0], [0, PricedCalls])) AS Priced,
        sumForEach(if(Week = monday_before, [Tokens, 0], [0, Tokens])) AS AllTokens,
        sumForEach(if(Week = monday_before, [KnownCost, toDecimal128(0, 9)], [toDecimal128(0, 9), KnownCost])) AS Cost,
        sumForEach(if(Week = monday_before, [UnpricedCalls, 0], [0, UnpricedCalls])) AS Unpriced,
        Tasks[1] >= 30 AND Tasks[2] >= 30 AND Cost[1] > 0 AND Cost[2] > 0 AND AllTokens[1] > 0 AND AllTokens[2] > 0 AS judged,
        log(Tasks[2] / Tasks[1]) AS ln_tasks,
        log(Firsts[2] / Firsts[1]) AS ln_firsts,
        log(Priced[2] / Priced[1]) AS ln_calls,
        log(AllTokens[2] / AllTokens[1]) AS ln_tokens,
        log(toFloat64(Cost[2]) / toFloat64(Cost[1])) AS ln_cost
    FROM (
        WITH CostUsd IS NOT NULL AND InputTokens IS NOT NULL AND OutputTokens IS NOT NULL AS Known
        SELECT
            {by},
            toMonday(toDate(Timestamp, {zone})) AS Week,
            uniqExactIf(TaskKey, Known) AS TaskCount,
            countIf(Known AND Attempt <= 1) AS FirstCalls,
            countIf(Known) AS PricedCalls,
            ifNull(sumIf(InputTokens + OutputTokens, Known), 0) AS Tokens,
            ifNull(sumIf(CostUsd, Known), toDecimal128(0, 9)) AS KnownCost,
            countIf(NOT Known AND CallStatus != 'refused') AS UnpricedCalls
        FROM v_llm_calls_in(since = {since}, until = {until})
        WHERE Week IN (monday_before, last_monday) AND toDateTime(monday_before, {zone}) >= {since}
        GROUP BY {keys}, Week
    )
    GROUP BY {keys}
)
ORDER BY change DESC NULLS LAST, {keys}
