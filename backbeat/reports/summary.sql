-- title: Model calls
-- units: calls calls, lost calls, input_tokens tokens, output_tokens tokens, cost_usd USD, unpriced calls, p50_s s, p95_s s
-- by: workflow, version, tenant, tier, runtime, provider, model, day, week, month, total
-- default: workflow, tier
-- chart: bars cost_usd
-- n: calls
-- source: llm_calls
--
-- A cost is what is known of it: `unpriced` calls (no price, or lost before their bill came) are not in it, and tokens
-- miss them likewise. A refused call was not billed: it is no unpriced one.
SELECT
    {by},
    count() AS calls,
    countIf(CallStatus = 'lost') AS lost,
    sum(InputTokens) AS input_tokens,
    sum(OutputTokens) AS output_tokens,
    if(unpriced = 0, ifNull(sum(CostUsd), 0), sum(CostUsd)) AS cost_usd,
    countIf(CostUsd IS NULL AND CallStatus != 'refused') AS unpriced,
    round(quantileExactIf(0.50)(DurationNs / 1e9, CallStatus NOT IN ('lost', 'refused')), 3) AS p50_s,
    round(quantileExactIf(0.95)(DurationNs / 1e9, CallStatus NOT IN ('lost', 'refused')), 3) AS p95_s
FROM v_llm_calls_in(since = {since}, until = {until})
GROUP BY {keys}
ORDER BY {keys}
