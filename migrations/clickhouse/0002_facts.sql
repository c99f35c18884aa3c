-- migrate:up

-- Typed facts, cut from the spans as they arrive, with everything a question groups by on the row itself.
-- What a span does not say is NULL: an unknown cost or token count is never 0.
-- A fact may stand twice (a call first recorded as lost whose real span came later): ask the v_ views.
-- A column's comment begins with its unit; docs/reference/telemetry.md is made of them.

CREATE TABLE IF NOT EXISTS llm_calls (
    Timestamp DateTime64(9) COMMENT 'UTC: when it began' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: the trace, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) COMMENT 'name: which program wrote it',
    Runtime LowCardinality(String) COMMENT 'name: cron or temporal',
    Workflow LowCardinality(String) COMMENT 'name: the definition',
    Version LowCardinality(String) COMMENT 'name: the version of the definition',
    Tenant LowCardinality(String) COMMENT 'name: for whom',
    Tier LowCardinality(String) COMMENT 'name: the tier that was asked for',
    TaskId String COMMENT 'id: the task or orchestration' CODEC(ZSTD(1)),
    OriginId String COMMENT 'id: the first task of the chain it belongs to' CODEC(ZSTD(1)),
    CallKey String COMMENT 'name: which call of its task' CODEC(ZSTD(1)),
    Attempt UInt16 COMMENT 'count: attempts of the task so far, this one included',
    CallStatus LowCardinality(String) COMMENT 'name: done, refused (not billed) or lost (sent, and its answer never came)',
    Validation LowCardinality(String) COMMENT 'name: passed, failed or none (nothing to check)',
    Operation LowCardinality(String) COMMENT 'name: what was asked for, such as chat',
    Provider LowCardinality(String) COMMENT 'name: the vendor',
    ProviderSimulated Bool COMMENT 'yes or no: a simulated vendor, no real money',
    RequestModel LowCardinality(String) COMMENT 'name: the model asked',
    Model LowCardinality(String) COMMENT 'name: the model that answered, else the one asked',
    FinishReasons LowCardinality(String) COMMENT 'JSON: why the answer ended',
    DurationNs UInt64 COMMENT 'ns: how long it took' CODEC(T64, ZSTD(1)),
    InputTokens Nullable(UInt32) COMMENT 'tokens: all input, cached or not; NULL is unknown' CODEC(ZSTD(1)),
    OutputTokens Nullable(UInt32) COMMENT 'tokens: all output, reasoning included; NULL is unknown' CODEC(ZSTD(1)),
    CacheReadTokens Nullable(UInt32) COMMENT 'tokens: input read from the cache; NULL is unknown' CODEC(ZSTD(1)),
    CacheWriteTokens Nullable(UInt32) COMMENT 'tokens: input written into the cache; NULL is unknown' CODEC(ZSTD(1)),
    ReasoningTokens Nullable(UInt32) COMMENT 'tokens: output that is reasoning; NULL is unknown' CODEC(ZSTD(1)),
    CostUsd Nullable(Decimal64(9)) COMMENT 'USD: exact; NULL is unknown' CODEC(ZSTD(1)),
    PriceVersion LowCardinality(String) COMMENT 'name: the price data behind the cost',
    ToolsOffered UInt16 COMMENT 'count: tools the definition offers',
    ToolsCalled UInt16 COMMENT 'count: tools the answer asked for',
    StatusCode LowCardinality(String) COMMENT 'name: Unset, Ok or Error',
    ErrorType LowCardinality(String) COMMENT 'name: the class of the failure',
    ReleaseVersion LowCardinality(String) COMMENT 'name: the release of the program',
    ResponseId String COMMENT 'id: the answer, as the vendor calls it' CODEC(ZSTD(1)),
    CacheRatio Nullable(Float64) MATERIALIZED CacheReadTokens / nullIf(InputTokens, 0)
        COMMENT 'ratio: input read from the cache / all input; NULL is unknown',
    ToolBucket LowCardinality(String) MATERIALIZED
        multiIf(ToolsOffered = 0, '0', ToolsOffered <= 5, '1-5', ToolsOffered <= 10, '6-10', '11+')
        COMMENT 'name: tools offered: 0, 1-5, 6-10 or 11+',
    SpanKey UInt64 MATERIALIZED reinterpretAsUInt64(unhex(SpanId)) COMMENT 'id: the span, as a number',
    TaskKey UInt64 MATERIALIZED cityHash64(TaskId) COMMENT 'id: the task, as a number'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Model, Workflow, toStartOfHour(Timestamp), Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS task_runs (
    Timestamp DateTime64(9) COMMENT 'UTC: when it began' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: the trace, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) COMMENT 'name: which program wrote it',
    Runtime LowCardinality(String) COMMENT 'name: cron or temporal',
    Workflow LowCardinality(String) COMMENT 'name: the definition',
    Version LowCardinality(String) COMMENT 'name: the version of the definition',
    Tenant LowCardinality(String) COMMENT 'name: for whom',
    Tier LowCardinality(String) COMMENT 'name: the tier that was asked for',
    TaskId String COMMENT 'id: the task or orchestration' CODEC(ZSTD(1)),
    OriginId String COMMENT 'id: the first task of the chain it belongs to' CODEC(ZSTD(1)),
    Attempt UInt16 COMMENT 'count: attempts of the task so far, this one included',
    Class LowCardinality(String) COMMENT 'name: urgent, high, normal or low',
    Region LowCardinality(String) COMMENT 'name: cloud.region of the process, where it says so',
    Outcome LowCardinality(String) COMMENT 'name: how the attempt ended',
    QueueWaitMs Nullable(Float64) COMMENT 'ms: from enqueue to the start of this attempt; NULL is unknown' CODEC(ZSTD(1)),
    DurationNs UInt64 COMMENT 'ns: how long it took' CODEC(T64, ZSTD(1)),
    StatusCode LowCardinality(String) COMMENT 'name: Unset, Ok or Error',
    ErrorType LowCardinality(String) COMMENT 'name: the class of the failure',
    ReleaseVersion LowCardinality(String) COMMENT 'name: the release of the program',
    SpanKey UInt64 MATERIALIZED reinterpretAsUInt64(unhex(SpanId)) COMMENT 'id: the span, as a number',
    TaskKey UInt64 MATERIALIZED cityHash64(TaskId) COMMENT 'id: the task, as a number'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Workflow, toStartOfHour(Timestamp), Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Sums over whole hours for charts: additive, so it counts every telling of a call: ask v_llm_hourly, which takes off what
