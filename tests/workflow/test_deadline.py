"""Deadlines of days, on a server whose clock skips ahead, with Postgres' clock following it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from temporal_worker.messages import Start
from temporal_worker.worker import Options, activities_of, make_worker
from tests.support.approvals import audit, decide, heard, start, state, token
from tests.support.databases import Database
from tests.support.temporal import Clocked, FarSide, environment, request_of, row

DAY = 86_400.0
QUEUE = "skipping"


@asynccontextmanager
async def waiting(
    database: Database, skipping: WorkflowEnvironment, far: FarSide, **changed: Any
) -> AsyncIterator[tuple[UUID, WorkflowHandle[Any, Any]]]:
    """A workflow that waits for a decision, with no loop that would poke it."""

    async def ahead() -> float:
        return (await skipping.get_current_time() - datetime.now(UTC)).total_seconds()

    workflow = start(database, **changed)
    async with environment(database, far) as env:
        clocked = replace(env, db=Clocked(env.db, database, ahead))
        async with make_worker(skipping.client, activities_of(clocked), Options(task_queue=QUEUE)):
            name = row(database, workflow)["temporal_id"]
            given = Start(str(workflow))
            handle = await skipping.client.start_workflow("approve_effect", given, id=name, task_queue=QUEUE)
            yield workflow, handle


async def until_asked(database: Database, skipping: WorkflowEnvironment, workflow: UUID) -> tuple[UUID, str]:
    while not (found := request_of(database, workflow)) or row(database, workflow)["status"] != "waiting":
        await skipping.sleep(0.01)
    return found


async def test_a_deadline_that_passes_means_no(database: Database, skipping: WorkflowEnvironment) -> None:
    far = FarSide()
    async with waiting(database, skipping, far, deadline_seconds=3 * DAY) as (workflow, handle):
        began = await skipping.get_current_time()
        assert await handle.result() == {"decision": "expired"}
        assert await skipping.get_current_time() - began >= timedelta(days=3)
    assert far.writes == 0
    done = row(database, workflow)
    assert (done["status"], done["result"]) == ("completed", {"decision": "expired"})
    request = request_of(database, workflow)
    assert request
    assert [entry[:2] for entry in audit(database, request[0])] == [
        ("(workflow)", "approval.requested"),
        ("(clock)", "approval.stuck"),
        ("(deadline)", "approval.expired"),
    ]
    late = decide(database, token(database, "alice"), request[0], "approve", request[1])
    assert (late["verdict"], late["closed_by"]) == ("closed", "(deadline)")


async def test_days_of_reminders_and_escalation_pass_by_postgres_word(
    database: Database, skipping: WorkflowEnvironment
) -> None:
    """The workflow knows nothing of them: it waits for the moment that Postgres names next."""
    far = FarSide()
    dave = token(database, "dave")
    policy = {
        "approvers": ["alice"],
        "remind_every": DAY,
        "escalate": [{"after": 2.5 * DAY, "approvers": ["dave"]}],
        "effect_delay": DAY,
    }
    async with waiting(database, skipping, far, deadline_seconds=4 * DAY, policy=policy) as (workflow, handle):
        request, shown = await until_asked(database, skipping, workflow)
        await skipping.sleep(timedelta(days=3.2))
        told = [event for event, *_ in heard(database, request)]
        assert told == ["asked", "stuck", "reminded", "reminded", "escalated", "reminded"]
        assert decide(database, dave, request, "approve", shown)["state"] == "approved"
        assert await handle.result() == {"decision": "approved", "effect": {"id": 1}}
    waited = "SELECT e.intended_at - r.closed_at FROM backbeat.side_effects e, backbeat.approval_requests r"
    assert timedelta(days=1) <= database.value(waited) < timedelta(days=1.1)
    assert heard(database, request)[-1][0] == "decided"


async def test_a_decision_whose_poke_never_came_counts_at_the_deadline(
    database: Database, skipping: WorkflowEnvironment
) -> None:
    far = FarSide()
    async with waiting(database, skipping, far, deadline_seconds=3 * DAY) as (workflow, handle):
        request, shown = await until_asked(database, skipping, workflow)
        await skipping.sleep(timedelta(days=2))
        decide(database, token(database, "alice"), request, "approve", shown)
        result = await handle.result()
    assert result == {"decision": "approved", "effect": {"id": 1}}
    assert far.writes == 1


async def test_a_timer_that_fires_early_waits_for_postgres(database: Database, skipping: WorkflowEnvironment) -> None:
    """Postgres' clock decides: where it is behind Temporal's, the workflow waits for what is left."""
    far = FarSide()
    async with waiting(database, skipping, far, deadline_seconds=3 * DAY) as (workflow, handle):
        request, _ = await until_asked(database, skipping, workflow)
        later = "SET deadline = deadline + interval '1 day'"
        database.sql(f"UPDATE backbeat.approval_requests {later} WHERE id = %s", [request])
        began = await skipping.get_current_time()
        assert await handle.result() == {"decision": "expired"}
        assert await skipping.get_current_time() - began >= timedelta(days=4) - timedelta(minutes=1)
    assert state(database, request) == "expired"


async def test_an_unknown_outcome_is_looked_at_again_ever_more_rarely(
    database: Database, skipping: WorkflowEnvironment
) -> None:
    far = FarSide(troubles=["lose answer"], can_look=False)
    async with waiting(database, skipping, far, deadline_seconds=DAY) as (workflow, handle):
        request, shown = await until_asked(database, skipping, workflow)
        decide(database, token(database, "alice"), request, "approve", shown)
        await handle.signal("poke")
        while "unknown" not in (row(database, workflow)["waiting_for"] or ""):
            await skipping.sleep(1)
        await skipping.sleep(timedelta(hours=12))
        history = await handle.fetch_history()
        looks = [
            event.activity_task_scheduled_event_attributes.activity_type.name
            for event in history.events
            if event.HasField("activity_task_scheduled_event_attributes")
        ].count("perform_effect")
        assert 10 <= looks <= 20
        database.advance(timedelta(seconds=2))
        database.sql("SELECT backbeat.resolve_effect(%s, %s::jsonb, '', 'carol')", [f"{workflow}:effect", '{"id": 9}'])
        assert await handle.result() == {"decision": "approved", "effect": {"id": 9}}
    assert far.writes == 1
