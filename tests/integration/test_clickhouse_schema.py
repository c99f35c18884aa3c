"""The telemetry schema: upstream's table, the facts cut from it, views in which a span counts once, its migrations."""

import shutil
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backbeat.clickhouse import session
from backbeat.migrate_clickhouse import clickhouse_status, clickhouse_up, statements
from backbeat.migration_files import load
from docs import dictionary
from shared.errors import AuthError, ConfigError, SchemaError, UnavailableError
from shared.ids import span_id
from shared.telemetry.shipper import ShipReport
from tests.support.clickhouse import (
    CALLS,
    HOURS,
    PASSWORD,
    START_NS,
    Server,
    ask,
    call,
    process,
    process_id,
    span,
    tick_link,
)

Deliver = Callable[..., ShipReport]

LC, ATTRIBUTES = "LowCardinality(String)", "Map(LowCardinality(String), String)"
# As the Collector's clickhouseexporter creates it.
UPSTREAM = [
    ("Timestamp", "DateTime64(9)"),
    *((name, "String") for name in ("TraceId", "SpanId", "ParentSpanId", "TraceState")),
    *((name, LC) for name in ("SpanName", "SpanKind", "ServiceName")),
    ("ResourceAttributes", ATTRIBUTES),
    *((name, "String") for name in ("ScopeName", "ScopeVersion")),
    ("SpanAttributes", ATTRIBUTES),
    ("Duration", "UInt64"),
    ("StatusCode", LC),
    ("StatusMessage", "String"),
    ("Events.Timestamp", "Array(DateTime64(9))"),
    ("Events.Name", f"Array({LC})"),
    ("Events.Attributes", f"Array({ATTRIBUTES})"),
    *((f"Links.{name}", "Array(String)") for name in ("TraceId", "SpanId", "TraceState")),
    ("Links.Attributes", f"Array({ATTRIBUTES})"),
]


def test_otel_traces_is_upstreams_column_for_column(clickhouse: str) -> None:
    assert [row[:2] for row in ask(clickhouse, "DESCRIBE TABLE otel_traces")] == UPSTREAM
    lookup = ask(clickhouse, "DESCRIBE TABLE otel_traces_trace_id_ts")
    assert [row[0] for row in lookup] == ["TraceId", "Start", "End"]


def test_every_table_an_insert_reaches_remembers_tokens_syncs_and_expires(clickhouse: str) -> None:
    tables = dict(ask(clickhouse, "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"))
    own = {"schema_migrations", "model_prices"}
    reached = {name: text for name, text in tables.items() if "MergeTree" in text and name not in own}
    facts = {"llm_calls", "task_runs", "tick_runs", "approvals", "effects", "origins", "feedback"}
    assert set(reached) == {"otel_traces", "otel_traces_trace_id_ts", "llm_hourly"} | facts
    for name, text in reached.items():
        assert "non_replicated_deduplication_window = 10000" in text, name
        assert "fsync_after_insert = 1, fsync_part_directory = 1" in text, name
        assert ("toIntervalDay(30)" if name.startswith("otel") else "toIntervalDay(400)") in text, name
    views = {name for name in tables if name.endswith("_mv")}
    assert views == {f"{name}_mv" for name in reached} - {"otel_traces_mv"}


def test_a_span_arrives_as_recorded(clickhouse: str, deliver: Deliver) -> None:
    text = 'quote " \\ newline\n \x00 \ud800 ü'
    one = span(
        "approval.requested", "a", parent=process_id(), seconds=0.25, links=(tick_link(),), error="it broke",
        attributes={"text": text, "flag": True, "many": ("a", "b"), "money": Decimal("1E-9"), "nothing": None, "n": 7},
    )  # fmt: skip
    assert deliver(one) == ShipReport(files=1, spans=1)
    with session(clickhouse) as client:
        columns = "*, toUnixTimestamp64Nano(Timestamp) AS ns, Links.TraceId AS link_traces, Links.SpanId AS link_spans"
        (row,) = client.query(f"SELECT {columns} FROM otel_traces").named_results()
    assert (row["ns"], row["Duration"]) == (START_NS, 250_000_000)
    assert (row["TraceId"], row["SpanId"], row["ParentSpanId"]) == (one.trace_id, one.span_id, one.parent_span_id)
    assert (row["SpanName"], row["SpanKind"], row["ServiceName"]) == ("approval.requested", "Internal", "cron-worker")
    assert (row["StatusCode"], row["StatusMessage"]) == ("Error", "it broke")
    assert [*row["link_traces"], *row["link_spans"]] == [*tick_link()]
    plain = text.replace("\ud800", "?")
    expected = {"text": plain, "flag": "true", "many": '["a", "b"]', "money": "0.000000001", "n": "7"}
    assert row["SpanAttributes"] == expected
    assert row["ResourceAttributes"]["service.namespace"] == "backbeat"


