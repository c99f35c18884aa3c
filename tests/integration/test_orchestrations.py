"""Orchestrations in plain Temporal Python on a real server: started, stepped, shown; effects once, people asked."""

import gc
import json
import os
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import ActivityEnvironment

from shared.db import queue
from shared.db.queue import register
from shared.definitions import Effect, load_definitions
from shared.domain.outcome import Escalate
from shared.errors import DefinitionError
from shared.execution.effects import EffectRefusedError
from shared.execution.environment import Environment
from shared.orchestration.messages import Write, Written
from temporal_worker.activities.calls import Calls
from temporal_worker.orchestrations import load
from tests.support import tasks
from tests.support.approvals import decide, token, worker_rows
from tests.support.databases import Database
from tests.support.parcels import Order
from tests.support.temporal import FarSide, Server, environment, eventually, finished, row, working

MODULE = "tests.support.parcels"


async def connected(server: Server) -> Client:
    return await Client.connect(server.address, data_converter=pydantic_data_converter)


async def _no(_request: dict[str, Any], _mark: str) -> dict[str, Any]:
    raise EffectRefusedError("never")


async def loaded(env: Environment) -> Environment:
    """With the test orchestrations, an effect that is always refused, and the tasks known to Postgres."""
    registry = load_definitions([MODULE])
    strict = Effect(kind="strict", perform=_no, read_back=None, timeout=1.0, settle=0.0)
    await register(env.db, "ticks", "cron", registry.rows())
    return replace(env, registry=replace(registry, effects={**env.registry.effects, "strict": strict}))


def begin(database: Database, name: str, key: str | None = None, **order: Any) -> UUID:
    """Start an orchestration as `backbeat workflow start` does."""
    made = load_definitions([MODULE]).newest_orchestration(name)
    worker_rows(database, "SELECT backbeat.register_definitions('temporal', %s::jsonb)", [json.dumps([made.row])])
    call = "SELECT id FROM backbeat.start_orchestration(%s, 1, 'default', %s::jsonb, %s, NULL)"
    (found,) = worker_rows(database, call, [name, json.dumps({"customer": "acme", **order}), key])
    assert isinstance(found["id"], UUID)
    return found["id"]


def steps(database: Database, workflow: UUID) -> list[tuple[str, str, str]]:
    query = "SELECT name, kind, status FROM backbeat.orchestrated_workflows_steps WHERE workflow_id = %s ORDER BY seq"
    return [(name, kind, status) for name, kind, status in database.sql(query, [workflow])]


