-- title: The twenty slowest model calls
-- units: began UTC, duration_s s, input_tokens tokens, output_tokens tokens, output_per_s tokens/s, tools_offered tools
-- units: cost_usd USD, calls calls
-- labels: workflow, model, trace_id
-- chart: bars duration_s
-- n: calls
-- source: llm_calls
--
-- `backbeat trace show TRACE_ID` has the whole of it. A lost call has no end and is not here.
SELECT
    Workflow AS workflow,
    Model AS model,
    TraceId AS trace_id,
    formatDateTime(Timestamp, '%FT%TZ', 'UTC') AS began,
    DurationNs / 1e9 AS duration_s,
    InputTokens AS input_tokens,
    OutputTokens AS output_tokens,
    OutputTokens / nullIf(duration_s, 0) AS output_per_s,
    ToolsOffered AS tools_offered,
    if(CallStatus = 'refused', 0, CostUsd) AS cost_usd,
    1 AS calls
FROM v_llm_calls_in(since = {since}, until = {until})
WHERE CallStatus != 'lost'
ORDER BY DurationNs DESC, SpanId
LIMIT 20
