"""Orchestrations in plain Temporal Python on a real server: started, stepped, shown; effects once, people asked."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from shared.db.queue import register
from shared.definitions import Effect, load_definitions
from shared.execution.effects import EffectRefusedError
from shared.execution.environment import Environment
from tests.support.approvals import decide, token, worker_rows
from tests.support.databases import Database
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
        decide(database, token(database, "alice"), request, "reject", shown)
        done = await finished(database, run)
    assert done["result"] == {"post": "approved", "outcome": {"id": 1}, "gate": "rejected"}
    assert far.writes == 1
    assert steps(database, run) == [("post", "approval", "done"), ("gate", "approval", "done")]
    traces = "SELECT DISTINCT origin_id, split_part(traceparent, '-', 2) FROM backbeat.orchestrated_workflows"
    assert len(database.sql(traces)) == 1


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
    assert (done["status"], done["error"]) == ("failed", "never")
    written = [request for requests in far.posted.values() for request in requests]
    assert written == [{"charge": 1}, {"ship": 1}, {"recall": 1}, {"refund": 1}]
    assert steps(database, run)[3:] == [
        ("undo:tell", "undo", "done"),
        ("undo:ship", "undo", "done"),
        ("undo:charge", "undo", "done"),
    ]


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
