"""Row to workflow and back on a real Temporal server, with everything that can go wrong between the two."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from shared.db import outbox, queue
from shared.db.outbox import Message
from shared.db.pool import Database as Pool
from shared.db.pool import open_pool
from shared.errors import UnavailableError
from temporal_worker import delivery
from temporal_worker.delivery import deliver
from temporal_worker.dispatcher import Dispatcher
from temporal_worker.loops import forever
from temporal_worker.reconciler import Reconciler
from temporal_worker.relay import Relay
from tests.support.approvals import audit, decide, start, state, token
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, eventually, finished, row, working

QUEUE = "nobody-works-here"


@asynccontextmanager
async def pool(database: Database, size: int = 5) -> AsyncIterator[Pool]:
    async with open_pool(database.worker_url, size) as opened:
        yield Pool(opened, 0.0)


async def runs(client: Client, workflow_id: str) -> int:
    """How many executions Temporal has of an id, closed ones included; it lists them a moment after they start."""
    query = f'WorkflowId = "{workflow_id}"'
    found: int = await eventually_count(client, query)
    return found


async def eventually_count(client: Client, query: str) -> int:
    for _ in range(500):
        if count := (await client.count_workflows(query)).count:
            return count
        await asyncio.sleep(0.02)
    raise AssertionError(f"nothing listed for {query}")


def poked(history: Any) -> int:
    return sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events)


async def test_fifty_racing_dispatchers_start_it_once(database: Database, temporal_server: Server) -> None:
    workflow = start(database)
    client = await Client.connect(temporal_server.address)
    async with pool(database, 10) as db:
        await asyncio.gather(*(Dispatcher(db, client, QUEUE).beat() for _ in range(50)))
    done = row(database, workflow)
    assert done["status"] == "running"
    assert await runs(client, done["temporal_id"]) == 1
    assert (await client.get_workflow_handle(done["temporal_id"]).describe()).run_id == done["run_id"]
    assert database.sql("SELECT attempts, delivered_at IS NOT NULL FROM backbeat.temporal_outbox") == [(1, True)]


async def test_fifty_that_all_hold_the_lease_start_it_once(database: Database, temporal_server: Server) -> None:
    """What is left when leases fail: Temporal's own rule for ids."""
    start(database)
    client = await Client.connect(temporal_server.address)
    async with pool(database) as db:
        dispatcher = Dispatcher(db, client, QUEUE)
        (message,) = await outbox.lease(db, ["start"], 10, 15.0)
        started = await asyncio.gather(*(dispatcher.start(message) for _ in range(50)))
        assert len(set(started)) == 1
        await client.get_workflow_handle(message.temporal_id).terminate()
        assert await dispatcher.start(message) == started[0]
    assert await runs(client, message.temporal_id) == 1


async def test_a_row_past_starting_is_not_started_again(database: Database, temporal_server: Server) -> None:
    """Temporal forgets an id after its retention; the row does not."""
    workflow = start(database)
    client = await Client.connect(temporal_server.address)
    async with pool(database) as db:
        database.sql("UPDATE backbeat.orchestrated_workflows SET status = 'running', run_id = 'gone'")
        await Dispatcher(db, client, QUEUE).beat()
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle(row(database, workflow)["temporal_id"]).describe()
    assert database.value("SELECT delivered_at IS NOT NULL FROM backbeat.temporal_outbox")


async def test_a_workflow_nobody_knows_fails_after_some_patience(database: Database, temporal_server: Server) -> None:
    workflow, newer = start(database, "aprove_effect"), start(database, version=2)
    client = await Client.connect(temporal_server.address)
    async with pool(database) as db:
        dispatcher = Dispatcher(db, client, QUEUE)
        await dispatcher.beat()
        database.advance(timedelta(minutes=6))
        knows = [{"name": "approve_effect", "version": 2, "tier": "-", "max_attempts": 1}]
        await queue.register(db, "a newer worker", "temporal", knows)
        await dispatcher.beat()
        assert row(database, workflow)["status"] == "starting", "who knows it may be about to come back too"
        database.sql("UPDATE backbeat.presence SET since = since - interval '5 minutes'")
        await dispatcher.beat()
    failed = row(database, workflow)
    assert failed["status"] == "failed"
    assert failed["error"] == "no worker runs aprove_effect@1; this one runs approve_effect@1"
    assert audit(database, workflow) == [("(worker)", "workflow.refused", {"error": failed["error"]})]
    waits = "SELECT attempts, last_error FROM backbeat.temporal_outbox WHERE stream = %s"
    assert (row(database, newer)["status"], database.sql(waits, [newer])) == ("starting", [(0, None)])


