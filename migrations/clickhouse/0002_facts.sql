-- migrate:up

-- Typed facts, cut from the spans as they arrive, with everything a question groups by on the row itself.
-- What a span does not say is NULL: an unknown cost or token count is never 0.
-- A fact may stand twice (a call first recorded as lost whose real span came later): ask the v_ views.

CREATE TABLE IF NOT EXISTS llm_calls (
    Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    ServiceName LowCardinality(String),
    Runtime LowCardinality(String),
    Workflow LowCardinality(String),
    Version LowCardinality(String),
    Tenant LowCardinality(String),
    Tier LowCardinality(String),
    TaskId String CODEC(ZSTD(1)),
    OriginId String CODEC(ZSTD(1)),
    CallKey String CODEC(ZSTD(1)),
    Attempt UInt16,
    CallStatus LowCardinality(String),
    Validation LowCardinality(String),
    Operation LowCardinality(String),
    Provider LowCardinality(String),
    ProviderSimulated Bool,
    RequestModel LowCardinality(String),
    Model LowCardinality(String),
    FinishReasons LowCardinality(String),
    DurationNs UInt64 CODEC(T64, ZSTD(1)),
    InputTokens Nullable(UInt32) CODEC(ZSTD(1)),
    OutputTokens Nullable(UInt32) CODEC(ZSTD(1)),
    CacheReadTokens Nullable(UInt32) CODEC(ZSTD(1)),
    CacheWriteTokens Nullable(UInt32) CODEC(ZSTD(1)),
    ReasoningTokens Nullable(UInt32) CODEC(ZSTD(1)),
    CostUsd Nullable(Decimal64(9)) CODEC(ZSTD(1)),
    PriceVersion LowCardinality(String),
    ToolsOffered UInt16,
    ToolsCalled UInt16,
    StatusCode LowCardinality(String),
    ErrorType LowCardinality(String),
    ReleaseVersion LowCardinality(String)
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Model, Workflow, toStartOfHour(Timestamp), Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS task_runs (
    Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    ServiceName LowCardinality(String),
    Runtime LowCardinality(String),
    Workflow LowCardinality(String),
    Version LowCardinality(String),
    Tenant LowCardinality(String),
    Tier LowCardinality(String),
    TaskId String CODEC(ZSTD(1)),
    OriginId String CODEC(ZSTD(1)),
    Attempt UInt16,
    Outcome LowCardinality(String),
    QueueWaitMs Nullable(Float64) CODEC(ZSTD(1)),
    DurationNs UInt64 CODEC(T64, ZSTD(1)),
    StatusCode LowCardinality(String),
    ErrorType LowCardinality(String),
    ReleaseVersion LowCardinality(String)
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Workflow, toStartOfHour(Timestamp), Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Sums over whole hours for charts: additive, so it counts deliveries, and keeps lost calls apart from the rest.
-- UnpricedCalls says how many calls the cost does not cover.
CREATE TABLE IF NOT EXISTS llm_hourly (
    Hour DateTime,
    Workflow LowCardinality(String),
    Tier LowCardinality(String),
    Provider LowCardinality(String),
    Model LowCardinality(String),
    ToolBucket LowCardinality(String),
    Calls SimpleAggregateFunction(sum, UInt64),
    LostCalls SimpleAggregateFunction(sum, UInt64),
    Errors SimpleAggregateFunction(sum, UInt64),
    UnpricedCalls SimpleAggregateFunction(sum, UInt64),
    CostUsd SimpleAggregateFunction(sum, Decimal(38, 9)),
    InputTokens SimpleAggregateFunction(sum, UInt64),
    OutputTokens SimpleAggregateFunction(sum, UInt64),
    CacheReadTokens SimpleAggregateFunction(sum, UInt64),
    CacheWriteTokens SimpleAggregateFunction(sum, UInt64),
    Tasks AggregateFunction(uniq, String),
    DurationMs AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float32)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(Hour)
ORDER BY (Workflow, Model, ToolBucket, Tier, Provider, Hour)
TTL Hour + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS llm_calls_mv TO llm_calls AS
SELECT
    Timestamp,
    TraceId,
    SpanId,
    ServiceName,
    SpanAttributes['backbeat.runtime'] AS Runtime,
    coalesce(nullIf(SpanAttributes['backbeat.workflow'], ''), SpanAttributes['gen_ai.workflow.name']) AS Workflow,
    SpanAttributes['backbeat.version'] AS Version,
    SpanAttributes['backbeat.tenant'] AS Tenant,
    SpanAttributes['backbeat.tier'] AS Tier,
    SpanAttributes['backbeat.task_id'] AS TaskId,
    SpanAttributes['backbeat.origin_id'] AS OriginId,
    SpanAttributes['backbeat.call_key'] AS CallKey,
    toUInt16OrZero(SpanAttributes['backbeat.attempt']) AS Attempt,
    SpanAttributes['backbeat.call_status'] AS CallStatus,
    SpanAttributes['backbeat.validation'] AS Validation,
    SpanAttributes['gen_ai.operation.name'] AS Operation,
    coalesce(nullIf(SpanAttributes['gen_ai.provider.name'], ''), SpanAttributes['gen_ai.system']) AS Provider,
    SpanAttributes['backbeat.provider_simulated'] = 'true' AS ProviderSimulated,
    SpanAttributes['gen_ai.request.model'] AS RequestModel,
    coalesce(nullIf(SpanAttributes['gen_ai.response.model'], ''), SpanAttributes['gen_ai.request.model']) AS Model,
    SpanAttributes['gen_ai.response.finish_reasons'] AS FinishReasons,
    Duration AS DurationNs,
    toUInt32OrNull(SpanAttributes['gen_ai.usage.input_tokens']) AS InputTokens,
    toUInt32OrNull(SpanAttributes['gen_ai.usage.output_tokens']) AS OutputTokens,
    toUInt32OrNull(SpanAttributes['gen_ai.usage.cache_read.input_tokens']) AS CacheReadTokens,
    toUInt32OrNull(SpanAttributes['gen_ai.usage.cache_write.input_tokens']) AS CacheWriteTokens,
    toUInt32OrNull(SpanAttributes['gen_ai.usage.reasoning.output_tokens']) AS ReasoningTokens,
    toDecimal64OrNull(SpanAttributes['backbeat.cost_usd'], 9) AS CostUsd,
    SpanAttributes['backbeat.price_version'] AS PriceVersion,
    toUInt16OrZero(SpanAttributes['backbeat.tools_offered']) AS ToolsOffered,
    toUInt16OrZero(SpanAttributes['backbeat.tools_called']) AS ToolsCalled,
    StatusCode,
    SpanAttributes['error.type'] AS ErrorType,
    ResourceAttributes['service.version'] AS ReleaseVersion
FROM otel_traces
WHERE SpanAttributes['gen_ai.operation.name'] IN ('chat', 'generate_content', 'text_completion', 'embeddings');

CREATE MATERIALIZED VIEW IF NOT EXISTS task_runs_mv TO task_runs AS
SELECT
    Timestamp,
    TraceId,
    SpanId,
    ServiceName,
    SpanAttributes['backbeat.runtime'] AS Runtime,
    SpanAttributes['backbeat.workflow'] AS Workflow,
    SpanAttributes['backbeat.version'] AS Version,
    SpanAttributes['backbeat.tenant'] AS Tenant,
    SpanAttributes['backbeat.tier'] AS Tier,
    SpanAttributes['backbeat.task_id'] AS TaskId,
    SpanAttributes['backbeat.origin_id'] AS OriginId,
    toUInt16OrZero(SpanAttributes['backbeat.attempt']) AS Attempt,
    SpanAttributes['backbeat.outcome'] AS Outcome,
    toFloat64OrNull(SpanAttributes['backbeat.queue_wait_ms']) AS QueueWaitMs,
    Duration AS DurationNs,
    StatusCode,
    SpanAttributes['error.type'] AS ErrorType,
    ResourceAttributes['service.version'] AS ReleaseVersion
FROM otel_traces
WHERE SpanKind = 'Consumer' AND SpanAttributes['backbeat.outcome'] != '';

CREATE MATERIALIZED VIEW IF NOT EXISTS llm_hourly_mv TO llm_hourly AS
SELECT
    toStartOfHour(toDateTime(Timestamp)) AS Hour,
    Workflow,
    Tier,
    Provider,
    Model,
    multiIf(ToolsOffered = 0, '0', ToolsOffered <= 5, '1-5', ToolsOffered <= 10, '6-10', '11+') AS ToolBucket,
    countIf(CallStatus != 'lost') AS Calls,
    countIf(CallStatus = 'lost') AS LostCalls,
    countIf(StatusCode = 'Error' AND CallStatus != 'lost') AS Errors,
    countIf(f.CostUsd IS NULL AND CallStatus != 'lost') AS UnpricedCalls,
    sum(ifNull(f.CostUsd, 0)) AS CostUsd,
    sum(ifNull(f.InputTokens, 0)) AS InputTokens,
    sum(ifNull(f.OutputTokens, 0)) AS OutputTokens,
    sum(ifNull(f.CacheReadTokens, 0)) AS CacheReadTokens,
    sum(ifNull(f.CacheWriteTokens, 0)) AS CacheWriteTokens,
    uniqState(TaskId) AS Tasks,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(toFloat32(DurationNs / 1e6), CallStatus != 'lost') AS DurationMs
FROM llm_calls AS f
GROUP BY Hour, Workflow, Tier, Provider, Model, ToolBucket;
