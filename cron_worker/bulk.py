"""The rows of the bulk lanes: claimed, handled and settled by the hundred, beside the attempts of single rows."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from cron_worker.tick import Limits, Report
from shared import clock
from shared.db import queue
from shared.db.queue import Task
from shared.domain.outcome import Release
from shared.execution.attempt import attempt
from shared.execution.batch import Ends, run_batch
from shared.execution.environment import Environment

FIRST = 100  # rows of the first batch; it doubles while a batch takes less than TARGET, and halves beyond it
TARGET = 1.0  # seconds
LAST_WORDS = 1.0  # seconds between the end of all calls' time and the end of the handlers around them
PATIENCE = 3.0  # seconds that a cancelled handler gets to close its calls


class Bulk:
    """claim -> handle -> settle and claim, until the lanes are empty or the tick's time for starts is over."""

    def __init__(self, env: Environment, worker: str, limits: Limits, report: Report, stop: asyncio.Event) -> None:
        self._env = env
        self._worker = worker
        self._limits = limits
        self._report = report
        self._stop = stop
        self._loaded = list(env.registry.tasks)
        self._largest = max((one.bulk for one in env.registry.tasks.values() if one.bulk), default=0)
        self._size = min(FIRST, self._largest)

    async def run(self) -> None:
        """Work through what is there now; a definition that handles single rows only makes this return at once."""
        tasks = await self._claim()
        while tasks:
            self._report.claimed += len(tasks)
            started = clock.monotonic()
            ends = await self._handle(tasks)
            self._adapt(len(tasks), clock.monotonic() - started)
            tasks = await self._turn(ends)

    async def _claim(self) -> list[Task]:
        room = self._room()
        return (
            await queue.claim_bulk(self._env.db, self._worker, self._loaded, room, self._limits.lease) if room else []
        )

    async def _turn(self, ends: Ends) -> list[Task]:
        """Spans to disk first, then the outcomes, and the next rows with them."""
        self._env.telemetry.flush()
        refused, tasks = await queue.turn(
            self._env.db, ends, self._worker, self._loaded, self._room(), self._limits.lease
        )
        self._report.settled += len(ends) - len(refused)
        self._report.refused += len(refused)
        return tasks or await self._claim()

    def _room(self) -> int:
        if self._stop.is_set() or not self._env.deadline.allows(0.0):
            return 0
        left = None if self._limits.max_tasks is None else self._limits.max_tasks - self._report.claimed
        return self._size if left is None else max(min(self._size, left), 0)

    def _adapt(self, count: int, seconds: float) -> None:
        if seconds > TARGET:
            self._size = max(self._size // 2, 1)
        elif count >= self._size:
            self._size = min(self._size * 2, self._largest)

    async def _handle(self, tasks: Sequence[Task]) -> Ends:
        """Rows of one tenant and definition go together; leases are kept until all are handled."""
        groups: dict[tuple[str, str], list[Task]] = defaultdict(list)
        for task in tasks:
            groups[task.name, task.tenant].append(task)
        running = asyncio.create_task(self._groups(list(groups.values())))
        renewed = clock.monotonic()
        while not running.done():
            if self._env.deadline.left + LAST_WORDS <= 0:
                running.cancel()
                await asyncio.wait([running], timeout=PATIENCE)
                break
            pause = min(renewed + self._limits.lease / 3 - clock.monotonic(), self._env.deadline.left + LAST_WORDS)
            await asyncio.wait([running], timeout=max(pause, 0.0))
            if not running.done() and clock.monotonic() >= renewed + self._limits.lease / 3:
                renewed = clock.monotonic()
                gone = await queue.heartbeat(self._env.db, self._worker, tasks, self._limits.lease)
                if len(gone) == len(tasks):
                    running.cancel()
        if running.done() and not running.cancelled():
            return running.result()
        return [(task, Release("cut_off")) for task in tasks]

    async def _groups(self, groups: Sequence[Sequence[Task]]) -> Ends:
        ends: Ends = []
        for group in groups:
            if self._env.registry.tasks[group[0].name].bulk:
                ends += await run_batch(self._env, group)
                continue
            # Enqueued when its definition still took many rows at once.
            for task in group:
                outcome = await attempt(self._env, task)
                ends += [] if outcome is None else [(task, outcome)]
        return ends
