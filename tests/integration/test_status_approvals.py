"""`backbeat status --check`: what waits for Temporal or for people's word longer than it takes."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.approvals import Asked, ask, decide, start, token, worker_rows
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]
OURS = ("messages to Temporal", "Temporal workers", "approved effects")


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    def backbeat(*arguments: object) -> Done:
        return command("backbeat", *arguments, home=tmp_path, environ=database.environ)

    return backbeat


def found(run: Run) -> dict[str, tuple[str, str, str]]:
    checks = {one["check"]: one for one in run("status", "-o", "json").fine().json["health"]}
    return {name: (checks[name]["state"], checks[name]["found"], checks[name]["fix"]) for name in OURS}


def present(database: Database) -> None:
    worker_rows(database, "SELECT backbeat.register_worker('w', 'temporal', '[]')")


def approved(database: Database) -> Asked:
    """With a day to take it back; Temporal has heard of everything."""
    asked = ask(database, policy={"approvers": ["alice"], "effect_delay": 86_400})
    assert decide(database, token(database, "alice"), asked.id, "approve", asked.hash)["state"] == "approved"
    database.sql("UPDATE backbeat.temporal_outbox SET delivered_at = backbeat.now()")
    return asked


def test_nothing_open_is_well(run: Run, database: Database) -> None:
    assert {state for state, _, _ in found(run).values()} == {"ok"}


def test_a_message_that_nobody_takes_and_no_worker_are_said(run: Run, database: Database) -> None:
    workflow = start(database)
    present(database)
    assert {state for state, _, _ in found(run).values()} == {"ok"}
    database.advance(timedelta(minutes=3))
    now = found(run)
    state, said = now["messages to Temporal"][:2]
    assert (state, said.replace("4 min", "3 min")) == (
        "wrong",
        f"the oldest waits for 3 min: start of approve_effect {workflow}",
    )
    assert now["Temporal workers"][:2] == ("wrong", "1 runs are open, 0 workers are there")
    assert now["approved effects"][0] == "ok"
    assert "`temporal-worker run`" in now["Temporal workers"][2]
    assert run("status", "--check").code == 1
    present(database)
    assert found(run)["Temporal workers"][0] == "ok"


def test_a_wake_counts_from_when_it_was_last_due(run: Run, database: Database) -> None:
    workflow = start(database)
    database.sql("SELECT backbeat.expect_wake(%s)", [workflow])
    database.sql("UPDATE backbeat.temporal_outbox SET delivered_at = backbeat.now()")
    database.advance(timedelta(hours=1))
    database.sql("SELECT backbeat.wake(%s)", [workflow])
    assert found(run)["messages to Temporal"][0] == "ok"
    database.advance(timedelta(minutes=2))
    assert "2 min: wake of approve_effect" in found(run)["messages to Temporal"][1]


def test_an_effect_that_was_approved_and_has_not_begun_is_said(run: Run, database: Database) -> None:
    asked = approved(database)
    database.advance(timedelta(hours=23))
    present(database)
    assert found(run)["approved effects"][:2] == ("ok", "all have begun"), "it may still be taken back"
    database.advance(timedelta(hours=2))
    present(database)
    now = found(run)["approved effects"]
    assert now[:2] == ("wrong", f"1 have not begun; the oldest, due for 60 min: {asked.workflow}")
    database.sql("SELECT backbeat.project_state(%s, 9, 'cancelled', NULL)", [asked.workflow])
    assert found(run)["approved effects"][0] == "ok"