-- was told twice.
-- UnpricedCalls says how many calls the cost does not cover.
CREATE TABLE IF NOT EXISTS llm_hourly (
    Hour DateTime COMMENT 'UTC: the hour it began in',
    Workflow LowCardinality(String) COMMENT 'name: the definition',
    Tier LowCardinality(String) COMMENT 'name: the tier that was asked for',
    Provider LowCardinality(String) COMMENT 'name: the vendor',
    Model LowCardinality(String) COMMENT 'name: the model that answered, else the one asked',
    ToolBucket LowCardinality(String) COMMENT 'name: tools offered: 0, 1-5, 6-10 or 11+',
    Calls SimpleAggregateFunction(sum, UInt64) COMMENT 'calls: answered or failed',
    LostCalls SimpleAggregateFunction(sum, UInt64) COMMENT 'calls: lost',
    Errors SimpleAggregateFunction(sum, UInt64) COMMENT 'calls: ended in an error',
    UnpricedCalls SimpleAggregateFunction(sum, UInt64) COMMENT 'calls: whose cost is unknown, lost ones apart',
    CostUsd SimpleAggregateFunction(sum, Decimal(38, 9)) COMMENT 'USD: of the calls whose cost is known',
    InputTokens SimpleAggregateFunction(sum, UInt64) COMMENT 'tokens: of the calls whose count is known',
    OutputTokens SimpleAggregateFunction(sum, UInt64) COMMENT 'tokens: of the calls whose count is known',
    CacheReadTokens SimpleAggregateFunction(sum, UInt64) COMMENT 'tokens: of the calls whose count is known',
    CacheWriteTokens SimpleAggregateFunction(sum, UInt64) COMMENT 'tokens: of the calls whose count is known',
    Tasks AggregateFunction(uniq, String) COMMENT 'tasks: distinct, estimated',
    DurationMs AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float32) COMMENT 'ms: p50, p95 and p99, estimated; a call told twice weighs twice'
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(Hour)
ORDER BY (Workflow, Model, ToolBucket, Tier, Provider, Hour)
TTL Hour + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- List prices, to say what a call would have cost without a cache: the newest that is not later than the call.
CREATE TABLE IF NOT EXISTS model_prices (
    Provider LowCardinality(String) COMMENT 'name: the vendor',
    Model LowCardinality(String) COMMENT 'name: the model, as it answers',
    EffectiveFrom Date COMMENT 'UTC day: from here on',
    Input Nullable(Decimal64(9)) COMMENT 'USD a million tokens: input; NULL is unknown',
    Output Nullable(Decimal64(9)) COMMENT 'USD a million tokens: output; NULL is unknown',
    CacheRead Nullable(Decimal64(9)) COMMENT 'USD a million tokens: input read from the cache; NULL is unknown',
    CacheWrite Nullable(Decimal64(9)) COMMENT 'USD a million tokens: input written into the cache; NULL is unknown',
    Source LowCardinality(String) COMMENT 'name: the price data'
) ENGINE = ReplacingMergeTree
ORDER BY (Provider, Model, EffectiveFrom)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

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
    ResourceAttributes['service.version'] AS ReleaseVersion,
    SpanAttributes['gen_ai.response.id'] AS ResponseId
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
    SpanAttributes['backbeat.class'] AS Class,
    ResourceAttributes['cloud.region'] AS Region,
    SpanAttributes['backbeat.outcome'] AS Outcome,
    toFloat64OrNull(SpanAttributes['backbeat.queue_wait_ms']) AS QueueWaitMs,
    Duration AS DurationNs,
    StatusCode,
    SpanAttributes['error.type'] AS ErrorType,
    ResourceAttributes['service.version'] AS ReleaseVersion
FROM otel_traces
WHERE SpanAttributes['backbeat.outcome'] != '';

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
