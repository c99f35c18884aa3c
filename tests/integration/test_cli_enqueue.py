"""`backbeat task enqueue --from` and `backbeat tenant` against a real database."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbeat.producer.submit import PART
from shared.execution.payloads import PAYLOAD_CAP
from tests.support.command import Done, clean_environ, command
from tests.support.databases import Database
from tests.support.signals import until
from tests.support.triage import triage

Run = Callable[..., Done]
GOOD = '{"subject": "a"}\n{"subject": "b"}\n'
BAD = '{"subject": "a"}\n{"body": "x"}\nnonsense\n{"subject": "b"}\n{"subject": "c", "account": 9007199254740993}\n'
SAID = [
    "line 2: subject: Field required",
    "line 3: not JSON: Expecting value at column 1",
    "line 5: the payload has no canonical form: the number 9007199254740993 is not below 2**53",
]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    environ = {**database.environ, "BACKBEAT_DEFINITIONS": "tests.support.triage"}

    def backbeat(*arguments: object, stdin: str | None = None) -> Done:
        return command("backbeat", *arguments, home=tmp_path, environ=environ, stdin=stdin)

    return backbeat


def _from(run: Run, *arguments: object, stdin: str | None = None) -> Done:
    return run("task", "enqueue", "support_triage", "-o", "json", "--from", *arguments, stdin=stdin)


def _count(database: Database) -> Any:
    return database.value("SELECT count(*) FROM backbeat.simple_tasks")


def test_lines_become_tasks_once(run: Run, database: Database, tmp_path: Path) -> None:
    (tmp_path / "tickets.jsonl").write_text(GOOD + GOOD, encoding="utf-8")
    (tmp_path / "tickets.CSV").write_text('subject,account\nb,\nc,"7"\n', encoding="utf-8")
    first = _from(run, "tickets.jsonl").fine()
    assert first.json == {"new": 2, "known": 2, "bad": 0, "bad_lines": []}
    assert first.err == ""
    assert _from(run, "tickets.CSV").fine().json == {"new": 1, "known": 1, "bad": 0, "bad_lines": []}
    options = ("--class", "urgent", "--run-after", "+10m", "--expires-at", "+1h", "--salt", "s", "--format", "csv")
    assert _from(run, "-", *options, stdin="subject\nb\n").fine().json["new"] == 1
    assert (
        run("task", "enqueue", "support_triage", "--payload", '{"subject": "a"}', "-o", "json").json[0]["new"] is False
    )
    found = "SELECT payload ->> 'subject', payload -> 'account', class, status FROM backbeat.simple_tasks ORDER BY id"
    assert database.sql(found) == [
        ("a", None, "normal", "ready"),
        ("b", None, "normal", "ready"),
        ("c", 7, "normal", "ready"),
        ("b", None, "urgent", "delayed"),
    ]


def test_one_task_whoever_enqueues_it(run: Run, database: Database, tmp_path: Path) -> None:
    """What a definition's model adds to what was said is no part of what is the same."""
    (tmp_path / "one.jsonl").write_text('{"subject": "a"}\n', encoding="utf-8")
    assert _from(run, "one.jsonl").fine().json["new"] == 1
    one = run("task", "enqueue", "support_triage", "--payload", '{"subject": "a"}', "-o", "json").fine()
    assert one.json[0]["new"] is False
    by_sql = """SELECT created FROM backbeat.enqueue('support_triage', %s, ARRAY['{"subject": "a"}'::jsonb])"""
    assert database.sql(by_sql, [triage.version]) == [(False,)]
    assert database.sql("SELECT payload FROM backbeat.simple_tasks") == [({"subject": "a"},)]

    run("task", "enqueue", "prompt", "--payload", '{"prompt": "same question"}').fine()
    again = """SELECT created FROM backbeat.enqueue('prompt', 1, ARRAY['{"prompt": "same question"}'::jsonb])"""
    assert database.sql(again) == [(False,)]


def test_one_bad_line_and_nothing_is_enqueued(run: Run, database: Database) -> None:
    done = _from(run, "-", stdin=BAD)
    fix = "Correct the file, or leave such lines out with --on-bad skip"
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [*SAID, f"backbeat: 3 lines are bad, so nothing was enqueued. {fix}"]
    assert _count(database) == 0


def test_bad_lines_are_left_out_where_that_was_said(run: Run, database: Database) -> None:
    done = _from(run, "-", "--on-bad", "skip", stdin=BAD).fine()
    assert done.err.splitlines() == SAID
    bad = [{"line": int(line.split(":")[0].split()[1]), "reason": line.partition(": ")[2]} for line in SAID]
    assert done.json == {"new": 2, "known": 0, "bad": 3, "bad_lines": bad}
    assert _count(database) == 2