async def test_an_ambiguous_time_out_is_sent_again(
    database: Database, temporal_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, pool(database) as db:
        relay = Relay(db, client)
        async with working(env, client) as options:
            workflow = start(database)
            request, shown = await asked(database, workflow)
        assert options.task_queue
        decide(database, token(database, "alice"), request, "approve", shown)

        sent: list[asyncio.Task[None]] = []

        async def answer_lost(message: Message) -> None:
            sent.append(asyncio.create_task(relay.send(message)))  # it arrives, however long it takes
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(delivery, "RPC_TIMEOUT", 0.3)
            messages = await outbox.lease(db, ["poke"], 10, 15.0)
            with pytest.raises(UnavailableError, match="Temporal does not answer: TimeoutError"):
                await deliver(db, messages, answer_lost)
        await asyncio.gather(*sent)
        open_row = "SELECT last_error, delivered_at FROM backbeat.temporal_outbox WHERE kind = 'poke'"
        assert database.sql(open_row) == [("TimeoutError", None)]
        database.advance(timedelta(seconds=1))
        await relay.beat()
        assert database.sql(open_row)[0][1] is not None
        async with working(env, client, options):
            done = await finished(database, workflow)
    history = await client.get_workflow_handle(done["temporal_id"]).fetch_history()
    assert poked(history) == 2
    assert (done["status"], far.writes) == ("completed", 1)


async def test_a_poke_for_a_workflow_that_ended_is_moot(database: Database, temporal_server: Server) -> None:
    workflow = start(database)
    client = await Client.connect(temporal_server.address)
    async with pool(database) as db:
        await Dispatcher(db, client, QUEUE).beat()
        await client.get_workflow_handle(row(database, workflow)["temporal_id"]).terminate()
        database.sql("SELECT backbeat.push_outbox(%s, 'poke')", [workflow])
        await Relay(db, client).beat()
    query = "SELECT delivered_at, last_error FROM backbeat.temporal_outbox WHERE seq = 2"
    ((delivered, said),) = database.sql(query)
    assert delivered is not None
    assert "already completed" in said


async def test_a_missing_namespace_loses_no_poke(database: Database, temporal_server: Server) -> None:
    workflow = start(database)
    client = await Client.connect(temporal_server.address)
    lost = await Client.connect(temporal_server.address, namespace="not-made-yet")
    async with pool(database) as db:
        await Dispatcher(db, client, QUEUE).beat()
        database.sql("SELECT backbeat.push_outbox(%s, 'poke')", [workflow])
        with pytest.raises(UnavailableError, match="not-made-yet"):
            await Relay(db, lost).beat()
        database.sql("UPDATE backbeat.orchestrated_workflows SET checked_at = now() - interval '1 hour'")
        with pytest.raises(UnavailableError, match="not-made-yet"):
            await Reconciler(db, lost, 0.0).beat()
    assert database.value("SELECT count(*) FROM backbeat.temporal_outbox WHERE delivered_at IS NULL") == 1
    assert row(database, workflow)["generation"] == 1


async def test_the_outbox_can_cancel(database: Database, temporal_server: Server) -> None:
    client = await Client.connect(temporal_server.address)
    async with environment(database, FarSide()) as env, working(env, client):
        workflow = start(database)
        request, _ = await asked(database, workflow)
        database.sql("SELECT backbeat.push_outbox(%s, 'cancel')", [workflow])
        done = await finished(database, workflow)
    assert done["status"] == "cancelled"
    assert state(database, request) == "cancelled"


def overlook(database: Database) -> None:
    """Make the reconciler's time come."""
    database.advance(timedelta(minutes=1))


async def test_a_workflow_temporal_lost_starts_again_where_postgres_stands(
    database: Database, temporal_server: Server, tmp_path: Path
) -> None:
    far = FarSide()
    empty = Server(tmp_path)
    empty.start()
    before, after = await Client.connect(temporal_server.address), await Client.connect(empty.address)
    try:
        async with environment(database, far) as env, pool(database) as db:
            async with working(env, before):
                workflow = start(database)
                request, shown = await asked(database, workflow)
            decide(database, token(database, "alice"), request, "approve", shown)
            overlook(database)
            await Reconciler(db, after).beat()
            again = row(database, workflow)
            assert (again["status"], again["generation"]) == ("starting", 2)
            assert again["temporal_id"] == f"approve_effect/{workflow}~r2"
            async with working(env, after):
                done = await finished(database, workflow)
    finally:
        empty.kill()
    assert done["result"] == {"decision": "approved", "effect": {"id": 1}}
    mark = "SELECT mark FROM backbeat.side_effects WHERE key = %s"
    assert far.posted.keys() == {database.value(mark, [f"{workflow}:effect"])}
    assert database.value("SELECT count(*) FROM backbeat.approval_requests") == 1


@pytest.mark.parametrize(
    ("end", "status"), [("terminate", "failed"), ("cancel", "cancelled"), ("complete", "completed")]
)
async def test_an_end_nobody_heard_of_is_copied(
    database: Database, temporal_server: Server, end: str, status: str
) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, pool(database) as db:
        async with working(env, client):
            workflow = start(database)
            request, shown = await asked(database, workflow)
            handle = client.get_workflow_handle(row(database, workflow)["temporal_id"])
            if end == "terminate":
                await handle.terminate(reason="by hand")
            else:
                if end == "complete":
                    decide(database, token(database, "alice"), request, "reject", shown)
                else:
                    await handle.cancel()
                await finished(database, workflow)
                # The row is told before the workflow itself ends.
                with contextlib.suppress(WorkflowFailureError):
                    await handle.result()
                # As a restore of Postgres to an older point would leave it.
                older = "SET status = 'running', finished_at = NULL, result = NULL"
                database.sql(f"UPDATE backbeat.orchestrated_workflows {older}")
        overlook(database)
        await Reconciler(db, client).beat()
    found = row(database, workflow)
    assert found["status"] == status
    assert found["error"] == ("TerminatedError: by hand" if end == "terminate" else None)
    if end == "terminate":
        assert state(database, request) == "cancelled"
    # Only what completes has told its row before: that it does not know is a restore.
    noted = "SELECT count(*) FROM backbeat.audit_log WHERE action = 'postgres.restored'"
    assert database.value(noted) == (end == "complete")


async def test_a_start_that_was_lost_with_its_message_is_sent_again(
    database: Database, temporal_server: Server
) -> None:
    workflow = start(database)
    client = await Client.connect(temporal_server.address)
    async with pool(database) as db:
        database.sql("UPDATE backbeat.temporal_outbox SET delivered_at = now()")
        overlook(database)
        await Reconciler(db, client).beat()
        await Dispatcher(db, client, QUEUE).beat()
    found = row(database, workflow)
    assert (found["status"], found["generation"]) == ("running", 1)


async def test_a_server_killed_in_mid_wait_loses_nothing(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "temporal-worker")
    home = tmp_path / "a temporal server"
    home.mkdir()
    server = Server(home)
    server.start()
    far = FarSide()
    client = await Client.connect(server.address)
    try:
        async with environment(database, far) as env, working(env, client):
            workflow = start(database)
            request, shown = await asked(database, workflow)
            server.kill()
            decide(database, token(database, "alice"), request, "approve", shown)
            late = start(database)
            away = [f"{name}: Temporal does not answer" for name in ("relay", "dispatcher")]
            await eventually(lambda: all(text in caplog.text for text in away))
            server.start()
            assert (await finished(database, workflow))["status"] == "completed"
            await asked(database, late)
    finally:
        server.kill()
    assert far.writes == 1
    lines = [record.getMessage() for record in caplog.records if record.name == "temporal-worker"]
    for name in ("relay", "dispatcher"):
        assert 1 <= sum(line.startswith(f"{name}: Temporal does not answer") for line in lines) <= 3
        assert any(line.startswith(f"{name}: works again") for line in lines)


async def test_trouble_is_told_once_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "temporal-worker")
    beats = 0
    enough = asyncio.Event()

    async def beat() -> bool:
        nonlocal beats
        beats += 1
        if beats in (2, 3, 4):
            raise UnavailableError("Postgres does not answer", fix="Look")
        if beats == 6:
            enough.set()
        return False

    loop = asyncio.create_task(forever("errand", beat, 0.001, enough))
    await asyncio.wait_for(enough.wait(), 10)
    await loop
    assert [message for message in caplog.messages if message.startswith("errand")] == [
        "errand: Postgres does not answer. Look (trying again)",
        "errand: works again after 3 attempts",
    ]
