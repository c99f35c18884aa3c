"""A tick loads the vendors of ready tasks before it claims any, and no others; a Temporal worker its routes'."""

import asyncio

import pytest

from cron_worker.limits import Limits, Report
from cron_worker.round import Round
from shared.config import Config, ProviderConfig
from shared.definitions import Registry, load_definitions
from shared.execution.environment import Environment
from shared.llm.routes import load_routes
from shared.telemetry.spans import NullTelemetry
from temporal_worker.worker import warm
from tests.support import tasks
from tests.support.databases import Database


@pytest.mark.parametrize(
    ("count", "known", "connected"), [(1, "openai", {"openai"}), (0, "openai", set()), (1, "", set())]
)
async def test_vendors_are_loaded_before_rows_are_claimed(
    database: Database, count: int, known: str, connected: set[str]
) -> None:
    providers = {known: ProviderConfig(known, "http://127.0.0.1:9", "k")} if known else {}
    async with tasks.worker(database) as db:
        await tasks.add(db, count)
        env = Environment(Config(providers=providers), db, Registry({}, {}), load_routes(), NullTelemetry())
        await Round(env, Limits(max_tasks=0), Report(), asyncio.Event()).run()
    assert set(env._providers) == connected
    assert database.sql("SELECT status FROM backbeat.simple_tasks") == [("ready",)] * count
    await env.aclose()


@pytest.mark.parametrize("orchestrates", [True, False])
async def test_a_worker_that_orchestrates_loads_its_vendors_before_a_call(
    database: Database, orchestrates: bool
) -> None:
    providers = {"openai": ProviderConfig("openai", "http://127.0.0.1:9", "k")}
    registry = load_definitions(["examples.fulfilment.definitions" if orchestrates else "tests.support.noting"])
    async with tasks.worker(database) as db:
        env = Environment(Config(providers=providers), db, registry, load_routes(), NullTelemetry())
        await warm(env)
        assert set(env._providers) == ({"openai"} if orchestrates else set())
        await env.aclose()