def test_a_call_becomes_a_typed_fact(clickhouse: str, deliver: Deliver) -> None:
    detail: dict[str, Any] = {
        "backbeat__version": 3, "backbeat__tenant": "acme", "backbeat__origin_id": "origin", "backbeat__attempt": 2,
        "backbeat__runtime": "cron", "backbeat__call_key": "summary", "backbeat__validation": "passed",
        "backbeat__price_version": "2026-11", "backbeat__tools_offered": 12, "backbeat__tools_called": 3,
        "backbeat__provider_simulated": True, "gen_ai__usage__cache_read__input_tokens": 900,
        "gen_ai__response__finish_reasons": ["end"], "gen_ai__response__id": "msg_1",
    }  # fmt: skip
    deliver(call(1, seconds=2.5, **detail), span("other", "x"))
    with session(clickhouse) as client:
        (row,) = client.query("SELECT * FROM llm_calls").named_results()
    row = {name: value for name, value in row.items() if name not in {"Timestamp", "TraceId"}}
    assert row == {
        "SpanId": span_id("call", "task-1", 1, 0), "ServiceName": "cron-worker", "Runtime": "cron", "Version": "3",
        "Workflow": "code_review", "Tenant": "acme", "Tier": "large", "TaskId": "task-1", "OriginId": "origin",
        "CallKey": "summary", "Attempt": 2, "CallStatus": "done", "Validation": "passed", "Operation": "chat",
        "Provider": "anthropic", "ProviderSimulated": True, "RequestModel": "opus-1", "Model": "opus-1-20260101",
        "FinishReasons": '["end"]', "DurationNs": 2_500_000_000, "InputTokens": 1000, "OutputTokens": 10,
        "CacheReadTokens": 900, "CacheWriteTokens": None, "ReasoningTokens": None, "CostUsd": Decimal("0.000000001"),
        "PriceVersion": "2026-11", "ToolsOffered": 12, "ToolsCalled": 3, "StatusCode": "Unset", "ErrorType": "",
        "ReleaseVersion": row["ReleaseVersion"], "ResponseId": "msg_1",
    }  # fmt: skip


def test_facts_say_ratio_and_bucket(clickhouse: str, deliver: Deliver) -> None:
    read: dict[str, Any] = {"gen_ai__usage__cache_read__input_tokens": 250, "backbeat__tools_offered": 11}
    deliver(call(1, **read), call(2, backbeat__tools_offered=10), call(3, status="lost"))
    sql = "SELECT ToolBucket, CacheRatio, SpanKey > 0, TaskKey FROM v_llm_calls ORDER BY ToolBucket"
    rows = ask(clickhouse, sql)
    assert [row[:3] for row in rows] == [("0", None, 1), ("11+", 0.25, 1), ("6-10", None, 1)]
    assert len({row[3] for row in rows}) == 1


def test_every_column_has_a_unit(clickhouse: str) -> None:
    """In the tables as their comments, in the views by the data dictionary that is made of them."""
    columns = ask(clickhouse, "SELECT table, splitByChar('.', name)[1], comment FROM system.columns WHERE database = "
        "currentDatabase() AND table NOT LIKE '%_mv' AND table NOT IN ('schema_migrations')")  # fmt: skip
    tables, views = dictionary.tables(), dictionary.views()
    assert {view for view, _, _ in columns if view.startswith("v_")} <= views.keys()
    for table, name, comment in columns:
        behind, added = views.get(table, (table, []))
        (each,) = (each for each in [*tables[behind], *added] if each.name == name)
        assert table in views or comment == f"{each.unit}: {each.meaning}", (table, name)
        assert each.unit
        assert each.meaning


def test_what_is_unknown_is_null_and_never_zero(clickhouse: str, deliver: Deliver) -> None:
    deliver(call(1, backbeat__cost_usd=None), call(2, status="lost"), call(3, backbeat__cost_usd="0"))
    facts = ask(clickhouse, "SELECT CallStatus, CostUsd, InputTokens FROM llm_calls ORDER BY CostUsd, InputTokens")
    assert facts == [("done", Decimal(0), 1000), ("done", None, 1000), ("lost", None, None)]
    hourly = "SELECT sum(Calls), sum(LostCalls), sum(UnpricedCalls), sum(CostUsd) FROM v_llm_hourly"
    assert ask(clickhouse, hourly) == [(2, 1, 1, Decimal(0))]


