"""Histories of released workflows, replayed for ever: a change that would strand what waits today fails here.

`BACKBEAT_RECORD=1` writes the runs of this test into the corpus, for a new version; recorded files are never changed.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.worker import Replayer

from backbeat import tokens
from shared.definitions import Registry
from temporal_worker.messages import Start
from temporal_worker.workflows.approval import ApproveEffect
from tests.support.approvals import decide, start, token
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, eventually, finished, row, working

HISTORIES = Path(__file__).with_name("histories")
CORPUS = sorted(HISTORIES.glob("*.json"))

# What each kind of run must have crossed: a history that ended early would let any change pass.
CROSSES = {
    "approved": {
        "create_request",
        "project",
        "close_if_pending",
        "submit_decision",
        "perform_effect",
        "signal poke",
        "signal decide",
        "WORKFLOW_EXECUTION_COMPLETED",
    },
    "expired": {"create_request", "project", "close_if_pending", "TIMER_FIRED", "WORKFLOW_EXECUTION_COMPLETED"},
    "cancelled": {"create_request", "project", "TIMER_CANCELED", "WORKFLOW_EXECUTION_CANCELED"},
    "failed": {"project", "WORKFLOW_EXECUTION_FAILED"},
    "revised": {
        "create_request",
        "close_if_pending",
        "revise_request",
        "perform_effect",
        "signal poke",
        "TIMER_FIRED",
        "WORKFLOW_EXECUTION_COMPLETED",
    },
    "revoked": {
        "create_request",
        "project",
        "close_if_pending",
        "signal poke",
        "TIMER_CANCELED",
        "WORKFLOW_EXECUTION_COMPLETED",
    },
}


def crossed(history: WorkflowHistory) -> set[str]:
    """The activities that completed, the signals that came, and the kinds of the other events."""
    found: set[str] = set()
    scheduled: dict[int, str] = {}
    own = history.events[0].workflow_execution_started_event_attributes.task_queue.name
    for event in history.events:
        found.add(workflow_event(event))
        if event.HasField("activity_task_scheduled_event_attributes"):
            what = event.activity_task_scheduled_event_attributes
            scheduled[event.event_id] = what.activity_type.name
            if what.task_queue.name != own:
                found.add(f"{what.activity_type.name} in {what.task_queue.name.rpartition('-')[2]}")
        elif event.HasField("activity_task_completed_event_attributes"):
            found.add(scheduled[event.activity_task_completed_event_attributes.scheduled_event_id])
        elif event.HasField("workflow_execution_signaled_event_attributes"):
            found.add(f"signal {event.workflow_execution_signaled_event_attributes.signal_name}")
    return found


def workflow_event(event: Any) -> str:
    from temporalio.api.enums.v1 import EventType

    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


def anonymous(value: Any) -> Any:
    """Without what names a machine or its paths; replaying looks at neither."""
    if isinstance(value, dict):
        kept = {name: anonymous(field) for name, field in value.items() if name != "stackTrace"}
        return kept | {"identity": "recorded"} if "identity" in kept else kept
    return [anonymous(item) for item in value] if isinstance(value, list) else value


def load(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
async def test_a_recorded_run_replays(path: Path) -> None:
    await Replayer(workflows=[ApproveEffect]).replay_workflow(load(path))


def test_the_corpus_crosses_every_wait() -> None:
    kinds = {path.stem.split("-")[-1] for path in CORPUS}
    assert kinds == set(CROSSES)
    for path in CORPUS:
        missing = CROSSES[path.stem.split("-")[-1]] - crossed(load(path))
        assert not missing, f"{path.name} never crossed {missing}"


@workflow.defn(name="approve_effect")
class WithOneMoreWait(ApproveEffect):
    """What a careless change looks like: it waits before it does anything else."""

    @workflow.init
    def __init__(self, start: Start) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: Start) -> dict[str, Any]:
        await asyncio.sleep(1)
        return await super().run(start)


@workflow.defn(name="approve_effect")
class WithoutItsLastProjection(ApproveEffect):
    """A change at the very end, which only a history that got there can show."""

    @workflow.init
    def __init__(self, start: Start) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: Start) -> dict[str, Any]:
        return await super().run(start)

    async def _end(self, status: str, **fields: Any) -> None:
        self._over = True


@pytest.mark.parametrize("changed", [WithOneMoreWait, WithoutItsLastProjection])
@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
async def test_an_incompatible_change_is_noticed(path: Path, changed: type) -> None:
    with pytest.raises(workflow.NondeterminismError):
        await Replayer(workflows=[changed]).replay_workflow(load(path))


Play = Callable[[Database, Client, str], Awaitable[None]]


async def _approve(database: Database, client: Client, name: str) -> None:
    """A poke without news, a signed signal, an outcome nobody knows until a person says."""
    (found,) = database.sql("SELECT id, hash FROM backbeat.approval_requests")
    request, shown = found
    handle = client.get_workflow_handle(name)
    await handle.signal("poke")
    proof = tokens.sign(token(database, "alice"), request, "approve", shown)
    await handle.signal("decide", {"decision": "approve", "hash": shown, "proof": proof})
    query = "SELECT id, waiting_for FROM backbeat.orchestrated_workflows WHERE waiting_for LIKE '%unknown%'"
    ((workflow_id, _),) = await eventually(lambda: database.sql(query))
    database.advance(timedelta(seconds=2))
    database.sql("SELECT backbeat.resolve_effect(%s, %s::jsonb, '', 'carol')", [f"{workflow_id}:effect", '{"id": 9}'])
    database.sql("SELECT backbeat.push_outbox(%s, 'poke')", [workflow_id])


async def _cancel(database: Database, client: Client, name: str) -> None:
    """Once it waits, which is a moment after its question is there."""
    handle = client.get_workflow_handle(name)
    for _ in range(500):
        if "TIMER_STARTED" in crossed(await handle.fetch_history()):
            break
        await asyncio.sleep(0.02)
    await handle.cancel()


async def _wait(database: Database, client: Client, name: str) -> None:
    """Nothing: the deadline comes."""


async def _again(request: dict[str, Any], comment: str) -> dict[str, Any]:
    return {**request, "body": comment}


async def _revise(database: Database, client: Client, name: str) -> None:
    """Changes are requested and come back; what is approved then waits for its delay."""
    query = "SELECT id, hash FROM backbeat.approval_requests WHERE revision = {}"
    ((request, shown),) = database.sql(query.format(1))
    alice = token(database, "alice")
    decide(database, alice, request, "request_changes", shown, comment="shorter")
    ((request, shown),) = await eventually(lambda: database.sql(query.format(2)))
    decide(database, alice, request, "approve", shown)


async def _revoke(database: Database, client: Client, name: str) -> None:
    """Approved, and taken back while the effect is delayed: the workflow waits twice."""
    ((request, shown),) = database.sql("SELECT id, hash FROM backbeat.approval_requests")
    alice = token(database, "alice")
    decide(database, alice, request, "approve", shown)
    heard = "SELECT count(*) FROM backbeat.temporal_outbox WHERE kind = 'poke' AND delivered_at IS NOT NULL"
    await eventually(lambda: database.value(heard))
    handle = client.get_workflow_handle(name)
    while not {"signal poke", "close_if_pending"} <= crossed(await handle.fetch_history()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    decide(database, alice, request, "revoke", shown)


@pytest.mark.parametrize(
    ("kind", "changed", "play"),
    [
        ("approved", {}, _approve),
        ("expired", {"deadline_seconds": 3}, _wait),
        ("cancelled", {}, _cancel),
        ("failed", {"title": ""}, None),
        ("revised", {"policy": {"approvers": ["alice"], "max_rounds": 1, "effect_delay": 3}}, _revise),
        ("revoked", {"policy": {"approvers": ["alice"], "effect_delay": 3600}}, _revoke),
    ],
)
async def test_a_run_of_today_replays(
    database: Database, temporal_server: Server, kind: str, changed: dict[str, Any], play: Play | None
) -> None:
    far = FarSide(troubles=[] if kind == "revised" else ["lose answer"], can_look=False)
    client = await Client.connect(temporal_server.address)
    able = Registry({}, {"note": replace(far.effect, revise=_again)})
    async with environment(database, far) as env, working(replace(env, registry=able), client):
        made = start(database, **changed)
        name = row(database, made)["temporal_id"]
        if play:
            await asked(database, made)
            await play(database, client, name)
        await finished(database, made)
        handle = client.get_workflow_handle(name)
        with contextlib.suppress(WorkflowFailureError):
            await handle.result()
        history = await handle.fetch_history()
    assert CROSSES[kind] <= crossed(history)
    await Replayer(workflows=[ApproveEffect]).replay_workflow(history)
    if os.environ.get("BACKBEAT_RECORD") == "1":
        text = json.dumps(anonymous(json.loads(history.to_json())), indent=1, sort_keys=True)
        (HISTORIES / f"approve_effect-1-{kind}.json").write_text(text + "\n", encoding="utf-8")
