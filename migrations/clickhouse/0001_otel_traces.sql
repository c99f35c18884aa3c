-- migrate:up

-- The OpenTelemetry Collector's ClickHouse exporter writes these columns, and Grafana, HyperDX and others read them:
-- names and types are upstream's, column for column. Ours are the deduplication windows and the fsync.
--
-- A spool file is inserted under a token and may be sent again after a crash. Every table that the insert reaches
-- needs a window, or each replay adds its rows once more. The window counts blocks (one per partition touched).
-- The shipper deletes a file once its insert is acknowledged, so an acknowledged part must be on the disk.

CREATE TABLE IF NOT EXISTS otel_traces (
    Timestamp DateTime64(9) COMMENT 'UTC: when it began' CODEC(Delta(8), ZSTD(1)),
    TraceId String COMMENT 'id: the trace, 32 hex digits' CODEC(ZSTD(1)),
    SpanId String COMMENT 'id: the span, 16 hex digits' CODEC(ZSTD(1)),
    ParentSpanId String COMMENT 'id: the span it is part of; empty at the top' CODEC(ZSTD(1)),
    TraceState String COMMENT 'text: W3C trace state' CODEC(ZSTD(1)),
    SpanName LowCardinality(String) COMMENT 'name: what was done' CODEC(ZSTD(1)),
    SpanKind LowCardinality(String) COMMENT 'name: Client, Consumer, Producer, Internal or Server' CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) COMMENT 'name: which program wrote it' CODEC(ZSTD(1)),
    ResourceAttributes Map(LowCardinality(String), String) COMMENT 'map: about the process' CODEC(ZSTD(1)),
    ScopeName String COMMENT 'name: the instrumentation' CODEC(ZSTD(1)),
    ScopeVersion String COMMENT 'name: its version' CODEC(ZSTD(1)),
    SpanAttributes Map(LowCardinality(String), String) COMMENT 'map: about the span, values as text' CODEC(ZSTD(1)),
    Duration UInt64 COMMENT 'ns: how long it took' CODEC(T64, ZSTD(1)),
    StatusCode LowCardinality(String) COMMENT 'name: Unset, Ok or Error' CODEC(ZSTD(1)),
    StatusMessage String COMMENT 'text: what went wrong' CODEC(ZSTD(1)),
    Events Nested (
        Timestamp DateTime64(9),
        Name LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ) COMMENT 'lists: what happened in it, with UTC moments' CODEC(ZSTD(1)),
    Links Nested (
        TraceId String,
        SpanId String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ) COMMENT 'lists: the spans it is linked to' CODEC(ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1,
    INDEX idx_lower_span_name lower(SpanName) TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 8
) ENGINE = MergeTree
PARTITION BY toDate(Timestamp)
PRIMARY KEY (ServiceName, SpanName, toDateTime(Timestamp))
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 30 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS otel_traces_trace_id_ts (
    TraceId String COMMENT 'id: the trace, 32 hex digits' CODEC(ZSTD(1)),
    Start SimpleAggregateFunction(min, DateTime) COMMENT 'UTC: when its first span began' CODEC(ZSTD(1)),
    End SimpleAggregateFunction(max, DateTime) COMMENT 'UTC: when its last span began' CODEC(ZSTD(1))
) ENGINE = AggregatingMergeTree
PARTITION BY toStartOfWeek(Start)
ORDER BY (TraceId)
TTL toDateTime(Start) + INTERVAL 30 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_traces_trace_id_ts_mv TO otel_traces_trace_id_ts AS
SELECT TraceId, min(Timestamp) AS Start, max(Timestamp) AS End
FROM otel_traces
WHERE TraceId != ''
GROUP BY TraceId;