def test_a_line_past_the_cap_is_a_bad_line(run: Run, database: Database) -> None:
    frame = len('{"body": "", "subject": "s"}')
    texts = ["x" * (PAYLOAD_CAP - frame), "x" * (PAYLOAD_CAP - frame + 1)]
    stdin = "\n".join(json.dumps({"subject": "s", "body": text}) for text in texts)
    done = _from(run, "-", "--on-bad", "skip", stdin=stdin).fine()
    assert (done.json["new"], done.err) == (1, "line 2: the payload is larger than 1048576 bytes\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--from", "-", "--payload", "{}"], 2, "give one of --payload, --file and --from"),
        (["--from", "nosuch.jsonl"], 2, "Invalid value for '--from': 'nosuch.jsonl': No such file"),
        (["--from", "-", "--format", "csv"], 2, "line 1: the header must name every column"),
        (["--from", "-", "--tenant", "nobody"], 3, "tenant nobody does not exist"),
    ],
)
def test_what_cannot_be_read_or_enqueued_at_all(run: Run, arguments: list[str], code: int, said: str) -> None:
    done = run("task", "enqueue", "support_triage", *arguments, stdin='\n{"subject": "a"}\n')
    assert done.refused(code).startswith(f"backbeat: {said}")


def test_killed_half_way_and_run_again_each_line_is_one_task(run: Run, database: Database, tmp_path: Path) -> None:
    lines = "".join(f'{{"subject": "{n}"}}\n' for n in range(2 * PART + 10))
    environ = clean_environ(**database.environ, BACKBEAT_DEFINITIONS="tests.support.triage")
    arguments = ["task", "enqueue", "support_triage", "--from", "-", "--on-bad", "skip"]
    with subprocess.Popen(
        [sys.executable, "-m", "backbeat", *arguments], cwd=tmp_path, env=environ, stdin=subprocess.PIPE
    ) as process:
        assert process.stdin
        # The rest does not come: it waits for it with the first part enqueued.
        os.write(process.stdin.fileno(), b"")
        process.stdin.write(lines[: len(lines) // 2 + 100].encode())
        process.stdin.flush()
        until(lambda: _count(database) == PART, what="the first part")
        process.send_signal(signal.SIGKILL)
    assert _from(run, "-", stdin=lines).fine().json == {
        "new": PART + 10,
        "known": PART,
        "bad": 0,
        "bad_lines": [],
    }
    assert _count(database) == 2 * PART + 10


def test_tenants_are_made_weighed_capped_and_paused(run: Run, database: Database) -> None:
    def tenants() -> dict[str, Any]:
        keys = ("weight", "max_running", "paused", "ready")
        rows = run("tenant", "list", "-o", "json").fine().json
        return {row["tenant"]: tuple(row[key] for key in keys) for row in rows}

    run("tenant", "set", "acme", "--weight", "2.5", "--max-running", "4").fine()
    run("tenant", "set", "acme", "--max-running", "0").fine()
    assert _from(run, "-", "--tenant", "acme", stdin=GOOD).fine().json["new"] == 2
    assert tenants() == {"acme": (2.5, None, False, 2), "default": (1.0, None, False, 0)}
    assert run("tenant", "pause", "acme", "--reason", "unpaid").fine().err == (
        "tenant 'acme': paused; 2 tasks went back to wait\n"
    )
    assert tenants()["acme"] == (2.5, None, True, 0)
    run("tenant", "resume", "acme").fine()
    assert run("tenant", "resume", "acme").refused(5).startswith("backbeat: tenant 'acme' is not paused")
    assert run("tenant", "pause", "nobody", "--reason", "x").refused(3).startswith("backbeat: tenant nobody does not")
    line = _from(run, "-", "--tenant", "a\nb", stdin=GOOD).refused(3)
    fix = "`backbeat tenant set` makes one, `backbeat tenant unknown create` all"
    assert line == f"backbeat: tenant a\\nb does not exist. {fix}"

    run("tenant", "unknown", "create", "--weight", "0.5").fine()
    assert _from(run, "-", "--tenant", "new", stdin=GOOD).fine().json["new"] == 2
    assert tenants()["new"] == (0.5, None, False, 2)
    run("tenant", "unknown", "refuse").fine()
    assert "*" not in tenants()


def test_a_workflow_is_paused_by_name(run: Run, database: Database) -> None:
    def listed() -> dict[str, Any]:
        rows = run("workflow", "definitions", "-o", "json").fine().json
        return {row["workflow"]: (row["live"], row["paused"], row["reason"]) for row in rows}

    assert _from(run, "-", stdin=GOOD).fine().json["new"] == 2
    assert run("workflow", "pause", "support_triage", "--reason", "a bad prompt").fine().err == (
        "workflow 'support_triage': paused; 2 tasks held at once, others as they come up\n"
    )
    assert listed()["support_triage"] == (2, True, "a bad prompt")
    run("workflow", "resume", "support_triage").fine()
    assert listed()["support_triage"] == (2, False, None)
    assert (
        run("workflow", "resume", "support_triage")
        .refused(5)
        .startswith("backbeat: workflow 'support_triage' is not paused")
    )
    assert run("workflow", "pause", "nobody", "--reason", "x").refused(3).startswith("backbeat: workflow nobody does")


@pytest.mark.parametrize(
    "arguments", [["t", "--weight", "-1"], ["t", "--weight", "0"], ["t", "--max-running", "-2"], ["*"], [" "]]
)
def test_a_tenant_that_cannot_be(run: Run, arguments: list[str]) -> None:
    run("tenant", "set", *arguments).refused(2)