async def test_a_run_from_row_to_result(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await connected(temporal_server)
    async with environment(database, far) as env, working(await loaded(env), client):
        light, heavy = begin(database, "ship"), begin(database, "ship", weight=11)
        done, more = await finished(database, light), await finished(database, heavy)
    assert done["status"] == "completed", done
    assert done["result"].keys() == {"total", "failed"}
    assert steps(database, light) == [("book", "effect", "done")]
    assert steps(database, heavy) == [("book", "effect", "done"), ("lift", "effect", "done")]
    assert more["result"]["total"] in (1, 2, 3)
    keys = database.sql("SELECT key FROM backbeat.side_effects ORDER BY 1")
    assert keys == sorted([(f"{light}:book",), (f"{heavy}:book",), (f"{heavy}:lift",)])
    assert far.writes == 3


async def test_people_are_asked_and_what_they_approve_is_done(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await connected(temporal_server)
    pending = "SELECT id, hash FROM backbeat.approval_requests WHERE state = 'pending'"
    async with environment(database, far) as env, working(await loaded(env), client):
        run = begin(database, "ask_first")
        ((request, shown),) = await eventually(lambda: database.sql(pending))
        await eventually(lambda: row(database, run)["status"] == "waiting")
        assert "the decision on 'Post'" in row(database, run)["waiting_for"]
        decide(database, token(database, "alice"), request, "approve", shown)
        ((request, shown),) = await eventually(lambda: database.sql(pending))
        assert decide(database, token(database, "acme"), request, "approve", shown)["verdict"] == "not_eligible"
        assert database.value("SELECT requested_by FROM backbeat.approval_requests WHERE id = %s", [request]) == "acme"
        decide(database, token(database, "alice"), request, "reject", shown)
        done = await finished(database, run)
    assert done["result"] == {"post": "approved", "outcome": {"id": 1}, "gate": "rejected"}
    assert far.writes == 1
    assert steps(database, run) == [("post", "approval", "done"), ("gate", "approval", "done")]
    traces = "SELECT DISTINCT origin_id, split_part(traceparent, '-', 2) FROM backbeat.orchestrated_workflows"
    assert len(database.sql(traces)) == 1


@pytest.mark.skipif(os.environ.get("BACKBEAT_TEST_UNCACHED") == "1", reason="no run stays in memory")
async def test_runs_that_are_collected_with_their_worker_say_nothing(
    database: Database, temporal_server: Server
) -> None:
    """A worker that ends evicts no run that waits: Python closes it, and what it raises then is an error."""
    client = await connected(temporal_server)
    waiting = "SELECT count(*) FROM backbeat.orchestrated_workflows WHERE id = ANY(%s) AND status = 'waiting'"
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        runs = [begin(database, name) for name in ("ask_first", "ask_abroad")]
        await eventually(lambda: database.value(waiting, [runs]) == len(runs))
        assert alive() == {"AskFirst", "AskAbroad"}
    gc.collect()
    assert alive() == set()


def alive() -> set[str]:
    """Orchestrations in the memory of this process, of this test and others; their classes are the sandbox's."""
    return {type(one).__name__ for one in gc.get_objects()} & {"AskFirst", "AskAbroad"}


async def test_a_refusal_is_the_authors_to_catch(database: Database, temporal_server: Server) -> None:
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "catch")
        done = await finished(database, run, within=60)
    assert done["result"] == {"refused": "EffectRefused", "both": 3}
    assert ("strict", "effect", "failed") in steps(database, run)


async def test_a_saga_is_undone_in_reverse_order(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await connected(temporal_server)
    async with environment(database, far) as env, working(await loaded(env), client):
        run = begin(database, "undo")
        done = await finished(database, run, within=60)
        history = await client.get_workflow_handle(done["temporal_id"]).fetch_history()
    # Of the step that failed it cannot say that it wrote.
    assert sum(b'"wrote":true' in event.SerializeToString() for event in history.events) == 2
    assert (done["status"], done["error"]) == ("failed", "never")
    written = [request for requests in far.posted.values() for request in requests]
    assert written == [{"charge": 1}, {"ship": 1}, {"recall": 1}, {"refund": 1}]
    assert steps(database, run)[3:] == [
        ("undo:tell", "undo", "done"),
        ("undo:ship", "undo", "done"),
        ("undo:charge", "undo", "done"),
    ]


async def test_what_the_run_saw_done_is_undone_though_the_ledger_lost_it(database: Database) -> None:
    far, run = FarSide(), begin(database, "undo")
    async with environment(database, far) as env:
        write = Calls(env).write
        unsure = Write(str(run), "undo:charge", "note", {"refund": 1}, undoes="charge")
        assert await ActivityEnvironment().run(write, unsure) == Written("absent")
        assert far.writes == 0
        done = await ActivityEnvironment().run(write, replace(unsure, wrote=True))
    assert (done.status, far.writes) == ("done", 1)


async def test_a_key_starts_once(database: Database) -> None:
    first = begin(database, "ship", key="order 7")
    assert begin(database, "ship", key="order 7") == first
    assert begin(database, "ship", key="order 8") != first


async def test_input_that_does_not_fit_fails_the_row_and_starts_nothing(
    database: Database, temporal_server: Server
) -> None:
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "ship", customer="")
        done = await finished(database, run)
    assert done["status"] == "failed"
    assert "ship@1: customer: String should have at least 1 character" in done["error"]
    assert done["run_id"] is None


async def test_a_cancelled_run_finishes_the_write_it_began_and_undoes_it(
    database: Database, temporal_server: Server
) -> None:
    far = FarSide()
    far.gate.clear()
    client = await connected(temporal_server)
    async with environment(database, far) as env, working(await loaded(env), client):
        run = begin(database, "undo")
        await far.asked.wait()
        database.sql("SELECT backbeat.cancel_workflow(%s, 'by hand')", [run])
        handle = client.get_workflow_handle(row(database, run)["temporal_id"])
        await eventually_cancelled(handle)
        far.gate.set()
        done = await finished(database, run, within=60)
    assert done["status"] == "cancelled"
    assert [one for requests in far.posted.values() for one in requests] == [{"charge": 1}, {"refund": 1}]
    assert steps(database, run) == [("charge", "effect", "cancelled"), ("undo:charge", "undo", "done")]


async def eventually_cancelled(handle: WorkflowHandle[Any, Any]) -> None:
    """Until Temporal knows that it was asked to end."""
    while True:
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.HasField("workflow_execution_cancel_requested_event_attributes"):
                return


async def test_a_region_that_is_cut_off_is_waited_for(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await connected(temporal_server)
    async with environment(database, far) as env:
        ours = await loaded(env)
        async with working(ours, client) as options:
            kept, freed = begin(database, "twice"), begin(database, "twice", weight=11)
            async with working(ours, client, replace(options, region="eu")):
                await eventually(lambda: far.writes == 2)
            async with working(ours, client, replace(options, region="us")):
                await eventually(lambda: far.writes == 4)
                async with working(ours, client, replace(options, region="eu")):
                    assert (await finished(database, kept, within=60))["result"] == "confirmed"
                    assert (await finished(database, freed, within=60))["status"] == "failed"
    written = [next(iter(one.items())) for requests in far.posted.values() for one in requests]
    assert written[:4] == [("reserve", "eu")] * 2 + [("reserve", "us")] * 2
    assert [one for one in written if one[0] == "free"] == [("free", "us"), ("free", "eu")]
    regions = (
        "SELECT DISTINCT detail ->> 'region' FROM backbeat.orchestrated_workflows_steps WHERE name LIKE 'reserve %'"
    )
    assert sorted(database.sql(regions)) == [("eu",), ("us",)]


async def test_a_task_escalates_into_an_orchestration(database: Database, temporal_server: Server) -> None:
    """Of the newest version that a worker has; origin and trace go along."""
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        begin(database, "ship")
        await tasks.submit(env.db, [{"customer": "acme"}], workflow="parcel")
        (claimed,) = await queue.claim(env.db, "ticks", ["parcel@1"], 1, 60.0)
        await queue.settle(env.db, [(claimed, Escalate("ship", {"customer": "acme", "weight": 11}))])
        call = "SELECT workflow_id FROM backbeat.finished_tasks WHERE id = %s"
        run = database.value(call, [claimed.id])
        assert (await finished(database, run))["status"] == "completed"
    same = "SELECT origin_id, split_part(traceparent, '-', 2) FROM backbeat."
    (row_of_run,) = database.sql(f"{same}orchestrated_workflows WHERE id = %s", [run])
    (row_of_task,) = database.sql(f"{same}finished_tasks WHERE id = %s", [claimed.id])
    assert row_of_run == row_of_task


def test_two_versions_need_two_types() -> None:
    made = load_definitions([MODULE]).newest_orchestration("ship")
    with pytest.raises(DefinitionError, match="both are the type 'ship'"):
        load([made, replace(made, version=2, workflow=Other)])
    with pytest.raises(DefinitionError, match="is a workflow of Backbeat's"):
        load([replace(made, name="approve_effect")])
    with pytest.raises(DefinitionError, match="is no workflow of Temporal's"):
        load([replace(made, workflow=Database)])
    with pytest.raises(DefinitionError, match=r"tests\.support\.journeys has no 'Nothing'"):
        load([replace(made, workflow="tests.support.journeys:Nothing")])


@workflow.defn(name="ship")
class Other:
    """Another class under the same name."""

    @workflow.run
    async def run(self, order: Order) -> None: ...
