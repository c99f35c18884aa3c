"""Recorded runs of the worked orchestrations, replayed for ever: helpers that change their commands strand what waits.

`BACKBEAT_RECORD=1` makes tests/integration/test_fulfilment.py, and the last test here, record them; recorded files are
never changed.
"""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from backbeat.orchestrate.ends import Ends
from examples.fulfilment.models import Order
from examples.fulfilment.workflow import Fulfil
from examples.regions.models import Shipment
from examples.regions.workflow import ShipFromRegions
from shared.definitions import load_definitions
from shared.execution.environment import Environment
from temporal_worker.orchestrations import runner
from tests.replay.test_approval_histories import anonymous, crossed, load
from tests.support.approvals import worker_rows
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, environment, eventually, finished, row, working

HISTORIES = Path(__file__).with_name("orchestrations")
CORPUS = sorted(HISTORIES.glob("*.json"))
_ALWAYS = {"check_address", "model_call", "subworkflow", "project_run", "signal poke", "write"}
_TO_THE_SAGA = {*_ALWAYS, "fan_out", "join", "quote", "tax"}

# What each kind of run must have crossed: a history that ended early would let any change pass.
WAITS = {
    "shipped": {*_TO_THE_SAGA, "TIMER_FIRED", "WORKFLOW_EXECUTION_COMPLETED"},
    "refunded": {*_TO_THE_SAGA, "ACTIVITY_TASK_FAILED", "WORKFLOW_EXECUTION_COMPLETED"},
    "declined": {*_ALWAYS, "WORKFLOW_EXECUTION_COMPLETED"},
    "cancelled": {*_TO_THE_SAGA, "WORKFLOW_EXECUTION_CANCEL_REQUESTED", "WORKFLOW_EXECUTION_CANCELED"},
    # Two regions; of one write nobody knows, until a release looks for it.
    "confirmed": {"write", "write in eu", "write in us", "project_run", "signal poke", "WORKFLOW_EXECUTION_COMPLETED"},
}


def replayer(*workflows: type) -> Replayer:
    """As the worker runs them."""
    return Replayer(
        workflows=workflows or [Fulfil, ShipFromRegions],
        interceptors=[Ends()],
        data_converter=pydantic_data_converter,
        workflow_runner=runner(),
    )


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
async def test_a_recorded_run_replays(path: Path) -> None:
    await replayer().replay_workflow(load(path))


def test_the_corpus_crosses_every_wait() -> None:
    assert {path.stem.split("-")[-1] for path in CORPUS} == set(WAITS)
    for path in CORPUS:
        missing = WAITS[path.stem.split("-")[-1]] - crossed(load(path))
        assert not missing, f"{path.name} never crossed {missing}"


@workflow.defn(name="fulfil")
class WithOneMoreWait(Fulfil):
    """What a careless change looks like."""

    @workflow.run
    async def run(self, order: Order) -> Any:
        await asyncio.sleep(1)
        return await super().run(order)


@workflow.defn(name="ship_from_regions")
class WithAnotherWait(ShipFromRegions):
    """The same of the other."""

    @workflow.run
    async def run(self, shipment: Shipment) -> str:
        await asyncio.sleep(1)
        return await super().run(shipment)


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
async def test_a_careless_change_is_seen(path: Path) -> None:
    with pytest.raises(workflow.NondeterminismError):
        await replayer(WithOneMoreWait, WithAnotherWait).replay_workflow(load(path))


async def test_a_run_of_regions_replays(database: Database, temporal_server: Server) -> None:
    far = FarSide(troubles=["lose answer"], can_look=False)
    client = await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)
    registry = load_definitions(["examples.regions.definitions"])

    def able(env: Environment) -> Environment:
        kinds = {kind: replace(far.effect, kind=kind) for kind in registry.effects}
        return replace(env, registry=replace(registry, effects=kinds))

    row_of = registry.newest_orchestration("ship_from_regions").row
    worker_rows(database, "SELECT backbeat.register_definitions('temporal', %s::jsonb)", [json.dumps([row_of])])
    given = {"order": "A7", "units": 3, "regions": ["eu", "us"]}
    call = "SELECT id FROM backbeat.start_orchestration('ship_from_regions', 1, 'default', %s::jsonb, NULL, NULL)"
    (begun,) = worker_rows(database, call, [json.dumps(given)])
    async with environment(database, far) as env, working(able(env), client) as options:
        async with working(able(env), client, replace(options, region="eu")):
            await eventually(lambda: "is unknown" in (row(database, begun["id"])["waiting_for"] or ""))
        far.can_look = True
        async with (
            working(able(env), client, replace(options, region="eu")),
            working(able(env), client, replace(options, region="us")),
        ):
            handle = client.get_workflow_handle(row(database, begun["id"])["temporal_id"])
            await handle.signal("poke")
            assert (await finished(database, begun["id"], within=60))["result"] == "confirmed"
            await handle.result()
            history = await handle.fetch_history()
    assert far.writes == 4
    assert database.value("SELECT count(*) FROM backbeat.side_effects WHERE resolved_by = 'read-back'") == 1
    assert WAITS["confirmed"] <= crossed(history)
    await replayer().replay_workflow(history)
    if os.environ.get("BACKBEAT_RECORD") == "1":
        text = json.dumps(anonymous(json.loads(history.to_json())), indent=1, sort_keys=True)
        (HISTORIES / "ship_from_regions-1-confirmed.json").write_text(text + "\n", encoding="utf-8")
