-- migrate:up

-- Facts about what happens around the calls: ticks, decisions of people, writes to the world, where work came from, and what
-- people say of its results. Like those of 0002: cut from the spans as they arrive, NULL where a span does not say.
-- A column's comment begins with its unit. Ask the v_ views, where each thing stands once.

CREATE TABLE IF NOT EXISTS tick_runs (
    Timestamp DateTime64(9) COMMENT 'UTC: when it began, by its host''s clock' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: its own trace, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) COMMENT 'name: which program wrote it',
    Host LowCardinality(String) COMMENT 'name: the host',
    TickId String COMMENT 'id: ticks.id in Postgres' CODEC(ZSTD(1)),
    Worker String COMMENT 'id: workers.id in Postgres' CODEC(ZSTD(1)),
    DurationNs UInt64 COMMENT 'ns: from its first query to its last' CODEC(T64, ZSTD(1)),
    Slots UInt32 COMMENT 'count: attempts that it may have under way at once',
    Claimed UInt32 COMMENT 'count: rows that it claimed',
    Settled UInt32 COMMENT 'count: rows that it settled',
    Refused UInt32 COMMENT 'count: rows whose lease was somebody else''s by then',
    Recovered UInt32 COMMENT 'count: rows taken back from dead workers',
    OldestWaitMs Nullable(UInt64) COMMENT 'ms: from enqueue to claim, the longest of first attempts; NULL without any' CODEC(ZSTD(1)),
    ClockSkewMs Nullable(Int64) COMMENT 'ms: that Postgres'' clock is ahead of the host''s' CODEC(ZSTD(1)),
    Shed UInt64 COMMENT 'count: spans that the process gave up before this one',
    SpoolFiles Nullable(UInt32) COMMENT 'count: files waiting on the host at the end of the tick' CODEC(ZSTD(1)),
    SpoolAgeS Nullable(Float64) COMMENT 's: that the oldest of them had waited; NULL without any' CODEC(ZSTD(1)),
    ReleaseVersion LowCardinality(String) COMMENT 'name: the release of the program'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Host, Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS tick_runs_mv TO tick_runs AS
SELECT
    Timestamp,
    TraceId,
    SpanId,
    ServiceName,
    ResourceAttributes['host.name'] AS Host,
    SpanAttributes['backbeat.tick_id'] AS TickId,
    SpanAttributes['backbeat.worker'] AS Worker,
    Duration AS DurationNs,
    toUInt32OrZero(SpanAttributes['backbeat.slots']) AS Slots,
    toUInt32OrZero(SpanAttributes['backbeat.claimed']) AS Claimed,
    toUInt32OrZero(SpanAttributes['backbeat.settled']) AS Settled,
    toUInt32OrZero(SpanAttributes['backbeat.refused']) AS Refused,
    toUInt32OrZero(SpanAttributes['backbeat.recovered']) AS Recovered,
    toUInt64OrNull(SpanAttributes['backbeat.oldest_wait_ms']) AS OldestWaitMs,
    toInt64OrNull(SpanAttributes['backbeat.clock_skew_ms']) AS ClockSkewMs,
    toUInt64OrZero(SpanAttributes['backbeat.shed']) AS Shed,
    toUInt32OrNull(SpanAttributes['backbeat.spool_files']) AS SpoolFiles,
    toFloat64OrNull(SpanAttributes['backbeat.spool_age_s']) AS SpoolAgeS,
    ResourceAttributes['service.version'] AS ReleaseVersion
FROM otel_traces
WHERE SpanAttributes['backbeat.tick_id'] != '';

