"""Recorded runs of the worked orchestration, replayed for ever: helpers that change their commands strand what waits.

`BACKBEAT_RECORD=1` makes tests/integration/test_fulfilment.py record them; recorded files are never changed.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from backbeat.orchestrate.ends import Ends
from examples.fulfilment.models import Order
from examples.fulfilment.workflow import Fulfil
from temporal_worker.orchestrations import runner
from tests.replay.test_approval_histories import crossed, load

HISTORIES = Path(__file__).with_name("orchestrations")
CORPUS = sorted(HISTORIES.glob("*.json"))
_ALWAYS = {"check_address", "model_call", "subworkflow", "project_run", "signal poke", "write"}
_TO_THE_SAGA = {*_ALWAYS, "fan_out", "join", "quote", "tax"}

# What each kind of run must have crossed: a history that ended early would let any change pass.
WAITS = {
    "shipped": {*_TO_THE_SAGA, "TIMER_FIRED", "WORKFLOW_EXECUTION_COMPLETED"},
    "refunded": {*_TO_THE_SAGA, "ACTIVITY_TASK_FAILED", "WORKFLOW_EXECUTION_COMPLETED"},
    "declined": {*_ALWAYS, "WORKFLOW_EXECUTION_COMPLETED"},
}


def replayer(workflow: type = Fulfil) -> Replayer:
    """As the worker runs them."""
    return Replayer(
        workflows=[workflow],
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


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
async def test_a_careless_change_is_seen(path: Path) -> None:
    with pytest.raises(workflow.NondeterminismError):
        await replayer(WithOneMoreWait).replay_workflow(load(path))
