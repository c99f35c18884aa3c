-- Calls, tokens, cost and latency by workflow and tier. Each call counts once. A cost is what is known of it:
-- `unpriced` calls (no price, or lost before their bill came) are not in it, and tokens miss them likewise.
SELECT
    Workflow AS workflow,
    Tier AS tier,
    count() AS calls,
    countIf(CallStatus = 'lost') AS lost,
    sum(InputTokens) AS input_tokens,
    sum(OutputTokens) AS output_tokens,
    sum(CostUsd) AS cost_usd,
    countIf(CostUsd IS NULL) AS unpriced,
    round(quantileExactIf(0.50)(DurationNs / 1e9, CallStatus != 'lost'), 3) AS p50_s,
    round(quantileExactIf(0.95)(DurationNs / 1e9, CallStatus != 'lost'), 3) AS p95_s
FROM v_llm_calls
WHERE Timestamp >= {since:DateTime64(9, 'UTC')}
GROUP BY workflow, tier
ORDER BY workflow, tier
