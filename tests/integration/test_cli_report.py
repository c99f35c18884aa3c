"""`backbeat report`, `trace` and `telemetry` against a real ClickHouse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.ids import trace_id
from tests.support.clickhouse import Server, call, process, span, spool
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, clickhouse: str, tmp_path: Path) -> Run:
    environ = {
        **database.environ,
        "BACKBEAT_CLICKHOUSE_URL": clickhouse,
        "BACKBEAT_TELEMETRY": "spool",
        "BACKBEAT_SPOOL_DIR": str(tmp_path / "spool"),
        "BACKBEAT_DEFINITIONS": "tests.support.triage",
    }

    def backbeat(*arguments: object) -> Done:
        return command("backbeat", *arguments, home=tmp_path, environ=environ)

    return backbeat


def test_from_the_spool_to_a_report(run: Run, tmp_path: Path) -> None:
    assert "note: nothing in this period; " in run("report", "summary").fine().err
    spool(tmp_path / "spool", call(1, backbeat__cost_usd="0.000000020"), process())
    said = run("report", "summary").fine().err
    assert "note: rows may be missing; 1 spool files of this host are not shipped, the oldest " in said
    assert run("telemetry", "status", "-o", "json").fine().json["depth"] == 1
    assert run("telemetry", "ship", "-o", "json").fine().json["spans"] == 2
    assert run("telemetry", "status", "-o", "json").fine().json["depth"] == 0
    (row,) = run("report", "summary", "--since", "1h", "-o", "json").fine().json["rows"]
    assert (row["calls"], row["cost_usd"]) == (1, "0.000000020")
    out = run("report", "summary").fine().out
    assert "$0.00000002 " in out
    failed = run("report", "summary", "--fail-if", "calls >= 1 and unpriced = 0")
    assert (failed.code, failed.err) == (6, "holds: workflow code_review, tier large, calls 1, unpriced 0\n")
    done = run("report", "nosuch")
    assert (done.code, done.out) == (3, "")
    assert "summary           Model calls\n" in done.err
    assert done.err.splitlines()[-1] == "backbeat: there is no report 'nosuch'. Take one of those above"


def test_a_task_leads_to_its_trace(run: Run) -> None:
    added = run("task", "enqueue", "support_triage", "--payload", '{"subject": "x"}', "-o", "json").fine().json
    task = added[0]["task_id"]
    trace = trace_id("task", task)
    said = run("trace", "show", task).refused(3)
    assert f"no span of trace {trace} is in ClickHouse. 1 spool files of this host are not shipped, the oldest" in said
    run("telemetry", "ship").fine()
    assert "`backbeat telemetry ship`, or correct the id" in run("trace", "show", "0" * 32).refused(3)
    for identifier in (task, task[:13], trace, trace.upper(), trace[:8]):
        tree = run("trace", "show", identifier).fine().out
        assert tree.startswith(f"trace {trace}: 1 spans")
        assert "enqueue support_triage" in tree
    assert [span["name"] for span in run("trace", "show", task, "-o", "json").json] == ["enqueue support_triage"]
    assert run("trace", "show", "xyz").refused(2).startswith("backbeat: 'xyz' is not a trace id")
    assert "there is no task or trace whose id begins with 0123456789" in run("trace", "show", "0123456789").refused(3)


def test_without_clickhouse_it_says_why(tmp_path: Path) -> None:
    for arguments in (["report", "summary"], ["trace", "show", "0" * 32]):
        said = command("backbeat", *arguments, home=tmp_path).refused(2)
        assert said.startswith(
            "backbeat: no ClickHouse is configured (telemetry is 'off'). Run `backbeat up` without `--p"
        )


def test_an_enqueue_told_twice_hangs_where_the_producer_said(run: Run, tmp_path: Path) -> None:
    told = span("enqueue x", "enqueue", "x", parent="aa" * 8)
    retold = span("enqueue x", "enqueue", "x", after=-1.0)
    assert (told.span_id, told.trace_id) == (retold.span_id, retold.trace_id)
    spool(tmp_path / "spool", told, retold)
    run("telemetry", "ship").fine()
    (shown,) = run("trace", "show", told.trace_id, "-o", "json").fine().json
    assert shown["parent"] == "aa" * 8


def test_a_hostile_span_commands_no_terminal(run: Run, tmp_path: Path) -> None:
    hostile = span("chat \x1b[2Jgone", "a")
    spool(tmp_path / "spool", hostile)
    run("telemetry", "ship").fine()
    out = run("trace", "show", hostile.trace_id).fine().out
    assert "chat \\x1b[2Jgone" in out


def test_what_clickhouse_does_not_take_waits(run: Run, tmp_path: Path, clickhouse_server: Server) -> None:
    spool(tmp_path / "spool", call(1))
    environ = {"BACKBEAT_CLICKHOUSE_URL": "http://127.0.0.1:9/x", "BACKBEAT_SPOOL_DIR": str(tmp_path / "spool")}
    done = command("backbeat", "telemetry", "ship", "-o", "json", home=tmp_path, environ=environ)
    assert (done.code, json.loads(done.out)["remaining"]) == (75, 1)
    assert done.err.startswith("backbeat: ")
    said = command("backbeat", "report", "summary", home=tmp_path, environ=environ).refused(75)
    assert said.startswith("backbeat: ClickHouse at 127.0.0.1:9 does not answer: ")
