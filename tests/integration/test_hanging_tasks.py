"""A task that does not end cannot keep a tick: the others are settled, and the process leaves."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from backbeat.producer.submit import submit
from shared.db import pool, queue
from shared.definitions import load_definitions
from shared.errors import EXIT_HUNG
from shared.telemetry.spans import NullTelemetry
from tests.support.command import Done, command
from tests.support.databases import Database

Ids = dict[str, UUID]
MODULE = "tests.support.stubborn"


def _enqueue(database: Database, *wishes: str) -> Ids:
    definition = load_definitions([MODULE]).newest("stubborn")

    async def run() -> Ids:
        async with pool.connect(database.worker_url, max_size=1) as db:
            added = await submit(db, NullTelemetry(), definition, [{"how": wish} for wish in wishes])
            return {wish: one.task_id for wish, one in zip(wishes, added, strict=True)}

    return asyncio.run(run())


@pytest.fixture
def tick(database: Database, tmp_path: Path) -> Callable[[], tuple[Done, float]]:
    environ = {**database.environ, "BACKBEAT_DEFINITIONS": MODULE}

    def run() -> tuple[Done, float]:
        started = time.monotonic()
        flags = ("--budget", "4s", "--grace", "1s", "--lease", "60s")
        done = command(MODULE, "tick", *flags, home=tmp_path, environ=environ, within=60)
        return done, time.monotonic() - started

    return run


def test_a_task_that_swallows_its_cancellation_is_left_behind(
    database: Database, tick: Callable[[], tuple[Done, float]]
) -> None:
    ids = _enqueue(database, "swallow", "quick")
    done, seconds = tick()
    assert (done.code, seconds < 40) == (EXIT_HUNG, True), done
    (line,) = [line for line in done.err.splitlines() if "hang" in line]
    assert f"stubborn {ids['swallow']}" in line
    assert str(ids["quick"]) not in done.err
    assert database.sql("SELECT id, status FROM backbeat.finished_tasks") == [(ids["quick"], "succeeded")]
    left = "SELECT id, status, attempts FROM backbeat.simple_tasks"
    assert database.sql(left) == [(ids["swallow"], "running", 1)]
    assert database.value("SELECT settled FROM backbeat.ticks WHERE ended_at IS NOT NULL") == 1
    database.sql("UPDATE backbeat.simple_tasks SET lease_until = backbeat.clock() - interval '1 second'")
    _reap(database)
    assert database.sql("SELECT history -> 0 ->> 'outcome' FROM backbeat.simple_tasks") == [("lost",)]


@pytest.mark.parametrize(("how", "code"), [("block", EXIT_HUNG), ("seize", 1)])
def test_a_task_that_blocks_the_loop_ends_with_its_process(
    database: Database, tick: Callable[[], tuple[Done, float]], how: str, code: int
) -> None:
    ids = _enqueue(database, how)
    done, seconds = tick()
    assert (done.code, seconds < 40) == (code, True), done
    assert "stubborn.py" in done.err
    assert how == "seize" or str(ids[how]) in done.err
    assert database.sql("SELECT status, attempts FROM backbeat.simple_tasks") == [("running", 1)]


def test_what_a_cancelled_task_leaves_running_does_not_keep_the_process(
    database: Database, tick: Callable[[], tuple[Done, float]]
) -> None:
    ids = _enqueue(database, "shield", "quick")
    done, seconds = tick()
    assert (done.code, seconds < 40) == (EXIT_HUNG, True), done
    assert database.sql("SELECT id, attempts FROM backbeat.simple_tasks WHERE status <> 'running'") == [
        (ids["shield"], 0)
    ]


def _reap(database: Database) -> None:
    async def run() -> None:
        async with pool.connect(database.worker_url, max_size=1) as db:
            await queue.reap(db)

    asyncio.run(run())
