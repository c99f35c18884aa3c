"""Reports and the trace tree, asked of a real server."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from backbeat.clickhouse import session
from backbeat.reports.ask import Period, ask
from backbeat.reports.catalog import find, names
from backbeat.reports.render import render_json, render_text
from backbeat.reports.trace import trace_spans, trace_tree
from shared.errors import InputError, NotFoundError, SchemaError
from shared.ids import span_id, trace_id
from shared.telemetry.shipper import ShipReport
from tests.support.clickhouse import START_NS, Server, call, process, process_id, span

Deliver = Callable[..., ShipReport]
HOUR = timedelta(hours=1)
COLUMNS = (
    "workflow", "tier", "calls", "lost", "input_tokens", "output_tokens", "cost_usd", "unpriced", "p50_s",
    "p95_s",
)  # fmt: skip


def test_summary_by_workflow_and_tier(clickhouse: str, deliver: Deliver) -> None:
    large = [call(n, seconds=n / 10) for n in range(1, 21)]
    small = [call(30, backbeat__tier="small", backbeat__cost_usd=None), call(31, backbeat__tier="small", status="lost")]
    deliver(*large, *small, process())
    deliver(call(1, status="lost", seconds=900), call(2, seconds=0.2))
    answer = ask(clickhouse, find("summary"), Period.last(24 * HOUR))
    assert answer.columns == COLUMNS
    assert answer.rows == [
        ("code_review", "large", 20, 0, 20_000, 200, Decimal("0.000000020"), 0, 1.1, 2.0),
        ("code_review", "small", 2, 1, 1_000, 10, None, 2, 1.0, 1.0),
    ]
    assert json.loads(render_json(answer))["rows"][0]["cost_usd"] == "0.000000020"
    assert json.loads(render_json(answer))["rows"][1]["cost_usd"] is None
    lines = render_text(answer).splitlines()
    assert lines[1].split() == list(COLUMNS)
    assert lines[4].split() == ["code_review", "small", "2", "1", "1,000", "10", "unknown", "2", "1", "1"]


def test_since_leaves_out_what_began_before(clickhouse: str, deliver: Deliver) -> None:
    deliver(call(1))
    start, moment = datetime.fromtimestamp(START_NS / 1e9, UTC), timedelta(milliseconds=5)
    with session(clickhouse) as client:
        summary = find("summary")
        assert len(ask(client, summary, Period(start - moment, start + moment)).rows) == 1
        assert ask(client, summary, Period(start + moment, start + HOUR)).rows == []
        assert ask(client, summary, Period(start - HOUR, start - moment)).rows == []


def test_an_unknown_report_and_a_missing_schema(clickhouse_server: Server) -> None:
    assert "summary" in names()
    with pytest.raises(NotFoundError, match=r"no report '\.\./x'.*summary"):
        find("../x")
    with pytest.raises(SchemaError, match="backbeat migrate up"):
        ask(clickhouse_server.url(), find("summary"), Period.last(HOUR))


def test_a_trace_from_enqueue_to_effect(clickhouse: str, deliver: Deliver) -> None:
    enqueue = span_id("enqueue", "task-1")
    escalate = span_id("escalate", "w")
    priced: dict[str, Any] = {"backbeat__cost_usd": "0.012300000", "backbeat__validation": "passed"}
    deliver(
        span("enqueue code_review", "enqueue", "task-1", kind="producer", seconds=0.01, parent="00000000000000aa"),
        process(after=2.0, seconds=9.5),
        call(1, **priced),
        call(2, status="lost"),
        span("escalate code_review", "escalate", "w", kind="producer", parent=process_id(), after=11.0, seconds=0),
        span(
            "effect github_review", "effect", "k", parent=escalate, kind="client", after=20.0, seconds=0.5,
            error="timeout", attributes={"backbeat.effect_status": "unknown"},
        ),
        span("somebody else's", "x", trace=trace_id("task", 2)),
    )  # fmt: skip
    effect = span(
        "effect github_review", "effect", "k", parent=escalate, kind="client", after=25.0, seconds=0.25,
        attributes={"backbeat.effect_status": "done"},
    )  # fmt: skip
    deliver(effect, call(1, **priced))
    spans = trace_spans(clickhouse, trace_id("task", 1))
    assert len(spans) == 6
    assert spans[0]["duration"] in {10_000_000, 1_000_000_000}
    began = f"{datetime.fromtimestamp(START_NS / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    calls = [
        "chat opus-1  +0.000 s  1.000 s  done passed $0.0123",
        "chat opus-1  +0.000 s  1.000 s  lost cost unknown",
    ]
    tree = trace_tree(clickhouse, trace_id("task", 1))
    lines = tree.splitlines()
    assert lines[0] == f"trace {trace_id('task', 1)}: 6 spans from {began}, 25.250 s, $0.0123 + 1 unknown"
    assert lines[1] == "└── enqueue code_review  +0.000 s  0.010 s  (its parent 00000000000000aa is not here)"
    assert lines[2] == "    └── process code_review  +2.000 s  9.500 s  succeed"
    assert sorted(line[8:] for line in lines[3:5]) == sorted("├── " + text for text in calls)
    assert lines[5] == "        └── escalate code_review  +11.000 s  0.000 s"
    assert lines[6] == "            └── effect github_review  +25.000 s  0.250 s  done"
    assert len(lines) == 7
    assert enqueue in {item["parent"] for item in spans}


def test_failures_show_in_the_tree(clickhouse: str, deliver: Deliver) -> None:
    deliver(span("effect mail", "e", error="the far side [said] no"))
    assert "effect mail  +0.000 s  1.000 s  ! the far side [said] no" in trace_tree(clickhouse, trace_id("task", 1))


def test_a_tool_costs_nothing_and_a_vote_comes_before_its_decision(clickhouse: str, deliver: Deliver) -> None:
    of_it: Any = {"attributes": {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}}
    votes = [
        span(name, name, parent=process_id()) for name in ("approval.decided", "approval.voted", "approval.requested")
    ]
    deliver(process(), call(1), span("execute_tool search", "tool", parent=process_id(), **of_it), *votes)
    tree = trace_tree(clickhouse, trace_id("task", 1))
    assert tree.splitlines()[0].endswith(", 1.000 s, $0.000000001")
    assert "execute_tool search  +0.000 s  1.000 s\n" in tree
    names = [one["name"] for one in trace_spans(clickhouse, trace_id("task", 1)) if "approval" in one["name"]]
    assert names == ["approval.requested", "approval.voted", "approval.decided"]


def test_a_trace_that_is_not_there(clickhouse: str) -> None:
    with pytest.raises(NotFoundError, match="no span of trace"):
        trace_tree(clickhouse, "ab" * 16)
    for wrong in ("", "xyz", "AB" * 16, "ab" * 17):
        with pytest.raises(InputError, match="is not a trace id"):
            trace_tree(clickhouse, wrong)
