"""Grafana's OTel dashboards over our tables. Grafana does not run here; its SQL does, macros expanded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backbeat.clickhouse import session
from shared.ids import SpanRef, span_id
from tests.support.clickhouse import call, process, process_id, span
from tests.support.grafana import expand, published

FIRST_SPAN = SpanRef("0" * 32, span_id("enqueue", "task-1"))
CHOSEN = {"service": "cron-worker", "operation": "", "status": "", "search": "", "min_duration": ""}
NARROW = {"operation": "chat opus-1", "status": "Error", "search": "CHAT", "min_duration": "1"}
FAILED = "StatusCode IN ('Error', 'STATUS_CODE_ERROR')"
WHERE = "FROM otel_traces WHERE $__timeFilter(Timestamp) AND ServiceName IN (${service:singlequote})"
FILTERS = (
    "$__conditionalAll(SpanName IN ($operation), $operation) AND $__conditionalAll(StatusCode IN ($status), $status)"
)
SEARCH = "$__conditionalAll(positionCaseInsensitive(SpanName, '$search') > 0, $search)"
BUCKET = "toStartOfInterval(Timestamp, INTERVAL $__interval_s second) AS time"

# Columns, functions, macros and shapes that the dashboards of Grafana's ClickHouse plugin (August 2026) use.
SURFACE = {
    "rate": f"SELECT {BUCKET}, count() / $__interval_s AS rate {WHERE} "
    "AND SpanKind IN ('Server', 'Client') GROUP BY time ORDER BY time",
    "errors": f"SELECT $__timeInterval(Timestamp) AS time, countIf({FAILED}) / count() AS share "
    f"{WHERE} AND {SEARCH} GROUP BY time",
    "percentiles": f"SELECT {BUCKET}, quantile(0.5)(Duration) AS p50, quantile(0.99)(Duration) / 1000000 AS p99 "
    f"{WHERE} GROUP BY time",
    "operations": f"SELECT SpanName, SpanKind, count(), round(countIf({FAILED}) / count() * 100, 2) AS failed, "
    f"anyIf(if(StatusMessage != '', StatusMessage, SpanAttributes['http.status_code']), {FAILED}), max(Timestamp) "
    f"{WHERE} AND {FILTERS} GROUP BY SpanName, SpanKind ORDER BY count() DESC LIMIT 20",
    "sample": f"SELECT {BUCKET}, Duration / 1000000 AS ms {WHERE} AND cityHash64(SpanId) % 500 < 500 ORDER BY time",
    "services": "SELECT DISTINCT ServiceName FROM otel_traces WHERE $__timeFilter(Timestamp) ORDER BY ServiceName",
    "map": "SELECT concat(p.ServiceName, '-', c.ServiceName) AS id, concat(toString(count()), ' calls') AS mainstat "
    "FROM otel_traces AS c INNER JOIN otel_traces AS p ON c.ParentSpanId = p.SpanId AND c.TraceId = p.TraceId "
    "WHERE $__timeFilter(c.Timestamp) AND $__timeFilter(p.Timestamp) GROUP BY id ORDER BY count() DESC LIMIT 50",
    "search": "SELECT TraceId, any(ServiceName), min(Timestamp) AS began, max(Duration), count() AS spans "
    "FROM otel_traces "
    f"WHERE $__timeFilter(Timestamp) AND {FILTERS} GROUP BY TraceId "
    "HAVING $__conditionalAll(max(Duration) >= toUInt64($min_duration) * 1000000, $min_duration) "
    "ORDER BY began DESC LIMIT 200",
    # The plugin's own query of one trace, for its trace panel.
    "trace": "WITH 'none' AS no, (SELECT min(Start) FROM otel_traces_trace_id_ts WHERE TraceId != no) AS first, "
    "(SELECT max(End) + 1 FROM otel_traces_trace_id_ts WHERE TraceId != no) AS last "
    "SELECT TraceId AS traceID, SpanId AS spanID, ParentSpanId AS parentSpanID, "
    "ServiceName AS serviceName, SpanName AS operationName, "
    "multiply(toUnixTimestamp64Nano(Timestamp), 0.000001) AS startTime, multiply(Duration, 0.000001) AS duration, "
    "arrayMap(key -> map('key', key, 'value', SpanAttributes[key]), mapKeys(SpanAttributes)) AS tags, "
    "arrayMap(key -> map('key', key, 'value', ResourceAttributes[key]), mapKeys(ResourceAttributes)) AS serviceTags, "
    "if(StatusCode IN ('Error', 'STATUS_CODE_ERROR'), 2, 0) AS statusCode, "
    "SpanKind AS kind, StatusMessage AS statusMessage, "
    "arrayMap((n, t, a) -> tuple(n, toString(t), a), Events.Name, Events.Timestamp, Events.Attributes) AS logs, "
    "arrayMap((t, s, a) -> tuple(t, s, a), Links.TraceId, Links.SpanId, Links.Attributes) AS refs "
    "FROM otel_traces WHERE Timestamp >= first AND Timestamp <= last ORDER BY startTime LIMIT 1000",
}


@pytest.fixture
def filled(clickhouse: str, deliver: Callable[..., object]) -> str:
    failed = span(
        "chat opus-1", "call", "task-1", 9, 0, parent=process_id(), kind="client", error="429", links=(FIRST_SPAN,)
    )
    deliver(process(), call(1), call(2), failed, span("serve", "serve", kind="server"))
    return clickhouse


def test_the_sql_that_grafanas_dashboards_are_made_of_runs_unchanged(filled: str) -> None:
    with session(filled) as client:
        for variables in (CHOSEN, CHOSEN | NARROW):
            for name, sql in SURFACE.items():
                found = client.query(expand(sql, variables)).result_rows
                assert found or variables != CHOSEN, name
        (row,) = client.query(expand(SURFACE["search"], CHOSEN | NARROW)).result_rows
        assert row[-1] == 1
        failed = client.query(expand(SURFACE["operations"], CHOSEN | {"status": "Error"})).result_rows
        assert [(row[:5]) for row in failed] == [("chat opus-1", "Client", 1, 100.0, "429")]


@pytest.mark.skipif("BACKBEAT_GRAFANA_DASHBOARDS" not in os.environ, reason="names a directory of published dashboards")
def test_published_dashboards_run_unchanged(filled: str) -> None:
    """Their texts are Grafana's, under its licence, and not kept here: name a copy of its plugin's `src/dashboards`.

    What runs without it is SURFACE: the same columns, functions, macros and shapes, in our words.
    """
    ran, empty = 0, []
    with session(filled) as client:
        for name, sql in published(Path(os.environ["BACKBEAT_GRAFANA_DASHBOARDS"])):
            if "otel_traces" in sql:
                # Of the filters, ClickHouse itself refuses the one of duration: an alias hides the column it asks for.
                for variables in (CHOSEN, CHOSEN | NARROW | {"min_duration": ""}):
                    rows = client.query(expand(sql, variables)).result_rows
                    empty += [] if rows or variables != CHOSEN else [name]
                ran += 1
    print(f"{ran} ran; without rows for these spans: {empty}")
    assert ran