-- A row an event: a request is asked, people vote, it is decided.
CREATE TABLE IF NOT EXISTS approvals (
    Timestamp DateTime64(9) COMMENT 'UTC: when it happened, by Postgres'' clock' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: the origin''s trace, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    ApprovalId String COMMENT 'id: approval_requests.id in Postgres' CODEC(ZSTD(1)),
    Event LowCardinality(String) COMMENT 'name: requested, voted or decided',
    WorkflowId String COMMENT 'id: the workflow that waits' CODEC(ZSTD(1)),
    OriginId String COMMENT 'id: where the work began' CODEC(ZSTD(1)),
    Tenant LowCardinality(String) COMMENT 'name: for whom',
    EffectKind LowCardinality(String) COMMENT 'name: the kind of effect that is asked for',
    State LowCardinality(String) COMMENT 'name: of a decided one: approved, rejected, expired, cancelled or revoked',
    Person LowCardinality(String) COMMENT 'name: who voted, or whose vote decided; (deadline) for nobody',
    Decision LowCardinality(String) COMMENT 'name: of a vote: approve, reject, request_changes, edit or revoke',
    Via LowCardinality(String) COMMENT 'name: of a vote: cli, web, signal or owner',
    WaitMs UInt64 COMMENT 'ms: since it was requested' CODEC(T64, ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (EffectKind, Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS approvals_mv TO approvals AS
SELECT
    Timestamp,
    TraceId,
    SpanId,
    SpanAttributes['backbeat.approval_id'] AS ApprovalId,
    substring(SpanName, 10) AS Event,
    SpanAttributes['backbeat.task_id'] AS WorkflowId,
    SpanAttributes['backbeat.origin_id'] AS OriginId,
    SpanAttributes['backbeat.tenant'] AS Tenant,
    SpanAttributes['backbeat.effect_kind'] AS EffectKind,
    SpanAttributes['backbeat.approval_state'] AS State,
    SpanAttributes['backbeat.approval_by'] AS Person,
    SpanAttributes['backbeat.approval_decision'] AS Decision,
    SpanAttributes['backbeat.approval_via'] AS Via,
    toUInt64OrZero(SpanAttributes['backbeat.approval_wait_ms']) AS WaitMs
FROM otel_traces
WHERE SpanName IN ('approval.requested', 'approval.voted', 'approval.decided');

-- Writes to the world. One told as unknown may still be heard of.
CREATE TABLE IF NOT EXISTS effects (
    Timestamp DateTime64(9) COMMENT 'UTC: when this attempt at it began' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: the origin''s trace, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    EffectKey String COMMENT 'id: side_effects.key in Postgres' CODEC(ZSTD(1)),
    Kind LowCardinality(String) COMMENT 'name: as its definition calls it',
    Status LowCardinality(String) COMMENT 'name: done or unknown, as far as was told',
    Runtime LowCardinality(String) COMMENT 'name: cron or temporal',
    OwnerId String COMMENT 'id: the task or workflow' CODEC(ZSTD(1)),
    OriginId String COMMENT 'id: where the work began' CODEC(ZSTD(1)),
    DurationNs UInt64 COMMENT 'ns: from intent to outcome' CODEC(T64, ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Kind, Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS effects_mv TO effects AS
SELECT
    Timestamp,
    TraceId,
    SpanId,
    SpanAttributes['backbeat.effect_key'] AS EffectKey,
    substring(SpanName, 8) AS Kind,
    SpanAttributes['backbeat.effect_status'] AS Status,
    SpanAttributes['backbeat.runtime'] AS Runtime,
    SpanAttributes['backbeat.task_id'] AS OwnerId,
    SpanAttributes['backbeat.origin_id'] AS OriginId,
    Duration AS DurationNs
FROM otel_traces
WHERE SpanAttributes['backbeat.effect_key'] != '';

-- Where work began: tasks that somebody enqueued and workflows that somebody started, without what came of them.
CREATE TABLE IF NOT EXISTS origins (
    Timestamp DateTime64(9) COMMENT 'UTC: when it was enqueued or started' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: the trace of everything that comes of it, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    OriginId String COMMENT 'id: tasks.id or orchestrated_workflows.id in Postgres' CODEC(ZSTD(1)),
    Runtime LowCardinality(String) COMMENT 'name: where it begins, cron or temporal',
    Workflow LowCardinality(String) COMMENT 'name: the definition',
    Version LowCardinality(String) COMMENT 'name: the version of the definition',
    Tenant LowCardinality(String) COMMENT 'name: for whom',
    SourceAt Nullable(DateTime64(6)) COMMENT 'UTC: when it arose, where the producer said so' CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Workflow, Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS origins_mv TO origins AS
SELECT
    Timestamp,
    TraceId,
    SpanId,
    SpanAttributes['backbeat.origin_id'] AS OriginId,
    if(startsWith(SpanName, 'enqueue '), 'cron', 'temporal') AS Runtime,
    SpanAttributes['backbeat.workflow'] AS Workflow,
    SpanAttributes['backbeat.version'] AS Version,
    SpanAttributes['backbeat.tenant'] AS Tenant,
    if(SpanAttributes['backbeat.source_at'] = '', NULL,
        fromUnixTimestamp64Micro(toInt64(toFloat64OrZero(SpanAttributes['backbeat.source_at']) * 1e6))) AS SourceAt
FROM otel_traces
WHERE SpanKind = 'Producer' AND SpanAttributes['backbeat.task_id'] = SpanAttributes['backbeat.origin_id']
    AND SpanAttributes['backbeat.origin_id'] != '' AND (startsWith(SpanName, 'enqueue ') OR startsWith(SpanName, 'escalate '));

-- What people say about results: a row a word.
CREATE TABLE IF NOT EXISTS feedback (
    Timestamp DateTime64(9) COMMENT 'UTC: when it was said' CODEC(Delta(8), ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    FeedbackId String COMMENT 'id: feedback.id in Postgres' CODEC(ZSTD(1)),
    TaskId String COMMENT 'id: the task or workflow whose result it is about' CODEC(ZSTD(1)),
    OriginId String COMMENT 'id: where that work began' CODEC(ZSTD(1)),
    Workflow LowCardinality(String) COMMENT 'name: the task''s definition',
    Version LowCardinality(String) COMMENT 'name: the version of the definition',
    Tenant LowCardinality(String) COMMENT 'name: for whom',
    Finding String COMMENT 'text: which part of the result; empty for all of it' CODEC(ZSTD(1)),
    Label LowCardinality(String) COMMENT 'name: correct, false_positive, wrong, missed, or a label of your own',
    SaidBy LowCardinality(String) COMMENT 'name: who says so'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(Timestamp)
ORDER BY (Workflow, Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS feedback_mv TO feedback AS
SELECT
    Timestamp,
    SpanId,
    SpanAttributes['backbeat.feedback_id'] AS FeedbackId,
    SpanAttributes['backbeat.task_id'] AS TaskId,
    SpanAttributes['backbeat.origin_id'] AS OriginId,
    SpanAttributes['backbeat.workflow'] AS Workflow,
    SpanAttributes['backbeat.version'] AS Version,
    SpanAttributes['backbeat.tenant'] AS Tenant,
    SpanAttributes['backbeat.feedback_finding'] AS Finding,
    SpanAttributes['backbeat.feedback_label'] AS Label,
    SpanAttributes['backbeat.feedback_by'] AS SaidBy
FROM otel_traces
WHERE SpanAttributes['backbeat.feedback_id'] != '';

CREATE VIEW IF NOT EXISTS v_tick_runs AS
SELECT * FROM tick_runs ORDER BY Timestamp LIMIT 1 BY SpanId;

CREATE VIEW IF NOT EXISTS v_approval_events AS
SELECT * FROM approvals ORDER BY Timestamp LIMIT 1 BY SpanId;

-- A row a request. What nobody has decided has no DecidedAt; nor has one whose workflow ended before.
CREATE VIEW IF NOT EXISTS v_approvals AS
SELECT
    a.ApprovalId AS ApprovalId,
    any(a.TraceId) AS TraceId,
    any(a.WorkflowId) AS WorkflowId,
    any(a.OriginId) AS OriginId,
    any(a.Tenant) AS Tenant,
    any(a.EffectKind) AS EffectKind,
    min(a.Timestamp) AS RequestedAt,
    maxOrNullIf(a.Timestamp, a.Event = 'decided') AS DecidedAt,
    if(DecidedAt IS NULL, 'pending', anyIf(a.State, a.Event = 'decided')) AS State,
    anyIf(a.Person, a.Event = 'decided') AS DecidedBy,
    maxOrNullIf(a.WaitMs, a.Event = 'decided') AS WaitMs,
    uniqExactIf(a.SpanId, a.Event = 'voted') AS Votes
FROM approvals AS a
GROUP BY a.ApprovalId;

CREATE VIEW IF NOT EXISTS v_effects AS
SELECT * FROM effects ORDER BY Status != 'done', Timestamp LIMIT 1 BY SpanId;

CREATE VIEW IF NOT EXISTS v_origins AS
SELECT
    o.OriginId AS OriginId,
    any(o.TraceId) AS TraceId,
    any(o.Runtime) AS Runtime,
    any(o.Workflow) AS Workflow,
    any(o.Version) AS Version,
    any(o.Tenant) AS Tenant,
    min(o.Timestamp) AS StartedAt,
    max(o.SourceAt) AS SourceAt
FROM origins AS o
GROUP BY o.OriginId;

CREATE VIEW IF NOT EXISTS v_feedback AS
SELECT * FROM feedback ORDER BY Workflow = '', Timestamp LIMIT 1 BY FeedbackId;
