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

-- Few spans are told twice, so they are found by a number of eight bytes, and only they are sorted: a twentieth of what
-- sorting all costs. The views `_in (since = …, until = …)` look for them in that period alone (an hour more, since the
-- two tellings need not begin at the same moment): what they cost follows the period, not the years.

CREATE VIEW IF NOT EXISTS v_llm_calls AS
SELECT *, CacheRatio, ToolBucket, SpanKey, TaskKey FROM llm_calls
WHERE SpanKey NOT IN (SELECT SpanKey FROM llm_calls GROUP BY SpanKey HAVING count() > 1)
UNION ALL
SELECT *, CacheRatio, ToolBucket, SpanKey, TaskKey FROM llm_calls
WHERE SpanKey IN (SELECT SpanKey FROM llm_calls GROUP BY SpanKey HAVING count() > 1)
ORDER BY CallStatus = 'lost', Timestamp, CostUsd
LIMIT 1 BY SpanKey;

CREATE VIEW IF NOT EXISTS v_llm_calls_in AS
WITH
    {since:DateTime64(9, 'UTC')} AS since,
    {until:DateTime64(9, 'UTC')} AS until,
    twice AS (
        SELECT SpanKey FROM llm_calls
        WHERE Timestamp >= since - INTERVAL 1 HOUR AND Timestamp < until + INTERVAL 1 HOUR
        GROUP BY SpanKey HAVING count() > 1
    )
SELECT *, CacheRatio, ToolBucket, SpanKey, TaskKey FROM llm_calls
WHERE Timestamp >= since AND Timestamp < until AND SpanKey NOT IN (twice)
UNION ALL
SELECT * FROM (
    SELECT *, CacheRatio, ToolBucket, SpanKey, TaskKey FROM llm_calls
    WHERE Timestamp >= since - INTERVAL 1 HOUR AND Timestamp < until + INTERVAL 1 HOUR AND SpanKey IN (twice)
    ORDER BY CallStatus = 'lost', Timestamp, CostUsd
    LIMIT 1 BY SpanKey
)
WHERE Timestamp >= since AND Timestamp < until;

CREATE VIEW IF NOT EXISTS v_task_runs AS
SELECT *, SpanKey, TaskKey FROM task_runs
WHERE SpanKey NOT IN (SELECT SpanKey FROM task_runs GROUP BY SpanKey HAVING count() > 1)
UNION ALL
SELECT *, SpanKey, TaskKey FROM task_runs
WHERE SpanKey IN (SELECT SpanKey FROM task_runs GROUP BY SpanKey HAVING count() > 1)
ORDER BY Outcome = 'lost', Timestamp
LIMIT 1 BY SpanKey;

CREATE VIEW IF NOT EXISTS v_task_runs_in AS
WITH
    {since:DateTime64(9, 'UTC')} AS since,
    {until:DateTime64(9, 'UTC')} AS until,
    twice AS (
        SELECT SpanKey FROM task_runs
        WHERE Timestamp >= since - INTERVAL 1 HOUR AND Timestamp < until + INTERVAL 1 HOUR
        GROUP BY SpanKey HAVING count() > 1
    )
SELECT *, SpanKey, TaskKey FROM task_runs
WHERE Timestamp >= since AND Timestamp < until AND SpanKey NOT IN (twice)
UNION ALL
SELECT * FROM (
    SELECT *, SpanKey, TaskKey FROM task_runs
    WHERE Timestamp >= since - INTERVAL 1 HOUR AND Timestamp < until + INTERVAL 1 HOUR AND SpanKey IN (twice)
    ORDER BY Outcome = 'lost', Timestamp
    LIMIT 1 BY SpanKey
)
WHERE Timestamp >= since AND Timestamp < until;

-- The sums of llm_hourly, less the tellings that v_llm_calls does not choose of the calls that were told more than once. What
-- cannot be subtracted is an estimate: in DurationMs such a call weighs as often as it was told.
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
    sum(h.CacheReadTokens) AS CacheReadTokens,
    sum(h.CacheWriteTokens) AS CacheWriteTokens,
    uniqMerge(h.Tasks) AS Tasks,
    quantilesTDigestMerge(0.5, 0.95, 0.99)(h.DurationMs) AS DurationMs
FROM (
    SELECT
        Hour, Workflow, Tier, Provider, Model, ToolBucket, toInt64(Calls) AS Calls, toInt64(LostCalls) AS LostCalls,
        toInt64(Errors) AS Errors, toInt64(UnpricedCalls) AS UnpricedCalls, CostUsd, toInt64(InputTokens) AS InputTokens,
        toInt64(OutputTokens) AS OutputTokens, toInt64(CacheReadTokens) AS CacheReadTokens,
        toInt64(CacheWriteTokens) AS CacheWriteTokens, Tasks, DurationMs
    FROM llm_hourly
    UNION ALL
    SELECT
        toStartOfHour(toDateTime(Timestamp)), Workflow, Tier, Provider, Model, ToolBucket, -toInt64(CallStatus != 'lost'),
        -toInt64(CallStatus = 'lost'), -toInt64(StatusCode = 'Error' AND CallStatus != 'lost'),
        -toInt64(CostUsd IS NULL AND CallStatus != 'lost'), -toDecimal128(ifNull(CostUsd, 0), 9), -toInt64(ifNull(InputTokens, 0)),
        -toInt64(ifNull(OutputTokens, 0)), -toInt64(ifNull(CacheReadTokens, 0)), -toInt64(ifNull(CacheWriteTokens, 0)),
        arrayReduce('uniqState', emptyArrayString()), arrayReduce('quantilesTDigestState(0.5, 0.95, 0.99)', emptyArrayFloat32())
    FROM (
        SELECT *, ToolBucket, row_number() OVER (PARTITION BY SpanKey ORDER BY CallStatus = 'lost', Timestamp, CostUsd) AS place
        FROM llm_calls WHERE SpanKey IN (SELECT SpanKey FROM llm_calls GROUP BY SpanKey HAVING count() > 1)
    )
    WHERE place > 1
) AS h
GROUP BY Hour, Workflow, Tier, Provider, Model, ToolBucket
HAVING Calls > 0 OR LostCalls > 0;

CREATE VIEW IF NOT EXISTS v_model_prices AS
SELECT * FROM model_prices FINAL;
