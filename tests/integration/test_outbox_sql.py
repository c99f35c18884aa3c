"""The outbox in Postgres: order within a workflow, one holder at a time, nothing lost and nothing done twice."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support import every_postgres
from tests.support.approvals import start, worker_rows
from tests.support.databases import Database

ALL = ["start", "poke", "wake", "cancel"]


def lease(database: Database, kinds: list[str], limit: int = 10, seconds: float = 15.0) -> list[dict[str, Any]]:
    return worker_rows(database, "SELECT * FROM backbeat.lease_outbox(%s, %s, %s)", [kinds, limit, seconds])


def settle(database: Database, message: dict[str, Any], outcome: str, *rest: Any) -> bool:
    call = "SELECT backbeat.settle_outbox(%s, %s, %s, %s{}) AS ok".format(", %s" * len(rest))
    (row,) = worker_rows(database, call, [message["stream"], message["seq"], message["lease"], outcome, *rest])
    return bool(row["ok"])


def push(database: Database, workflow: UUID, kind: str = "poke") -> None:
    database.sql("SELECT backbeat.push_outbox(%s, %s)", [workflow, kind])


def status(database: Database, workflow: UUID) -> tuple[str, str | None, str | None]:
    query = "SELECT status, run_id, error FROM backbeat.orchestrated_workflows WHERE id = %s"
    ((now, run, error),) = database.sql(query, [workflow])
    return now, run, error


@every_postgres
def test_a_workflow_hears_one_thing_at_a_time_and_in_order(database: Database) -> None:
    one, other = start(database), start(database)
    push(database, one)
    push(database, one, "cancel")
    assert lease(database, ["poke", "wake", "cancel"]) == []
    first = {message["stream"]: message for message in lease(database, ALL)}
    assert {(message["kind"], message["seq"]) for message in first.values()} == {("start", 1)}
    assert first.keys() == {one, other}
    assert lease(database, ALL) == []
    assert settle(database, first[one], "delivered", None, 0, "run-1")
    assert status(database, one) == ("running", "run-1", None)
    assert status(database, other) == ("starting", None, None)
    (second,) = lease(database, ALL)
    assert (second["stream"], second["kind"]) == (one, "poke")
    assert settle(database, second, "delivered")
    assert [message["kind"] for message in lease(database, ALL)] == ["cancel"]


def test_a_lease_that_ran_out_is_somebody_elses(database: Database) -> None:
    start(database)
    (stale,) = lease(database, ALL, seconds=15)
    database.advance(timedelta(seconds=15))
    (fresh,) = lease(database, ALL)
    assert (fresh["attempts"], fresh["lease"] > stale["lease"]) == (2, True)
    assert not settle(database, stale, "dead", "I am late")
    assert status(database, fresh["stream"])[0] == "starting"
    assert settle(database, fresh, "delivered", None, 0, "run-2")
    assert not settle(database, fresh, "delivered", None, 0, "run-3")
    assert status(database, fresh["stream"]) == ("running", "run-2", None)


def test_a_retry_waits_its_time(database: Database) -> None:
    start(database)
    (message,) = lease(database, ALL)
    assert settle(database, message, "retry", "away", 30.0)
    assert lease(database, ALL) == []
    database.advance(timedelta(seconds=31))
    assert [again["attempts"] for again in lease(database, ALL)] == [2]


def test_a_start_that_is_dead_fails_the_workflow_and_says_why(database: Database) -> None:
    workflow = start(database)
    (message,) = lease(database, ALL)
    assert settle(database, message, "dead", "no worker runs it")
    assert status(database, workflow) == ("failed", None, "no worker runs it")


def test_who_leases_waits_for_nobody_and_shares_nothing(database: Database) -> None:
    made = {start(database) for _ in range(6)}
    call = "SELECT stream FROM backbeat.lease_outbox(%s, 4, 15)"
    with psycopg.connect(database.worker_url) as first, psycopg.connect(database.worker_url) as second:
        taken = {row[0] for row in first.execute(call, [ALL])}
        second.execute("SET LOCAL lock_timeout = '1s'")
        others = {row[0] for row in second.execute(call, [ALL])}
    assert (len(taken), len(others)) == (4, 2)
    assert taken | others == made


def test_a_state_is_written_only_where_it_is_news(database: Database) -> None:
    workflow = start(database)
    call = "SELECT backbeat.project_state(%s, %s, %s, 'run', %s, %s::jsonb, %s) AS news"

    def project(seq: int, state: str, waiting: str | None = None, result: str | None = None) -> bool:
        (row,) = worker_rows(database, call, [workflow, seq, state, waiting, result, None])
        return bool(row["news"])

    assert project(2, "waiting", "approval x")
    assert not project(1, "running")
    assert not project(2, "running")
    assert project(3, "completed", None, "{}")
    assert not project(4, "cancelled")
    assert status(database, workflow)[0] == "completed"


IMPOSSIBLE = [
    "UPDATE backbeat.orchestrated_workflows SET status = 'waiting'",
    "UPDATE backbeat.orchestrated_workflows SET status = 'completed', finished_at = now()",
    "UPDATE backbeat.orchestrated_workflows SET status = 'failed', finished_at = now()",
    "UPDATE backbeat.orchestrated_workflows SET status = 'cancelled'",
    "UPDATE backbeat.orchestrated_workflows SET finished_at = now()",
    "UPDATE backbeat.orchestrated_workflows SET status = 'running', result = '{}'",
    "UPDATE backbeat.temporal_outbox SET kind = 'poke'",
    "UPDATE backbeat.temporal_outbox SET dead_at = now()",
    "UPDATE backbeat.temporal_outbox SET dead_at = now(), last_error = 'x', delivered_at = now()",
]


def test_states_that_make_no_sense_cannot_be(database: Database) -> None:
    start(database)
    for statement in IMPOSSIBLE:
        with pytest.raises(psycopg.errors.CheckViolation):
            database.sql(statement)


def test_an_open_workflow_is_looked_at_once_a_period(database: Database) -> None:
    workflow = start(database)
    check = "SELECT * FROM backbeat.workflows_to_check(10, 30)"
    assert worker_rows(database, check) == []
    database.advance(timedelta(seconds=31))
    (found,) = worker_rows(database, check)
    assert (found["id"], found["status"]) == (workflow, "starting")
    assert worker_rows(database, check) == []


def test_a_workflow_is_restarted_under_a_new_name_and_only_once(database: Database) -> None:
    workflow = start(database)
    again = "SELECT backbeat.restart_workflow(%s, %s) AS ok"
    name = f"approve_effect/{workflow}"
    assert worker_rows(database, again, [workflow, name]) == [{"ok": False}]
    (message,) = lease(database, ALL)
    settle(database, message, "delivered", None, 0, "run-1")
    assert worker_rows(database, again, [workflow, name]) == [{"ok": True}]
    assert worker_rows(database, again, [workflow, name]) == [{"ok": False}]
    (restart,) = lease(database, ALL)
    assert (restart["kind"], restart["temporal_id"]) == ("start", f"{name}~r2")
    assert status(database, workflow) == ("starting", None, None)
