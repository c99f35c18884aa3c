-- migrate:up

-- The names to ask. Each span counts once, by its id: a span may be written twice (by a worker that died after its
-- flush and by whoever took over), and what was recorded as lost or unknown may still be heard of: the real record wins.

CREATE VIEW IF NOT EXISTS v_spans AS
SELECT *
FROM otel_traces
ORDER BY
    SpanAttributes['backbeat.call_status'] = 'lost' OR SpanAttributes['backbeat.outcome'] = 'lost'
        OR SpanAttributes['backbeat.effect_status'] = 'unknown',
    ParentSpanId = '',
    Timestamp
LIMIT 1 BY SpanId;

CREATE VIEW IF NOT EXISTS v_llm_calls AS
SELECT *
FROM llm_calls
ORDER BY CallStatus = 'lost', Timestamp
LIMIT 1 BY SpanId;

CREATE VIEW IF NOT EXISTS v_task_runs AS
SELECT *
FROM task_runs
ORDER BY Outcome = 'lost', Timestamp
LIMIT 1 BY SpanId;

CREATE VIEW IF NOT EXISTS v_llm_hourly AS
SELECT
    Hour, Workflow, Tier, Provider, Model, ToolBucket,
    sum(h.Calls) AS Calls,
    sum(h.LostCalls) AS LostCalls,
    sum(h.Errors) AS Errors,
    sum(h.UnpricedCalls) AS UnpricedCalls,
    sum(h.CostUsd) AS CostUsd,
    sum(h.InputTokens) AS InputTokens,
    sum(h.OutputTokens) AS OutputTokens,
    uniqMerge(h.Tasks) AS Tasks,
    quantilesTDigestMerge(0.5, 0.95, 0.99)(h.DurationMs) AS DurationMs
FROM llm_hourly AS h
GROUP BY Hour, Workflow, Tier, Provider, Model, ToolBucket;
