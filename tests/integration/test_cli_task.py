"""`backbeat task` against a real database: enqueue, list, show, cancel."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shared.db import pool, queue
from shared.domain.outcome import Escalate, Hold, Retry, Succeed
from tests.support import approvals, tasks
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]
TICKET = json.dumps({"subject": "Bill", "body": "charged twice"})
LOADED = ["support_triage@3"]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    environ = {**database.environ, "BACKBEAT_DEFINITIONS": "tests.support.triage"}

    def task(*arguments: object, stdin: str | None = None) -> Done:
        return command("backbeat", "task", *arguments, home=tmp_path, environ=environ, stdin=stdin)

    return task


def _enqueue(run: Run, *arguments: object, stdin: str | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run("enqueue", "support_triage", "-o", "json", *arguments, stdin=stdin).fine().json
    return rows


def test_enqueue_before_any_worker_ever_ran(run: Run, database: Database) -> None:
    (added,) = _enqueue(run, "--payload", TICKET)
    assert (added["status"], added["new"]) == ("ready", True)
    stored = database.value("SELECT payload FROM backbeat.simple_tasks WHERE id = %s", [added["task_id"]])
    assert stored == {"subject": "Bill", "body": "charged twice"}


def test_the_same_payload_is_the_same_task_unless_it_is_salted(run: Run) -> None:
    (first,) = _enqueue(run, "--payload", TICKET)
    (again,) = _enqueue(run, "--payload", '{"body": "charged twice", "subject": "Bill"}')
    (other,) = _enqueue(run, "--payload", TICKET, "--salt", "1")
    assert again == {**first, "new": False}
    assert other["task_id"] != first["task_id"]


def test_a_list_of_payloads_from_stdin_with_every_option(run: Run, database: Database) -> None:
    options = ("--class", "high", "--run-after", "+10m", "--expires-at", "2999-01-01T00:00:00Z", "--version", "3")
    added = _enqueue(run, "--file", "-", *options, stdin='[{"subject": "a"}, {"subject": "b"}]')
    assert [row["status"] for row in added] == ["delayed", "delayed"]
    query = "SELECT id::text, class, expires_at FROM backbeat.simple_tasks ORDER BY id"
    stored = database.sql(query)
    assert [row[0] for row in stored] == [row["task_id"] for row in added]
    assert {(class_, expires.year) for _, class_, expires in stored} == {("high", 2999)}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ('{"body": "no subject"}', "backbeat: support_triage@3: subject: Field required. Correct the payload"),
        ('{"subject": 7}', "backbeat: support_triage@3: subject: Input should be a valid string. Correct the payload"),
        ("[1]", "backbeat: support_triage@3: the payload: Input should be a valid dictionary"),
        ('{"subject": "x", "priority": NaN}', "backbeat: support_triage@3: the payload has no canonical form: "),
        ('{"subject": "x", "account": 9007199254740993}', "backbeat: support_triage@3: the payload has no canonical"),
    ],
)
def test_a_bad_payload_enqueues_nothing(run: Run, database: Database, payload: str, said: str) -> None:
    assert run("enqueue", "support_triage", "--payload", payload).refused(2).startswith(said)
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 0


def test_one_bad_payload_of_many_enqueues_nothing(run: Run, database: Database, tmp_path: Path) -> None:
    (tmp_path / "tickets.json").write_text('[{"subject": "good"}, {}]', encoding="utf-8")
    assert "subject: Field required" in run("enqueue", "support_triage", "--file", "tickets.json").refused(2)
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch"], 2, "no loaded module defines the task 'nosuch'. Loaded: prompt, support_triage"),
        (
            ["support_triage", "--version", "4"],
            2,
            "no loaded module defines support_triage@4. Loaded: prompt@1, support_triage@3",
        ),
        (["support_triage", "--tenant", "nobody"], 3, "tenant nobody does not exist. "),
    ],
)
def test_what_nobody_knows(run: Run, arguments: list[str], code: int, said: str) -> None:
    assert run("enqueue", *arguments, "--payload", TICKET).refused(code).startswith(f"backbeat: {said}")


async def _work(database: Database) -> None:
    """The first of two tasks fails, its answer comes late, and it succeeds; the second waits for money."""
    async with pool.connect(database.worker_url) as db:
        first, second = await queue.claim(db, "host:1", LOADED, 2, 60.0)
        seq = await tasks.opened(db, first)
        await tasks.settle(db, first, Retry("server_error", "the vendor\x1b[2J answered 500"))
        assert await tasks.answered(db, first, seq)
        await tasks.settle(db, second, Hold("budget", "workflow/support_triage"))
        (again,) = await queue.claim(db, "host:2", LOADED, 2, 60.0)
        await tasks.answered(db, again, await tasks.opened(db, again, "second"), "second", cost="0.0005")
        await tasks.settle(db, again, Succeed({"category": "bug", "urgent": True}))


@pytest.fixture
def ids(run: Run, database: Database) -> list[UUID]:
    """A succeeded task, a held one, a ready one."""
    added = _enqueue(run, "--file", "-", stdin='[{"subject": "one"}, {"subject": "two"}]')
    asyncio.run(_work(database))
    added += _enqueue(run, "--payload", '{"subject": "three"}')
    return [UUID(row["task_id"]) for row in added]


def test_list_counts_and_says_the_one_thing_worth_knowing(run: Run, ids: list[UUID]) -> None:
    done = run("list").fine()
    *rows, counts = done.out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [str(task) for task in reversed(ids)]
    assert counts == "ready 1 · held 1 · succeeded 1"
    assert rows[1].endswith("  budget workflow/support_triage")
    assert rows[2].endswith("2 calls, $0.0045")


def test_an_id_may_be_given_by_its_first_digits(run: Run, database: Database, ids: list[UUID]) -> None:
    alike = "0123456789ab4def8123456789abcdef"
    for last in "12":
        query = "UPDATE backbeat.simple_tasks SET id = %s WHERE id = %s"
        database.sql(query, [UUID(alike[:-1] + last), ids[int(last)]])
    assert run("show", alike[:-1] + "1", "-o", "json").fine().json["task"]["hold_reason"] == "budget"
    assert run("show", str(ids[0])[:20], "-o", "json").fine().json["task"]["id"] == str(ids[0])
    said = run("show", "0123-4567").refused(2)
    one, other = (str(UUID(alike[:-1] + last)) for last in "12")
    assert said == f"backbeat: 01234567 may be {one}, {other}. Give more digits"
    assert "there is no task whose id begins with ffffffff. " in run("cancel", "FFFFFFFF", "--reason", "x").refused(3)
    for wrong in ("0123456", "zzzzzzzz", alike + "0"):
        assert "is no task id, nor its first 8 or more digits" in run("show", wrong).refused(2)


def test_an_escalated_task_says_what_became_of_its_approval(
    run: Run, database: Database, tmp_path: Path, ids: list[UUID]
) -> None:
    async def escalate() -> None:
        async with pool.connect(database.worker_url) as db:
            (task,) = await queue.claim(db, "host:5", LOADED, 1, 60.0)
            await tasks.settle(db, task, Escalate("approve_effect", approvals.escalation()))

    asyncio.run(escalate())
    assert "approval not asked yet; 0 calls" in run("list", "--status", "escalated").fine().out
    workflow = database.value("SELECT workflow_id FROM backbeat.finished_tasks WHERE id = %s", [ids[2]])
    call = "SELECT id FROM backbeat.create_approval(%s, 'approve', %s)"
    request = str(database.value(call, [workflow, approvals.content_hash()]))
    assert "approval pending; 0 calls" in run("list", "--status", "escalated").fine().out
    assert run("show", ids[2], "-o", "json").fine().json["task"]["approval"] == "pending"
    short = ("approval", "show", request[:18], "-o", "json")
    assert command("backbeat", *short, home=tmp_path, environ=database.environ).fine().json["id"] == request


def test_list_filters(run: Run, ids: list[UUID]) -> None:
    def found(*arguments: str) -> list[str]:
        return [row["id"] for row in run("list", "-o", "json", *arguments).fine().json["tasks"]]

    assert found("--status", "held", "--status", "ready") == [str(ids[2]), str(ids[1])]
    assert found("--limit", "1") == [str(ids[2])]
    assert found("--workflow", "other") == []
    assert found("--tenant", "default", "--since", "1h") == [str(task) for task in reversed(ids)]
    both = run("list", "-o", "json", "--status", "held").json
    assert both["counts"] == {"ready": 1, "held": 1, "succeeded": 1}


def test_list_warns_while_everything_is_stopped(run: Run, database: Database, ids: list[UUID]) -> None:
    database.sql("SELECT backbeat.throw_switch('all', 'the bill exploded', 'alice')")
    assert run("list").fine().err == "STOPPED (--all): the bill exploded\n"


def test_show_tells_the_whole_story(run: Run, ids: list[UUID]) -> None:
    story = run("show", ids[0], "-o", "json").fine().json
    assert story["task"]["result"] == {"category": "bug", "urgent": True}
    attempts = [(entry["worker"], entry["outcome"]) for entry in story["attempts"]]
    assert attempts == [("host:1", "retry"), ("host:2", "succeed")]
    calls = [(call["call_key"], call["seq"], call["status"], call["cost_usd"]) for call in story["calls"]]
    assert calls == [("answer", 1, "done", "0.004"), ("second", 1, "done", "0.0005")]

    out = run("show", ids[0]).fine().out
    assert "model calls, $0.0045 in all" in out
    assert "server_error: the vendor\\x1b[2J answered 500" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100


def test_show_of_a_held_task_says_what_it_waits_for(run: Run, ids: list[UUID]) -> None:
    out = run("show", ids[1]).fine().out
    assert "hold reason  budget" in out
    assert "hold key     workflow/support_triage" in out


def test_cancel_ends_even_what_runs_and_only_once(run: Run, database: Database, ids: list[UUID]) -> None:
    async def running() -> queue.Task:
        async with pool.connect(database.worker_url) as db:
            (task,) = await queue.claim(db, "host:4", LOADED, 1, 60.0)
            return task

    async def settle(task: queue.Task) -> bool:
        async with pool.connect(database.worker_url) as db:
            return await tasks.settle(db, task, Succeed({}))

    task = asyncio.run(running())
    assert task.id == ids[2]
    run("cancel", task.id, "--reason", "a duplicate").fine()
    assert not asyncio.run(settle(task))
    row = run("show", task.id, "-o", "json").json["task"]
    assert row["status"] == "cancelled"
    assert row["error"].startswith("a duplicate (by ")
    said = run("cancel", task.id, "--reason", "again").refused(5)
    assert said == f"backbeat: task {task.id} has already ended: cancelled. Nothing is left to cancel"


@pytest.mark.parametrize("arguments", [["show"], ["cancel", "--reason", "x"]])
def test_a_task_that_is_not_there(run: Run, arguments: list[str]) -> None:
    missing = "01a203b6-a07d-7bfb-8827-564de37ba04f"
    said = run(*arguments, missing).refused(3)
    assert said == f"backbeat: there is no task {missing}. `backbeat task list` names them"
