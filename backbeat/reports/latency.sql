-- title: How long model calls take
-- units: calls calls, refused calls, lost calls, p50_s s, p95_s s, p99_s s, max_s s
-- by: model, tools_offered = ToolBucket, tools_called = multiIf(ToolsCalled = 0, '0', ToolsCalled <= 5, '1-5', ToolsCalled <= 10, '6-10', '11+')
-- by: workflow, version, tenant, tier, runtime, provider, day, week, month, total
-- default: model, tools_offered, tools_called
-- chart: ranges p50_s p95_s p99_s
-- n: calls
-- source: llm_calls
--
-- A quantile is a duration that was seen (the one at that share of the sorted ones). A lost call has no end and a
-- refused one no answer, so they are only counted. More than ten tools is `11+`, ten is not.
WITH
    CallStatus NOT IN ('lost', 'refused') AS answered,
    quantilesExactIf(0.5, 0.95, 0.99)(DurationNs, answered) AS q
SELECT
    {by},
    countIf(answered) AS calls,
    countIf(CallStatus = 'refused') AS refused,
    countIf(CallStatus = 'lost') AS lost,
    if(calls = 0, NULL, q[1] / 1e9) AS p50_s,
    if(calls = 0, NULL, q[2] / 1e9) AS p95_s,
    if(calls = 0, NULL, q[3] / 1e9) AS p99_s,
    if(calls = 0, NULL, maxIf(DurationNs, answered) / 1e9) AS max_s
FROM v_llm_calls_in(since = {since}, until = {until})
GROUP BY {keys}
ORDER BY p99_s DESC NULLS LAST, {keys}
