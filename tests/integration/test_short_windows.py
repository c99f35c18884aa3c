"""A window that somebody else has just emptied is no empty queue: what lies behind it is taken, and soon."""

import asyncio
from typing import Any

from pydantic import BaseModel

from cron_worker.limits import Limits, Report
from cron_worker.round import Round
from shared.config import Config
from shared.db import queue
from shared.definitions import Definition, Registry
from shared.execution.environment import Environment
from shared.llm.routes import load_routes
from shared.telemetry.spans import NullTelemetry
from tests.support import tasks
from tests.support.databases import Database

WINDOW = 64


class Anything(BaseModel):
    n: int


started: list[int] = []


async def _run(_ctx: Any, given: Anything) -> Anything:
    started.append(given.n)
    return given


alpha = Definition(name="alpha", version=1, input=Anything, output=Anything, tier="small", run=_run)


class Late(Round):
    """A tick whose vendor takes its time to load, while another one works."""

    async def _connect(self, _: list[str]) -> None:
        taken = await queue.claim(self._env.db, "early", ["alpha@1"], 1000, 60.0)
        assert len(taken) == WINDOW


async def _worked(database: Database, rows: int, slots: int) -> Report:
    started.clear()
    async with tasks.worker(database) as db:
        await tasks.add(db, rows)
        env = Environment(Config(), db, Registry({"alpha@1": alpha}, {}), load_routes(), NullTelemetry())
        report = await Late(env, Limits(concurrency=slots), Report(), asyncio.Event()).run()
        await env.aclose()
    return report


async def test_what_lies_behind_an_empty_window_is_worked_off(database: Database) -> None:
    report = await _worked(database, 200, 16)
    assert (report.claimed, report.settled) == (200 - WINDOW, 200 - WINDOW)
    left = "SELECT worker, count(*) FROM backbeat.simple_tasks GROUP BY 1"
    assert database.sql(left) == [("early", WINDOW)]


async def test_all_slots_are_filled_at_once_however_small_the_window(database: Database) -> None:
    report = await _worked(database, 4 * WINDOW, 3 * WINDOW)
    assert report.settled == 3 * WINDOW
    assert database.value("SELECT claimed FROM backbeat.ticks") == 3 * WINDOW


async def test_nothing_behind_it_is_the_end(database: Database) -> None:
    assert (await _worked(database, WINDOW, 16)).claimed == 0