@pytest.mark.parametrize("lost_first", [True, False])
def test_a_lost_call_heard_of_after_all_counts_once(clickhouse: str, deliver: Deliver, lost_first: bool) -> None:
    records = [call(1, status="lost", seconds=60), call(1, seconds=3)]
    for record in records if lost_first else reversed(records):
        deliver(record)
    assert ask(clickhouse, "SELECT count() FROM llm_calls") == [(2,)]
    facts = "SELECT CallStatus, DurationNs, CostUsd FROM v_llm_calls"
    assert ask(clickhouse, facts) == [("done", 3_000_000_000, Decimal("0.000000001"))]
    assert ask(clickhouse, "SELECT SpanAttributes['backbeat.call_status'] FROM v_spans") == [("done",)]
    assert ask(clickhouse, "SELECT Calls, LostCalls, CostUsd FROM v_llm_hourly WHERE Calls > 0") == [
        (1, 0, Decimal("0.000000001"))
    ]


def test_a_dead_workers_span_told_twice_counts_once(clickhouse: str, deliver: Deliver) -> None:
    deliver(call(1), process("lost", after=1.0))
    deliver(call(1), call(2), process("succeed", after=5.0))
    deliver(span("effect review", "effect", "key", attributes={"backbeat.effect_status": "unknown"}))
    deliver(span("effect review", "effect", "key", attributes={"backbeat.effect_status": "done"}, after=9.0))
    assert ask(clickhouse, "SELECT count() FROM otel_traces") == [(7,)]
    assert ask(clickhouse, "SELECT count(), sum(OutputTokens) FROM v_llm_calls") == [(2, 20)]
    runs = "SELECT Outcome, Attempt, QueueWaitMs, Workflow, TaskId FROM v_task_runs"
    assert ask(clickhouse, runs) == [("succeed", 1, 250.0, "code_review", "task-1")]
    spans = "SELECT SpanName, SpanAttributes['backbeat.effect_status'] FROM v_spans ORDER BY SpanName, SpanId"
    assert {row for row in ask(clickhouse, spans) if row[1]} == {("effect review", "done")}
    assert len(ask(clickhouse, spans)) == 4


def test_hours_count_a_call_once_however_often_it_was_told(clickhouse: str, deliver: Deliver) -> None:
    done, late = call(1, backbeat__cost_usd="1.5"), call(2, seconds=9, after=7200.0, backbeat__cost_usd="2.5")
    for told in (
        done,
        done,
        done,
        call(2, status="lost"),
        late,
        call(3, backbeat__cost_usd=None),
        call(4, status="lost"),
    ):
        deliver(told)
    deliver(call(4, status="lost"), call(5))
    assert ask(clickhouse, CALLS) == ask(clickhouse, HOURS)
    assert ask(clickhouse, HOURS)[0][:5] == (4, 1, 0, 1, Decimal("4.000000001"))
    later = "SELECT Calls, LostCalls FROM v_llm_hourly WHERE Hour > (SELECT min(Hour) FROM llm_hourly)"
    assert ask(clickhouse, later) == [(1, 0)]
    assert ask(clickhouse, "SELECT sum(Calls) FROM llm_hourly") == [(6,)]  # the table only ever adds


def test_the_hour_holds_latency_and_tasks_by_number_of_tools(clickhouse: str, deliver: Deliver) -> None:
    few = [call(n, seconds=n) for n in range(1, 4)]
    many = [call(n, seconds=20, backbeat__tools_offered=11, backbeat__task_id=f"task-{n}") for n in (10, 11)]
    deliver(*few, *many, call(9, status="lost", seconds=600))
    rows = ask(clickhouse, "SELECT ToolBucket, sum(Calls), sum(LostCalls), max(DurationMs[1]), sum(Tasks) FROM "
        "v_llm_hourly GROUP BY ToolBucket, Model HAVING sum(Calls) > 0 ORDER BY ToolBucket")  # fmt: skip
    assert rows == [("0", 3, 0, 2000.0, 1), ("11+", 2, 0, 20000.0, 2)]


# The runner.


