"""The rows of the bulk lanes: claimed, handled and settled by the hundred, beside the attempts of single rows."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from cron_worker.execute import LAST_WORDS, PATIENCE, Slots
from cron_worker.limits import Limits, Report
from shared import clock
from shared.db import queue
from shared.db.queue import Task
from shared.domain.outcome import Release
from shared.execution.attempt import attempt
from shared.execution.batch import Ends, run_batch
from shared.execution.environment import Environment

HANDS = 2  # batches at a time: one is handled while Postgres settles the other
BREATH = 0.001  # seconds
FIRST = 250  # rows of the first batch; it doubles while a batch takes less than TARGET, and halves beyond it
TARGET = 1.0  # seconds


class Bulk:
    """claim -> handle -> settle and claim, until the lanes are empty or the tick's time for starts is over."""

    def __init__(
        self, env: Environment, worker: str, limits: Limits, report: Report, stop: asyncio.Event, slots: Slots
    ) -> None:
        self._env = env
        self._slots = slots
        self._batches: list[list[Task]] = [[] for _ in range(HANDS)]
        self._worker = worker
        self._limits = limits
        self._report = report
        self._stop = stop
        self._loaded = list(env.registry.tasks)
        self._largest = max((one.bulk for one in env.registry.tasks.values() if one.bulk), default=0)
        self._size = min(FIRST, self._largest)

    @property
    def busy(self) -> bool:
        """Whether rows are in hand."""
        return any(self._batches)

    @property
    def alone(self) -> bool:
        """Whether what is in hand must have the process for itself."""
        return any(task.alone for batch in self._batches for task in batch)

    async def run(self) -> None:
        """Work through what is there now; where no definition takes many rows this returns at once."""
        hands = [asyncio.create_task(self._work(hand)) for hand in range(HANDS if self._largest else 0)]
        try:
            await asyncio.gather(*hands)
        finally:
            for hand in hands:
                hand.cancel()

    async def _work(self, hand: int) -> None:
        await self._claim(hand)
        while tasks := self._batches[hand]:
            # What the other hand has to send leaves first: a handler may compute for long.
            await clock.sleep(BREATH)
            started = clock.monotonic()
            ends = await self._handle(tasks)
            self._adapt(len(tasks), clock.monotonic() - started)
            await self._turn(hand, ends)

    async def _claim(self, hand: int) -> None:
        async with self._slots.claiming:
            room, idle = self._room(), not self._slots.busy and not self.busy
            given = self._env.db, self._worker, self._loaded, room, self._limits.lease
            self._report.claimed += room
            tasks = await queue.claim(*given, idle=idle, bulk=True) if room else []
            self._take(hand, tasks, room)

    async def _turn(self, hand: int, ends: Ends) -> None:
        """Spans to disk first, then the outcomes, and the next rows with them.

        Nobody has to be kept out meanwhile: the batch still counts as being in hand.
        """
        self._env.telemetry.flush()
        room = self._room()
        self._report.claimed += room
        refused, tasks = await queue.turn(self._env.db, ends, self._worker, self._loaded, room, self._limits.lease)
        self._take(hand, tasks, room)
        self._report.settled += len(ends) - len(refused)
        self._report.refused += len(refused)
        if not tasks:
            await self._claim(hand)

    def _take(self, hand: int, tasks: list[Task], asked: int) -> None:
        """What is asked for counts as claimed until the answer is there: others ask meanwhile."""
        self._batches[hand] = tasks
        self._report.claimed += len(tasks) - asked

    def _room(self) -> int:
        if self._stop.is_set() or self._slots.alone or self.alone or not self._env.deadline.allows(0.0):
            return 0
        left = None if self._limits.max_tasks is None else self._limits.max_tasks - self._report.claimed
        return self._size if left is None else max(min(self._size, left), 0)

    def _adapt(self, count: int, seconds: float) -> None:
        if seconds > TARGET:
            self._size = max(self._size // 2, 1)
        elif count >= self._size:
            self._size = min(self._size * 2, self._largest)

    async def _handle(self, tasks: Sequence[Task]) -> Ends:
        """Rows of one tenant and definition go together; leases are kept until all are handled.

        A handler that will not end keeps its rows, which come back as lost attempts.
        """
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
        if not running.done():
            self._report.hanging += sorted({f"{task.workflow} {task.id}" for task in tasks})[:3]
            return []
        if not running.cancelled():
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
