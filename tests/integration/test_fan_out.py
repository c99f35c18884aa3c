"""The bridge from a workflow to tasks: a thousand children, a handful of pokes, results in pages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from temporalio.client import Client

from shared.db import queue
from shared.db.pool import Database as Pool
from shared.db.queue import Task
from shared.domain.outcome import Dead, Outcome, Succeed
from tests.integration.test_orchestrations import begin, connected, loaded, steps
from tests.support.approvals import worker_rows
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, environment, eventually, finished, row, working


@contextlib.asynccontextmanager
async def ticking(db: Pool, ends: Callable[[Task], Outcome]) -> AsyncIterator[None]:
    """Somebody who claims every task and ends it as told."""
    over = asyncio.Event()

    async def drain() -> None:
        while not over.is_set():
            await queue.sweep(db)
            claimed = await queue.claim(db, "ticks", ["parcel@1"], 100, 60.0)
            if claimed:
                await queue.settle(db, [(task, ends(task)) for task in claimed])
            else:
                await asyncio.sleep(0.05)

    draining = asyncio.create_task(drain())
    try:
        yield
    finally:
        over.set()
        await draining


def well(task: Task) -> Outcome:
    return Succeed(task.payload)


def third_dies(task: Task) -> Outcome:
    return Dead("bad", "no") if task.payload["weight"] == 2 else Succeed(task.payload)


async def pokes(client: Client, name: str) -> int:
    history = await client.get_workflow_handle(name).fetch_history()
    return sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events)


async def test_a_thousand_children_cost_a_handful_of_pokes(database: Database, temporal_server: Server) -> None:
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "spread", weight=1000)
        async with ticking(env.db, well):
            done = await finished(database, run, within=90)
    assert done["result"] == {"total": 1000, "failed": 0}
    assert await pokes(client, done["temporal_id"]) <= 3
    assert steps(database, run) == [("parcels", "fan_out", "done")]
    made = "SELECT count(*), count(DISTINCT parent_id), count(DISTINCT origin_id) FROM backbeat.finished_tasks"
    assert database.sql(made) == [(1000, 1, 1)]
    same = (
        "SELECT count(*) FROM backbeat.finished_tasks t JOIN backbeat.orchestrated_workflows w"
        " ON w.origin_id = t.origin_id AND split_part(w.traceparent, '-', 2) = split_part(t.traceparent, '-', 2)"
    )
    assert database.value(same) == 1000


@pytest.mark.parametrize(("tolerate", "status"), [(0, "failed"), (1, "completed"), (None, "completed")])
async def test_a_child_that_dies_counts_against_what_is_tolerated(
    database: Database, temporal_server: Server, tolerate: int | None, status: str
) -> None:
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "spread", weight=5, tolerate=tolerate)
        async with ticking(env.db, third_dies):
            done = await finished(database, run)
    assert done["status"] == status
    if status == "failed":
        assert done["error"] == "parcels: 1 of 5 children failed, 0 are tolerated"
    else:
        assert done["result"] == {"total": 4, "failed": 1}


async def test_a_failed_join_and_a_cancelled_workflow_take_their_children_with_them(
    database: Database, temporal_server: Server
) -> None:
    client = await connected(temporal_server)
    live = "SELECT count(*) FROM backbeat.simple_tasks"
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        failing, cancelled = begin(database, "spread", weight=20), begin(database, "spread", weight=20)
        await eventually(lambda: database.value(live) == 40)
        await eventually(lambda: row(database, cancelled)["status"] == "waiting")
        one = (
            "SELECT t.id FROM backbeat.simple_tasks t JOIN backbeat.joins j ON j.id = parent_id WHERE workflow_id = %s"
        )
        database.sql("SELECT backbeat.cancel_task(%s, 'by hand')", [database.sql(one, [failing])[0][0]])
        assert (await finished(database, failing))["status"] == "failed"
        database.sql("SELECT backbeat.cancel_workflow(%s, 'by hand')", [cancelled])
        assert (await finished(database, cancelled))["status"] == "cancelled"
        await eventually(lambda: database.value(live) == 0)
    assert database.sql("SELECT DISTINCT children_left FROM backbeat.joins") == [(0,)]


async def test_a_terminated_workflow_leaves_no_children_behind(database: Database, temporal_server: Server) -> None:
    """Nobody told of the end: whoever reconciles finds both."""
    from temporal_worker.reconciler import Reconciler

    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env:
        async with working(await loaded(env), client):
            run = begin(database, "spread", weight=20)
            await eventually(lambda: row(database, run)["status"] == "waiting")
        await client.get_workflow_handle(row(database, run)["temporal_id"]).terminate()
        database.sql("SELECT backbeat.recheck_workflow(%s)", [run])
        await Reconciler(env.db, client).beat()
    assert row(database, run)["status"] == "failed"
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 0


async def test_a_chunk_told_twice_is_made_once(database: Database, temporal_server: Server) -> None:
    async with environment(database, FarSide()) as env:
        await loaded(env)
        run = begin(database, "spread")
        call = (
            "SELECT cardinality(children) AS n, children_left AS left, sealed FROM backbeat.add_children("
            "%s, 'parcels', %s, 'parcel', 1, ARRAY['{}', '{}']::jsonb[], 0, %s)"
        )
        for start, seal, total in ((0, False, 2), (0, False, 2), (2, True, 4), (2, True, 4), (4, True, 4)):
            (found,) = worker_rows(database, call, [run, start, seal])
            assert (found["n"], found["left"]) == (total, total)
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 4


async def test_a_requeued_child_is_nobodys(database: Database, temporal_server: Server) -> None:
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "spread", weight=5, tolerate=5)
        async with ticking(env.db, third_dies):
            await finished(database, run)
        letters = "ARRAY(SELECT id FROM backbeat.dead_letters)"
        task = database.value(f"SELECT task_id FROM backbeat.requeue_dead({letters}, false, NULL, 0, 'me', 'why')")
        assert database.value("SELECT parent_id IS NULL FROM backbeat.simple_tasks WHERE id = %s", [task])
        async with ticking(env.db, well):
            await eventually(lambda: not database.value("SELECT count(*) FROM backbeat.simple_tasks"))
    assert database.sql("SELECT children_left, failed FROM backbeat.joins") == [(0, 1)]


async def test_an_empty_fan_out_waits_for_nobody(database: Database, temporal_server: Server) -> None:
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "spread", weight=0)
        done: Any = await finished(database, run)
    assert done["result"] == {"total": 0, "failed": 0}