def test_up_twice_applies_once(empty_clickhouse: str) -> None:
    labels = [migration.label for migration in load("clickhouse")]
    assert {state.state for state in clickhouse_status(empty_clickhouse)} == {"pending"}
    assert clickhouse_up(empty_clickhouse) == labels
    assert clickhouse_up(empty_clickhouse) == []
    states = clickhouse_status(empty_clickhouse)
    assert [f"{state.version}_{state.name}" for state in states] == labels
    assert all(state.state == "applied" and state.applied_at is not None for state in states)


def test_a_crash_in_mid_file_and_a_second_runner_do_no_harm(empty_clickhouse: str) -> None:
    clickhouse_up(empty_clickhouse)
    with session(empty_clickhouse) as client:
        client.command("TRUNCATE TABLE schema_migrations")
        client.command("DROP VIEW v_llm_calls")
    done: list[list[str]] = []
    runners = [threading.Thread(target=lambda: done.append(clickhouse_up(empty_clickhouse))) for _ in range(3)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert len(done) == 3
    assert ask(empty_clickhouse, "SELECT count() FROM v_llm_calls") == [(0,)]
    assert {state.state for state in clickhouse_status(empty_clickhouse)} == {"applied"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "clickhouse"
    directory.mkdir()
    (directory / "0001_first.sql").write_text("-- migrate:up\nCREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = Memory;\n")
    (directory / "0002_second.sql").write_text("-- migrate:up\nCREATE TABLE IF NOT EXISTS b (x Int8) ENGINE = Memory")
    return directory


def test_what_the_ledger_contradicts_is_refused(empty_clickhouse: str, files: Path) -> None:
    clickhouse_up(empty_clickhouse, files)
    original = (files / "0001_first.sql").read_text()
    (files / "0001_first.sql").write_text(original.replace("Int8", "Int16"))
    with pytest.raises(SchemaError, match=r"0001_first was edited after it was applied.*Restore the file"):
        clickhouse_up(empty_clickhouse, files)
    (files / "0001_first.sql").write_text(original)
    shutil.move(files / "0002_second.sql", files.parent)
    with pytest.raises(SchemaError, match="0002_second is applied, and newer than this program"):
        clickhouse_up(empty_clickhouse, files)
    shutil.move(files.parent / "0002_second.sql", files)
    (files / "0001_first.sql").unlink()
    with pytest.raises(SchemaError, match="0001_first is applied, but its file is gone"):
        clickhouse_up(empty_clickhouse, files)


def test_a_file_that_fails_is_named_and_may_run_again(empty_clickhouse: str, files: Path) -> None:
    broken = files / "0002_second.sql"
    sound = broken.read_text()
    broken.write_text(sound + "; CREATE TABEL c (x Int8) ENGINE = Memory")
    with pytest.raises(SchemaError, match=r"migration 0002_second failed: .*Code: 62"):
        clickhouse_up(empty_clickhouse, files)
    assert [state.state for state in clickhouse_status(empty_clickhouse, files)] == ["applied", "pending"]
    broken.write_text(sound)
    assert clickhouse_up(empty_clickhouse, files) == ["0002_second"]


def test_each_shipped_statement_can_be_repeated() -> None:
    for migration in load("clickhouse"):
        for statement in statements(migration.sql):
            code = [line for line in statement.splitlines() if line and not line.startswith("--")]
            assert " IF NOT EXISTS " in code[0], migration.label


def test_statements_are_split_at_their_semicolons_only() -> None:
    text = "-- a; b\nSELECT ';', `x;y`, \"z;\" /* ; */, 'it\\'s;', 4 - 2 / 1;\n\n; -- only; this\n;SELECT 2"
    assert list(statements(text)) == [text.partition(";\n\n")[0], "SELECT 2"]
    assert list(statements("-- nothing\n")) == []


def test_a_server_that_cannot_be_used_is_one_clear_line(clickhouse_server: Server) -> None:
    url = clickhouse_server.url("nowhere")
    wrong = url.replace("tester:", "tester:x", 1)
    with pytest.raises(AuthError, match=r"127\.0\.0\.1:\d+ refuses this user or password") as refused:
        clickhouse_up(wrong)
    assert PASSWORD not in str(refused.value)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 does not answer: .*Connection refused"):
        clickhouse_up(url.replace(f":{clickhouse_server.port}/", ":1/"))
    with pytest.raises(ConfigError, match="is not http"):
        clickhouse_up("127.0.0.1:8123")
    with pytest.raises(SchemaError, match="backbeat migrate up"):
        ask(url, "SELECT count() FROM otel_traces")
