"""The rate of a route that many processes share, by the vendor's own log. Time jumps; the database is real."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import pytest

from shared import clock
from shared.llm.routes import Route
from tests.support.databases import Database
from tests.support.rates import Process, Vendor, fullest
from tests.support.warp import Warp, warped

PROCESSES, CALLERS = 16, 6
MINUTE = 60.0


class Campaign:
    """Sixteen processes at one route."""

    def __init__(self, dice: Random, vendor: Vendor, processes: list[Process], start: object) -> None:
        self.dice, self.vendor, self.processes, self._start = dice, vendor, processes, start

    async def replace(self, place: int) -> None:
        """Kill one and start another."""
        await self.processes[place].kill()
        self.processes[place] = self._start(place)  # type: ignore[operator]


@asynccontextmanager
async def campaign(
    database: Database,
    patch: pytest.MonkeyPatch,
    seed: int,
    callers: int = CALLERS,
    stalls: float = 0.0,
    **limits: Any,
) -> AsyncIterator[Campaign]:
    warp, dice = Warp(database, patch), Random(seed)
    route, vendor = Route("r", "anthropic", "m", 1, 1, bounded=True, **limits), Vendor(dice)
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(warped(database, warp)) for _ in range(PROCESSES)]

        def start(place: int) -> Process:
            return Process(ways[place], route, vendor, dice, callers, stalls)

        jumping = asyncio.create_task(warp.run())
        made = Campaign(dice, vendor, [start(place) for place in range(PROCESSES)], start)
        yield made
        for process in made.processes:
            await process.kill()
        jumping.cancel()
        await asyncio.gather(jumping, return_exceptions=True)


async def test_sixteen_processes_use_a_limit_up_and_no_window_passes_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async with campaign(database, monkeypatch, seed, rpm=600) as run:
        began = clock.monotonic()
        for _ in range(8):
            await clock.sleep(12.5)
            await run.replace(run.dice.randrange(PROCESSES))
        ended = clock.monotonic()
    log = [(at, 1.0) for at, _, _ in run.vendor.log]
    mean = len(log) / (ended - began) * MINUTE
    print(f"mean {mean:.0f}, fullest minute {fullest(log, MINUTE)}, fullest second {fullest(log, 1.0)}")
    assert fullest(log, MINUTE) <= 600
    assert fullest(log, 1.0) <= 0.05 * 600
    assert mean >= 0.9 * 600


async def test_moments_that_processes_slept_through_are_lost_and_no_window_passes_the_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async with campaign(database, monkeypatch, seed, callers=8, stalls=0.9, rpm=300) as run:
        await clock.sleep(30)
        for process in run.processes:
            process.stalls = 0.0
        await clock.sleep(60)
    log = [(at, 1.0) for at, _, _ in run.vendor.log]
    print(f"fullest minute {fullest(log, MINUTE)}")
    assert fullest(log, MINUTE) <= 300


async def test_tokens_are_limited_by_what_calls_do_take(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Counted before, a call may take four times as much."""
    async with campaign(database, monkeypatch, seed, itpm=400_000, otpm=1_000_000) as run:
        await clock.sleep(15)  # in which the shares are learned
        began = clock.monotonic()
        await clock.sleep(80)
        ended = clock.monotonic()
    log = [(at, float(used)) for at, used, _ in run.vendor.log]
    mean = sum(used for at, used in log if began <= at < ended) / (ended - began) * MINUTE
    print(f"mean {mean:.0f}, fullest minute {fullest(log, MINUTE)}")
    assert fullest(log, MINUTE) <= 400_000
    assert mean >= 0.9 * 400_000


async def test_no_more_calls_are_in_flight_than_may_be_and_a_dead_process_holds_its_own_for_seconds(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async with campaign(database, monkeypatch, seed, callers=4, max_in_flight=20) as run:
        for _ in range(4):
            await clock.sleep(10)
            await run.replace(run.dice.randrange(PROCESSES))
        await clock.sleep(16)
        assert run.vendor.in_flight >= 15
    # In time that jumps a process' word may come later than the 15 s it is kept for: until then it has no calls.
    assert run.vendor.most <= 22
