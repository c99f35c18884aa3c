"""One tick: recover -> sweep -> claim -> execute -> settle, until the budget is used up.

Overlapping ticks are boring: Postgres decides who gets a row. `budget` bounds starts, `grace` bounds ends,
so whatever supervises a tick should kill it no sooner than budget + grace + 5 seconds.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

from cron_worker.execute import Slots
from cron_worker.recover import recover
from cron_worker.ship import ship
from shared import clock
from shared.config import Config
from shared.db import calls, queue
from shared.db.pool import MINIMUM_SCHEMA, Database, connect, schema_version
from shared.db.queue import Task
from shared.definitions import load_definitions
from shared.domain.outcome import Outcome
from shared.errors import ConfigError, SchemaError
from shared.execution.environment import Deadline, Environment
from shared.execution.spans import tick_span
from shared.llm.routes import load_routes
from shared.telemetry import open_telemetry

POLL = 0.5  # seconds between looks for new rows while slots are free and other work is under way


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tick may use. Durations in seconds; `max_tasks` None: as many as fit."""

    budget: float = 50.0
    grace: float = 30.0
    max_tasks: int | None = None
    concurrency: int = 16
    lease: float = 60.0


@dataclass(slots=True)
class Report:
    """What one tick did."""

    claimed: int = 0
    settled: int = 0
    refused: int = 0
    recovered: int = 0


async def tick(config: Config, limits: Limits, stop: asyncio.Event | None = None) -> Report:
    """Do one tick's work and return what was done. An empty queue costs one connection and one query.

    `stop` ends claiming early. Raises UnavailableError when Postgres is away, SchemaError when it is not
    migrated, DefinitionError when a task module does not import.
    """
    if not config.database_url:
        raise ConfigError("database_url is not set", fix="Set BACKBEAT_DATABASE_URL, or run `backbeat up` here")
    async with connect(config.database_url) as db:
        if (await schema_version(db)) < MINIMUM_SCHEMA:
            raise SchemaError("the database is not migrated far enough", fix="Run `backbeat migrate up`")
        report = Report()
        if await queue.anything_to_do(db):
            async with _environment(config, db, limits) as env:
                report = await _Tick(env, limits, stop or asyncio.Event()).run()
    await ship(config)
    return report


@contextlib.asynccontextmanager
async def _environment(config: Config, db: Database, limits: Limits) -> AsyncIterator[Environment]:
    registry = load_definitions(config.definitions)
    if not registry.tasks:
        raise ConfigError("no definitions are named", fix="Set BACKBEAT_DEFINITIONS to your task modules")
    telemetry = open_telemetry(config, "cron-worker")
    env = Environment(
        config=config,
        db=db,
        registry=registry,
        routes=load_routes(config.routes_file),
        telemetry=telemetry,
        deadline=Deadline.after(limits.budget, limits.grace),
        expected_seconds=await calls.route_p95(db),
    )
    try:
        yield env
    finally:
        await env.aclose()
        telemetry.close()


class _Tick:
    """The state of one tick while it runs."""

    def __init__(self, env: Environment, limits: Limits, stop: asyncio.Event) -> None:
        self._env = env
        self._limits = limits
        self._stop = stop
        self._report = Report()
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self._slots = Slots(env, self._worker, limits.concurrency, limits.lease)
        self._claimed: list[Task] = []

    async def run(self) -> Report:
        env, report, started = self._env, self._report, clock.wall_ns()
        await queue.register(env.db, self._worker, "cron", env.registry.rows())
        tick_id = await queue.start_tick(env.db, self._worker)
        report.recovered = await recover(env)
        await queue.sweep(env.db)
        while await self._claim() or self._slots.busy:
            if env.deadline.left <= 0:
                await self._settle(await self._slots.abort())
                break
            await self._settle(await self._slots.wait(min(POLL, env.deadline.left)))
        if self._claimed:
            env.telemetry.record(tick_span(env, tick_id, self._worker, started, self._claimed, report.settled))
            env.telemetry.flush()
        await queue.end_tick(env.db, tick_id, report.claimed, report.settled)
        return report

    async def _claim(self) -> bool:
        """Fill free slots while tasks may still start; False when none was there."""
        room = self._slots.free
        if self._limits.max_tasks is not None:
            room = min(room, self._limits.max_tasks - self._report.claimed)
        if room <= 0 or self._stop.is_set() or not self._env.deadline.allows(0.0):
            return False
        loaded = list(self._env.registry.tasks)
        tasks = await queue.claim(self._env.db, self._worker, loaded, room, self._limits.lease)
        self._report.claimed += len(tasks)
        self._claimed += tasks
        self._slots.start(tasks)
        return bool(tasks)

    async def _settle(self, ended: list[tuple[Task, Outcome]]) -> None:
        """Spans to disk first, then the outcomes: a finished row's trace is never missing."""
        if not ended:
            return
        self._env.telemetry.flush()
        refused = await queue.settle(self._env.db, ended)
        self._report.settled += len(ended) - len(refused)
        self._report.refused += len(refused)
