"""`backbeat query`, `backbeat telemetry export`, and facts attached to a table that somebody else made."""

import csv
import io
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]  # ships no stubs

from backbeat.cli.main import main
from backbeat.clickhouse import session
from backbeat.embedded.clickhouse_users import ANALYST_LIMITS
from backbeat.migrate_clickhouse import clickhouse_up, statements
from shared.telemetry.shipper import ship_once
from shared.telemetry.spans import SpanRecord
from tests.support.clickhouse import Server, ask, call, process, spool
from tests.support.tree import ROOT


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def backbeat(
    clickhouse_server: Server,
    empty_clickhouse: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """The command line, with this test's database and its analyst."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBEAT_CLICKHOUSE_URL", empty_clickhouse)
    name = urlsplit(empty_clickhouse).path.strip("/")
    monkeypatch.setenv("BACKBEAT_ANALYST_URL", clickhouse_server.analyst_url(name))

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        return Said(main(list(arguments)), *capsys.readouterr())

    return run


def calls() -> list[SpanRecord]:
    """Three calls: one exact, one unpriced, and one that was lost and then heard of."""
    exact: dict[str, Any] = {"backbeat__cost_usd": "1234.567890123", "backbeat__tenant": 'a,"b"\n=c'}
    unpriced: dict[str, Any] = {"backbeat__cost_usd": None}
    return [call(1, **exact), call(2, **unpriced), call(3, status="lost"), call(3), process()]


def test_an_analyst_asks_one_select(
    clickhouse: str, deliver: Callable[..., object], backbeat: Callable[..., Said]
) -> None:
    deliver(*calls())
    sql = "SELECT CallStatus, CostUsd, InputTokens, Tenant, 18446744073709551615 AS big FROM v_llm_calls -- why"
    said = backbeat("query", sql, "-o", "json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert {row["CostUsd"] for row in found} == {"1234.567890123", None, "0.000000001"}
    assert {row["CallStatus"] for row in found} == {"done"}
    assert {row["big"] for row in found} == {2**64 - 1}
    rows = list(csv.DictReader(io.StringIO(backbeat("query", sql, "-o", "csv").out)))
    assert {row["CostUsd"] for row in rows} == {"1234.567890123", "", "0.000000001"}
    assert 'a,"b"\n=c' in {row["Tenant"] for row in rows}
    text = backbeat("query", "SELECT sum(CostUsd) AS cost, count() AS n FROM v_llm_calls").out
    assert [line.split() for line in text.splitlines()] == [["cost", "n"], ["1234.567890124", "3"]]
    assert backbeat("query", "SELECT 1 WHERE 0").err == "none\n"
    assert backbeat("query", "SELECT 1 AS of_limit").out.split() == ["of_limit", "1"]
    guarded = backbeat("query", "SELECT '=1+1' AS a, '@x' AS b, -1 AS c, '' AS d", "-o", "csv").out.splitlines()
    assert guarded == ["a,b,c,d", "'=1+1,'@x,-1,"]


@pytest.mark.parametrize(
    ("sql", "code", "line"),
    [
        (
            "SELEC 1",
            2,
            "ClickHouse refuses the query: Syntax error: failed at position 7 (1) (line 1, col 7): 1. Correct the SQL",
        ),
        ("SELECT nothing FROM v_llm_calls", 2, "ClickHouse refuses the query: "),
        ("SELECT count() FROM v_nothing", 1, "v_nothing"),
        ("", 2, "there is no SQL to ask"),
        ("INSERT INTO llm_calls (Model) VALUES ('x')", 4, "the analyst may only read"),
        ("DROP TABLE llm_calls", 4, "the analyst may only read"),
        ("SELECT file('/etc/passwd')", 4, "the analyst may only read"),
        ("SELECT 1; SELECT 2", 2, "Multi-statements are not allowed"),
        ("SELECT 1 FORMAT CSV", 2, "ClickHouse refuses the query: Syntax error"),
        ("SELECT number FROM numbers(200001)", 2, "the query takes more than an analyst may"),
        ("SELECT 1 SETTINGS max_execution_time = 0", 4, "Cannot modify 'max_execution_time' setting"),
    ],
)
def test_what_an_analyst_may_not_is_one_line(
    clickhouse: str, backbeat: Callable[..., Said], sql: str, code: int, line: str
) -> None:
    said = backbeat("query", sql)
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said
    assert line in said.err
    assert said.err.startswith("backbeat: ")


def test_facts_leave_as_parquet(
    clickhouse: str, deliver: Callable[..., object], backbeat: Callable[..., Said], tmp_path: Path
) -> None:
    deliver(*calls())
    said = backbeat("telemetry", "export", "--parquet", "out", "-o", "json")
    assert said.code == 0, said
    assert {row["table"]: row["rows"] for row in json.loads(said.out)}.items() >= {
        "llm_calls": 3,
        "task_runs": 1,
    }.items()
    table = parquet.read_table(tmp_path / "out" / "llm_calls.parquet")
    assert str(table.schema.field("CostUsd").type) == "decimal128(18, 9)"
    assert str(table.schema.field("Timestamp").type).startswith("timestamp[us")
    ((count, cost),) = ask(clickhouse, "SELECT count(), sum(CostUsd) FROM v_llm_calls")
    costs = table.column("CostUsd").to_pylist()
    assert (len(costs), sum(filter(None, costs)), costs.count(None)) == (count, cost, 1)
    assert cost == Decimal("1234.567890124")
    assert backbeat("telemetry", "export", "--parquet", "s.parquet", "--table", "spans", "--since", "1h").code == 0
    assert parquet.read_metadata(tmp_path / "s.parquet").num_rows == 4
    assert (
        backbeat(
            "telemetry", "export", "--parquet", "out/task_runs.parquet", "--table", "task_runs", "--since", "1s"
        ).code
        == 0
    )
    assert parquet.read_metadata(tmp_path / "out" / "task_runs.parquet").num_rows == 0
    (tmp_path / "file").touch()
    for arguments, code, line in (
        (("one.parquet",), 2, "one.parquet is one file, and holds one table"),
        (("out", "--table", "nothing"), 2, "there is no table 'nothing' to export. Tables: approval_events, "),
        (("file",), 2, "file/approval_events.parquet cannot be written: "),
    ):
        refused = backbeat("telemetry", "export", "--parquet", *arguments)
        assert (refused.code, refused.out, refused.err.count("\n")) == (code, "", 1), refused
        assert line in refused.err
    assert not list(tmp_path.rglob("*.part"))


UPSTREAM = """
CREATE TABLE otel_traces (
    Timestamp DateTime64(9) CODEC(Delta, ZSTD(1)), TraceId String CODEC(ZSTD(1)), SpanId String CODEC(ZSTD(1)),
    ParentSpanId String CODEC(ZSTD(1)), TraceState String CODEC(ZSTD(1)),
    SpanName LowCardinality(String) CODEC(ZSTD(1)),
    SpanKind LowCardinality(String) CODEC(ZSTD(1)), ServiceName LowCardinality(String) CODEC(ZSTD(1)),
    ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)), ScopeName String CODEC(ZSTD(1)),
    ScopeVersion String CODEC(ZSTD(1)), SpanAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Duration UInt64 CODEC(ZSTD(1)), StatusCode LowCardinality(String) CODEC(ZSTD(1)),
    StatusMessage String CODEC(ZSTD(1)),
    Events Nested (Timestamp DateTime64(9),
        Name LowCardinality(String), Attributes Map(LowCardinality(String), String)),
    Links Nested (TraceId String, SpanId String, TraceState String, Attributes Map(LowCardinality(String), String)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toDate(Timestamp) ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1
"""


def test_facts_attach_to_a_table_that_was_there_and_leave_it_alone(
    clickhouse_server: Server, empty_clickhouse: str, tmp_path: Path
) -> None:
    name = urlsplit(empty_clickhouse).path.strip("/")
    with session(clickhouse_server.url()) as client:
        client.command(f"CREATE DATABASE {name}")
    with session(empty_clickhouse) as client:
        client.command(UPSTREAM)
    before = ask(empty_clickhouse, "SHOW CREATE TABLE otel_traces")
    clickhouse_up(empty_clickhouse)
    spool(tmp_path / "spool", *calls())
    kept = {path: path.read_bytes() for path in (tmp_path / "spool").iterdir() if path.is_file()}
    for _ in range(2):  # a lost acknowledgement: their table has no window, so it takes the file twice
        for path, content in kept.items():
            path.write_bytes(content)
        assert ship_once(tmp_path / "spool", empty_clickhouse, 20).error == ""
    assert ask(empty_clickhouse, "SHOW CREATE TABLE otel_traces") == before
    assert ask(empty_clickhouse, "SELECT count(), uniqExact(SpanId) FROM otel_traces") == [(10, 4)]
    assert ask(empty_clickhouse, "SELECT count(), sum(CostUsd) FROM v_llm_calls") == [(3, Decimal("1234.567890124"))]
    assert ask(empty_clickhouse, "SELECT count() FROM v_spans") == [(4,)]
    assert ask(empty_clickhouse, "SELECT count() FROM v_task_runs") == [(1,)]
    assert ask(empty_clickhouse, "SELECT count() FROM llm_calls") == [(4,)]  # ours have one
    rollup = "SELECT sum(Calls), sum(LostCalls), sum(CostUsd) FROM v_llm_hourly"
    assert ask(empty_clickhouse, rollup) == [(3, 0, Decimal("1234.567890124"))]


def test_a_servers_analyst_has_the_limits_of_the_embedded_one(clickhouse_server: Server) -> None:
    """A server does not run here; ClickHouse's parser reads the file, and the numbers are compared."""
    text = (ROOT / "deploy/clickhouse/analyst.sql").read_text()
    with session(clickhouse_server.url()) as client:
        trees = [client.query(f"EXPLAIN AST\n{sql}", {"password": "x"}).result_rows for sql in statements(text)]
    kinds = [tree[0][0].split()[0] for tree in trees]
    assert kinds == [
        *["CreateSettingsProfileQuery"] * 2,
        "CreateRoleQuery",
        "GrantQuery",
        "CreateUserQuery",
        "GrantQuery",
    ]
    limits = dict(re.findall(r"(\w+) = (\d+) MIN 1 MAX \2", text))
    embedded = dict(ANALYST_LIMITS)
    assert int(embedded.pop("max_memory_usage")) <= int(limits.pop("max_memory_usage"))
    embedded.pop("max_threads")
    assert limits == embedded
    assert "readonly = 1 CONST" in text
