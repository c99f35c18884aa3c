"""Postgres comes back as it was some time ago, while Temporal remembers more."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from temporalio.client import Client, WorkflowFailureError

from shared.db import queue
from shared.definitions import load_definitions
from shared.execution.attempt import attempt
from temporal_worker import constants
from tests.integration.test_orchestrated_calls import Shelves, asking
from tests.integration.test_orchestrations import connected
from tests.support.approvals import decide, start, token, worker_rows
from tests.support.command import command
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, eventually, finished, forget, row, working


@pytest.fixture
def own_temporal(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


async def test_what_temporal_did_since_is_not_done_again(
    private_database: Database, own_temporal: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of before the backup: ended since, decided since, still waiting. And one that Postgres never heard of.

    And one that was approved before it, whose effect happened since, and that Temporal has forgotten too.
    """
    monkeypatch.setattr(constants, "RECONCILE_EVERY", 0.5)
    database, far = private_database, FarSide()
    client = await Client.connect(own_temporal.address)
    alice = token(database, "alice")
    data, backup = database.server.directory / "data", tmp_path / "backup"

    async with environment(database, far) as env, working(env, client) as options:
        runs: list[UUID] = [start(database) for _ in range(3)]
        questions = [await asked(database, run) for run in runs]
        slow = start(database, policy={"approvers": ["alice"], "effect_delay": 600})
        decide(database, alice, *_vote(await asked(database, slow)))

    _copy(database, data, backup)
    async with environment(database, far) as env, working(env, client, options):
        database.advance(timedelta(minutes=10))
        await client.get_workflow_handle(row(database, slow)["temporal_id"]).signal("poke")
        assert (await finished(database, slow))["result"] == {"decision": "approved", "effect": {"id": 1}}
        decide(database, alice, *_vote(questions[0]))
        assert (await finished(database, runs[0]))["status"] == "completed"
        unheard = start(database)
        await asked(database, unheard)
        stranger = client.get_workflow_handle(row(database, unheard)["temporal_id"])
    decide(database, alice, *_vote(questions[1]))
    assert far.writes == 2
    await forget(client, row(database, slow)["temporal_id"])

    _copy(database, backup, data)
    assert row(database, runs[0])["status"] == "waiting", "the past"

    database.advance(timedelta(minutes=11))
    assert database.sql("SELECT * FROM backbeat.side_effects") == []
    noted = ("effect", "restored", "--reason", "a disk died")
    command("backbeat", *noted, home=tmp_path, environ=database.environ).fine()
    async with environment(database, far) as env, working(env, client, options):
        healed = await finished(database, runs[0], within=60)
        assert healed["result"] == {"decision": "approved", "effect": {"id": 2}}
        # Approved it still is, and would be done again: it was looked for, and found.
        again = await finished(database, slow, within=60)
        assert (again["generation"], again["result"]) == (2, {"decision": "approved", "effect": {"id": 0}})
        # A decision that the backup does not have was never made; people are asked still.
        for run, question in zip(runs[1:], questions[1:], strict=True):
            assert row(database, run)["status"] == "waiting"
            decide(database, alice, *_vote(question))
            assert (await finished(database, run))["status"] == "completed"
        await stranger.signal("poke")
        await eventually(lambda: far.writes == 4)
        with pytest.raises(WorkflowFailureError) as lost:
            await stranger.result()
        assert "restored to an older point" in str(lost.value.cause.__cause__)
    assert far.writes == 4
    ledger = "SELECT fires, resolved_by FROM backbeat.side_effects WHERE owner = %s"
    assert database.sql(ledger, [slow]) == [(0, "read-back")]
    assert {len(requests) for requests in far.posted.values()} == {1}


async def test_a_fan_out_that_postgres_forgot_is_made_again(
    private_database: Database, own_temporal: Server, tmp_path: Path
) -> None:
    """A run of before the backup that has gone on: a decision, a call, a write and tasks that are on no record."""
    database, far, shelves = private_database, FarSide(), Shelves()
    client = await connected(own_temporal)
    data, backup = database.server.directory / "data", tmp_path / "backup"
    asked_now = "SELECT id, hash FROM backbeat.approval_requests WHERE state = 'pending'"
    waits = "SELECT waiting_for FROM backbeat.orchestrated_workflows WHERE id = %s"
    async with environment(database, far) as bare:
        env = await asking(bare, shelves)
        registry = load_definitions(["tests.support.errands"])
        env = replace(env, registry=replace(registry, effects=bare.registry.effects))
        env._providers["anthropic"] = shelves
        await queue.register(env.db, "ticks", "cron", registry.rows())
        async with working(env, client) as options:
            run = _begin(database, "gather", 3)
            ((request, shown),) = await eventually(lambda: database.sql(asked_now))
            await eventually(lambda: row(database, run)["status"] == "waiting")
        _copy(database, data, backup)
        async with working(env, client, options):
            decide(database, token(database, "alice"), request, "approve", shown)
            await eventually(lambda: "tasks of 'leaves'" in (database.value(waits, [run]) or ""))
        assert (far.writes, shelves.sent) == (1, 1)
        _copy(database, backup, data)
        assert database.value("SELECT count(*) FROM backbeat.joins") == 0
        noted = ("effect", "restored", "--reason", "a disk died")
        command("backbeat", *noted, home=tmp_path, environ=database.environ).fine()
        async with working(env, client, options):
            await client.get_workflow_handle(row(database, run)["temporal_id"]).signal("poke")
            await eventually(lambda: database.value("SELECT count(*) = 3 FROM backbeat.simple_tasks"))
            for task in await queue.claim(env.db, "ticks", ["leaf@1"], 10, 60.0):
                outcome = await attempt(replace(env, runtime="cron"), task)
                assert outcome
                assert not await queue.settle(env.db, [(task, outcome)])
            done = await finished(database, run, within=60)
    assert done["result"] == {"children": ["0", "1", "2"]}
    assert (far.writes, shelves.sent) == (2, 1)
    assert {len(requests) for requests in far.posted.values()} == {1}


def _begin(database: Database, name: str, weight: int) -> UUID:
    row = {"name": name, "version": 1, "tier": "-", "max_attempts": 1}
    worker_rows(database, "SELECT backbeat.register_definitions('temporal', %s::jsonb)", [json.dumps([row])])
    call = "SELECT id FROM backbeat.start_orchestration(%s, 1, 'default', %s::jsonb, NULL, NULL)"
    (found,) = worker_rows(database, call, [name, json.dumps({"customer": "acme", "weight": weight})])
    assert isinstance(found["id"], UUID)
    return found["id"]


def _copy(database: Database, source: Path, target: Path) -> None:
    database.server.stop()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    database.server.start()


def _vote(question: tuple[UUID, str]) -> tuple[UUID, str, str]:
    request, shown = question
    return request, "approve", shown
