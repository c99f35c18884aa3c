-- title: Calls that were paid for in vain
-- units: calls calls, refused calls, failed calls, invalid calls, lost calls, wasted_usd USD, cost_usd USD, share ratio
-- units: unpriced calls
-- by: workflow, version, tenant, tier, runtime, provider, model, error = ErrorType, day, week, month, total
-- chart: bars wasted_usd
-- n: calls
-- source: llm_calls
--
-- Refused: not billed, and in no cost. Failed: it ended in an error. Invalid: it was answered, but not with what the
-- schema wants. Lost: sent, and nobody heard of its end: its cost is unknown and among `unpriced` (of calls in vain only).
WITH (CallStatus = 'lost' OR StatusCode = 'Error' OR Validation = 'failed') AND CallStatus != 'refused' AS in_vain
SELECT
    {by},
    count() AS calls,
    countIf(CallStatus = 'refused') AS refused,
    countIf(in_vain AND CallStatus != 'lost' AND StatusCode = 'Error') AS failed,
    countIf(in_vain AND CallStatus != 'lost' AND StatusCode != 'Error') AS invalid,
    countIf(CallStatus = 'lost') AS lost,
    if(unpriced = 0, ifNull(sumIf(CostUsd, in_vain), 0), sumIf(CostUsd, in_vain)) AS wasted_usd,
    if(countIf(CostUsd IS NULL AND CallStatus != 'refused') = 0, ifNull(sum(CostUsd), 0), sum(CostUsd)) AS cost_usd,
    toFloat64(wasted_usd) / nullIf(toFloat64(cost_usd), 0) AS share,
    countIf(in_vain AND CostUsd IS NULL) AS unpriced
FROM v_llm_calls_in(since = {since}, until = {until})
GROUP BY {keys}
ORDER BY {keys}
