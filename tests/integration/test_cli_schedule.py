"""`backbeat schedule` against a real database."""

import io
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backbeat.cli.main import main
from tests.support.children import FOREIGN
from tests.support.command import Done
from tests.support.databases import Database

Run = Callable[..., Done]
TICKET = json.dumps({"subject": "Nightly"})
NIGHTLY = ("add", "nightly", "30 2 * * *", "support_triage", "--payload", TICKET)


@pytest.fixture
def run(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """In this process: what a command is in a process of its own, other tests say."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)

    def schedule(*arguments: object, stdin: str = "", **changed: str) -> Done:
        given = {**database.environ, "BACKBEAT_DEFINITIONS": "tests.support.triage"} | changed
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(stdin))
            for name, value in given.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main(["schedule", *map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return schedule


def _listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run("list", "-o", "json").fine().json
    return found


def test_the_life_of_a_schedule(run: Run, database: Database) -> None:
    options = ("--zone", "Europe/Berlin", "--catch-up", "all", "--jitter", "10m", "--class", "low")
    added = run(*NIGHTLY, *options).fine()
    assert (added.out, added.err[:28]) == ("", "schedule 'nightly': first at")
    (row,) = _listed(run)
    assert (row["state"], row["target"], row["zone"], row["jitter_seconds"]) == (
        "on",
        "support_triage@3",
        "Europe/Berlin",
        600,
    )
    assert row["payload"] == {"subject": "Nightly"}
    coming = run("next", "nightly", "-n", "3", "-o", "json").fine().json
    assert [slot["slot"][11:16] for slot in coming] == ["02:30"] * 3
    assert [set(slot) for slot in coming] == [{"slot", "zone", "utc", "starts"}] * 3
    assert coming[0]["utc"] == row["next_at"]
    (task,) = run("run-now", "nightly", "-o", "json").fine().json
    found = database.sql("SELECT id::text, class, payload ->> 'subject' FROM backbeat.simple_tasks")
    assert found == [(task["task_id"], "low", "Nightly")]
    assert run("pause", "nightly").fine().err == "schedule 'nightly': paused\n"
    assert _listed(run)[0]["state"] == "paused"
    database.advance(timedelta(days=2))
    assert run("resume", "nightly").fine().err.startswith("schedule 'nightly': next at ")
    assert "nightly" in run("list").fine().out
    run("remove", "nightly").fine()
    assert _listed(run) == []


def test_a_selector_is_tried_when_it_is_added(run: Run, database: Database) -> None:
    query = "SELECT subject FROM (VALUES ('a'), (NULL)) AS v (subject);\n"
    said = run("add", "due", "0 * * * *", "support_triage", "--selector", "-", stdin=query).fine().err
    assert said.startswith("the selector finds 1 payloads now. 1 of 2 rows refused: ")
    tasks = run("run-now", "due", "-o", "json").fine()
    assert (len(tasks.json), tasks.err[:24]) == (1, '1 of 2 rows refused: {"s')


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("add", "x", "0 0 31 2 *", "support_triage", "--payload", TICKET), 2, "'0 0 31 2 *' never comes"),
    (("add", "x", "0 25 * * *", "support_triage", "--payload", TICKET), 2, "is no cron expression: bad hour"),
    (
        (*NIGHTLY, "--zone", "Europe/Berln"),
        2,
        "there is no time zone 'Europe/Berln'. Use a name of the IANA database, such as Europe/Berlin",
    ),
    (("add", "x", "0 0 * * *", "nothing", "--payload", TICKET), 2, "no loaded module defines the task 'nothing'"),
    ((*NIGHTLY, "--version", "9"), 2, "no loaded module defines support_triage@9"),
    ((*NIGHTLY[:5], "{}"), 2, "support_triage@3: subject: Field required"),
    ((*NIGHTLY, "--tenant", "nobody"), 3, "tenant nobody does not exist"),
    (("add", "No Name", *NIGHTLY[2:]), 2, "'No Name' cannot be the name of a schedule"),
    (NIGHTLY[:4], 2, "give either --payload or --selector"),
    ((*NIGHTLY, "--timeout", "2m"), 2, "between 1s and 60s"),
    (("pause", "nothing"), 3, "there is no schedule 'nothing'"),
    (("resume", "nothing"), 3, "there is no schedule 'nothing'"),
    (("remove", "nothing"), 3, "there is no schedule 'nothing'"),
    (("next", "nothing"), 3, "there is no schedule 'nothing'"),
    (("run-now", "nothing"), 3, "there is no schedule 'nothing'"),
]


def test_bad_input_is_one_clear_line_and_changes_nothing(run: Run, database: Database) -> None:
    for arguments, code, said in BAD:
        assert said in run(*arguments).refused(code)
    assert database.sql("SELECT FROM backbeat.schedules") == []


def test_a_selector_that_writes_or_runs_too_long_is_not_added(run: Run, database: Database) -> None:
    start = ("add", "due", "0 * * * *", "support_triage", "--selector", "-")
    for query, said in (
        ("DELETE FROM backbeat.schedules", "It must be one SELECT that only reads"),
        ("SELECT pg_sleep(30)::text AS subject", "the selector of 'due' ran longer than 1 s"),
        ("SELECT * FROM backbeat.tasks", "may not: permission denied for view tasks. Grant what it reads to the role"),
        ("SELECT 1 AS wrong", "the selector of 'due' finds no payload: 1 of 1 rows refused"),
    ):
        limit = "1s" if "pg_sleep" in query else "30s"
        assert said in run(*start, "--timeout", limit, stdin=query).refused(2)
    assert database.sql("SELECT FROM backbeat.schedules") == []


def test_a_name_is_taken_once_and_by_operators_only(run: Run, database: Database) -> None:
    run(*NIGHTLY).fine()
    assert "there is a schedule 'nightly' already" in run(*NIGHTLY).refused(5)
    worker = {"BACKBEAT_DIRECT_URL": ""}
    for arguments in (NIGHTLY, ("pause", "nightly"), ("remove", "nightly")):
        said = run(*arguments, **worker).refused(4)
        assert "with the login that runs the migrations. Set BACKBEAT_DIRECT_URL to it" in said
    assert "is not paused" in run("resume", "nightly").refused(5)
    assert [row["state"] for row in _listed(run)] == ["on"]
