"""The work of one tick, once it is known that there is some."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from uuid import uuid4

from psycopg.types.json import set_json_loads
from pydantic_core import from_json

from cron_worker.bulk import Bulk
from cron_worker.execute import Slots
from cron_worker.limits import Limits, Report
from cron_worker.recover import recover
from cron_worker.schedule import schedule
from shared import clock
from shared.config import Config
from shared.db import calls, queue
from shared.db.pool import Database
from shared.db.queue import Task
from shared.definitions import load_definitions
from shared.domain.outcome import Outcome
from shared.errors import ConfigError
from shared.execution import batches
from shared.execution.environment import Deadline, Environment, surroundings
from shared.execution.prefixes import Prefixes
from shared.execution.spans import tick_span
from shared.telemetry.spool import spool_status

MAINTENANCE = 2.0  # seconds between looks for what time has moved
REFILLS = 8  # of windows, in one go
POLL = 0.5  # seconds between looks for new rows while slots are free and other work is under way


@contextlib.asynccontextmanager
async def environment(config: Config, db: Database, limits: Limits) -> AsyncIterator[Environment]:
    """Everything a round needs, closed at its end. Raises DefinitionError and ConfigError."""
    registry = load_definitions(config.definitions, config.prompt_tools)
    set_json_loads(from_json)  # seven times as fast as Python's own
    known = {
        "deadline": Deadline.after(limits.budget, limits.grace),
        "expected_seconds": await calls.route_p95(db),
        "likely_shares": await calls.likely_shares(db),
        "prefixes": Prefixes.of(await calls.beat(db), await calls.last_prefixes(db)),
    }
    async with surroundings(config, "cron-worker", db, registry, **known) as env:
        yield env


class Round:
    """recover -> sweep -> claim -> execute -> settle, again and again until nothing is left or time is up."""

    def __init__(self, env: Environment, limits: Limits, report: Report, stop: asyncio.Event) -> None:
        self._env, self._limits, self._stop, self._report = env, limits, stop, report
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self._slots = Slots(env, self._worker, limits.concurrency, limits.lease)
        self._bulk = Bulk(env, self._worker, limits, report, stop, self._slots)
        self._claimed: list[Task] = []
        self._maintain_at, self._dry = 0.0, 0  # sweeps in a row that found nothing behind the windows

    async def run(self) -> Report:
        """Work until the queue is empty for us or the budget is used up, then let what runs end."""
        env, report, started = self._env, self._report, clock.wall_ns()
        await queue.register(env.db, self._worker, "cron", env.registry.rows())
        asked = clock.wall_ns()
        tick_id = await queue.start_tick(env.db, self._worker)
        # Its first 48 bits are the milliseconds of Postgres' clock, read between two readings of ours.
        skew = (tick_id.int >> 80) - (asked + clock.wall_ns()) // 2_000_000
        await self._maintain()
        await self._connect(ready := await queue.ready_tiers(env.db))
        report.stopped = (await queue.switches(env.db)).get("all", "")
        # Before the claim, which takes what their answers let go on; a vendor that is slow is not waited for.
        others = {asyncio.create_task(batches.advance(env))}
        await asyncio.wait(others, timeout=min(MAINTENANCE, env.deadline.left))
        others.add(asyncio.create_task(self._bulk.run()))
        if ready and not (env.deadline.allows(0.0) or report.stopped or self._stop.is_set()):
            logging.warning("the start took the budget of %g s: nothing is begun. Raise --budget", self._limits.budget)
        while await self._claim() or self._slots.busy or not all(one.done() for one in others):
            if env.deadline.left <= 0:
                await self._settle(await self._slots.abort())
                report.hanging += [f"{task.workflow} {task.id}" for task in self._slots.hanging]
                break
            if not self._slots.busy:
                await asyncio.wait(others, timeout=min(POLL, env.deadline.left))
            await self._settle(await self._slots.wait(min(POLL, env.deadline.left)))
            await self._maintain()
        await asyncio.gather(*others)
        told = {name: getattr(report, name) for name in ("claimed", "settled", "refused", "recovered")}
        told |= {"slots": self._limits.concurrency, "clock_skew_ms": skew, "shed": env.telemetry.shed}
        with contextlib.suppress(OSError):
            waiting = spool_status(env.config.spool_dir)
            told |= {"spool_files": waiting.depth, "spool_age_s": waiting.oldest_seconds}
        env.telemetry.record(tick_span(env, tick_id, self._worker, started, self._claimed, told))
        env.telemetry.flush()
        await calls.return_blocks(env.db)
        await queue.end_tick(env.db, tick_id, report.claimed, report.settled)
        return report

    async def _connect(self, tiers: list[str]) -> None:
        """Load the vendors of ready tasks before these are claimed: a second that others could use on the same rows."""
        env = self._env
        for tier in tiers:
            with contextlib.suppress(ConfigError):  # said by the call that needs it
                await env.provider(env.routing.routes.for_tier(tier, env.config.providers)[0].provider)

    async def _maintain(self) -> None:
        """What time and dead workers left to do; there is no other process whose task it is."""
        if clock.monotonic() >= self._maintain_at:
            self._maintain_at = clock.monotonic() + MAINTENANCE
            self._report.recovered += await recover(self._env)
            await calls.return_expired_blocks(self._env.db)
            await schedule(self._env)
            await queue.sweep(self._env.db)
            self._dry = 0

    async def _claim(self) -> bool:
        """Fill free slots while tasks may still start; False when none was there."""
        async with self._slots.claiming:
            return await self._fill()

    async def _fill(self) -> bool:
        room = self._slots.free
        if self._limits.max_tasks is not None:
            room = min(room, self._limits.max_tasks - self._report.claimed)
        alone = self._slots.alone or self._bulk.alone
        if room <= 0 or alone or self._stop.is_set() or not self._env.deadline.allows(0.0):
            return False
        tasks_of = self._env.registry.tasks
        loaded = [name for name, one in tasks_of.items() if not self._env.routing.stalled(one.tier)]
        idle = not self._slots.busy and not self._bulk.busy
        self._report.claimed += room
        tasks = await queue.claim(self._env.db, self._worker, loaded, room, self._limits.lease, idle=idle)
        for _ in range(REFILLS):
            # Whoever was here before may have emptied windows that have more behind them, or be doing so just now.
            if self._dry > 1 or len(tasks) == room or any(task.alone for task in tasks):
                break
            await clock.sleep(POLL / 10 * self._dry)
            self._dry = 0 if (await queue.sweep(self._env.db, days=False))["promoted"] else self._dry + 1
            given = self._env.db, self._worker, loaded, room - len(tasks), self._limits.lease
            tasks += await queue.claim(*given, idle=idle and not tasks)
        self._report.claimed += len(tasks) - room
        self._claimed += tasks
        self._slots.start(tasks)
        return bool(tasks) or self._dry < 2

    async def _settle(self, ended: list[tuple[Task, Outcome]]) -> None:
        """Spans to disk first, then the outcomes: a finished row's trace is never missing."""
        if not ended:
            return
        self._env.telemetry.flush()
        refused = await queue.settle(self._env.db, ended)
        self._report.settled += len(ended) - len(refused)
        self._report.refused += len(refused)
