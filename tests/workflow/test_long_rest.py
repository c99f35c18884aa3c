"""An orchestration that waits a month, on a server whose clock skips ahead."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from backbeat.orchestrate.ends import Ends
from temporal_worker.orchestrations import Loaded
from temporal_worker.worker import Options, activities_of, make_worker
from tests.integration.test_orchestrations import begin, loaded, steps
from tests.support.databases import Database
from tests.support.journeys import Rest
from tests.support.parcels import Order
from tests.support.temporal import Clocked, FarSide, environment, row


async def test_a_month_passes_and_then_it_writes(database: Database, skipping: WorkflowEnvironment) -> None:
    far = FarSide()
    config: dict[str, Any] = {**skipping.client.config(), "data_converter": pydantic_data_converter}
    client = Client(**config)

    async def ahead() -> float:
        return (await skipping.get_current_time() - datetime.now(UTC)).total_seconds()

    async with environment(database, far) as env:
        clocked = replace(await loaded(env), db=Clocked(env.db, database, ahead))
        run = begin(database, "rest")
        name, began = row(database, run)["temporal_id"], await skipping.get_current_time()
        async with make_worker(client, activities_of(clocked), Options("skip"), None, Loaded([Rest], [], [Ends()])):
            given = Order(customer="acme")
            assert await client.execute_workflow("rest", given, id=name, task_queue="skip") == "rested"
        assert await skipping.get_current_time() - began >= timedelta(days=30)
    assert far.writes == 1
    assert steps(database, run) == [("month", "timer", "done"), ("after", "effect", "done")]
    query = "SELECT ended_at - started_at FROM backbeat.orchestrated_workflows_steps WHERE name = 'month'"
    assert database.value(query) >= timedelta(days=30)
