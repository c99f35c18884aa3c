"""The attempts one tick has under way: start them, keep their leases, collect how they ended."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from shared import clock
from shared.db import queue
from shared.db.queue import Task
from shared.domain.outcome import Outcome, Release, Retry
from shared.execution.attempt import attempt
from shared.execution.environment import Environment

LAST_WORDS = 1.0  # seconds between the end of all calls' time and the end of the attempts around them
PATIENCE = 3.0  # seconds that cancelled attempts get to close their calls
GATHER = 0.0002, 0.1  # seconds a slot, and at most: what an ended attempt waits for others, to be settled with them
SPREAD = 0.25  # seconds over which the starts of all slots are spread, so that a burst trips no ramp limit


class Slots:
    """Runs attempts concurrently and renews their leases three times a lease.

    An attempt whose lease turns out to be somebody else's is cancelled; its calls end and are billed, and nothing of
    it is settled.
    """

    def __init__(self, env: Environment, worker: str, size: int, lease_seconds: float) -> None:
        self._env = env
        self._worker = worker
        self._size = size
        self._lease_seconds = lease_seconds
        self._runs: dict[asyncio.Task[Outcome | None], Task] = {}
        self._lost: set[tuple[UUID, int]] = set()
        self._renewed = clock.monotonic()
        # Held from the look at what runs until what was claimed counts as running; or a row that must run alone would
        # find company.
        self.claiming = asyncio.Lock()

    @property
    def free(self) -> int:
        """How many more attempts may start."""
        return self._size - len(self._runs)

    @property
    def busy(self) -> int:
        """How many attempts are under way."""
        return len(self._runs)

    @property
    def hanging(self) -> list[Task]:
        """After `abort`: the tasks that did not end."""
        return list(self._runs.values())

    @property
    def alone(self) -> bool:
        """Whether what runs must have the process for itself."""
        return any(task.alone for task in self._runs.values())

    def start(self, tasks: Sequence[Task]) -> None:
        """Begin an attempt of each task, within a fraction of a second of each other."""
        for task in tasks:
            delay = self._env.rng.uniform(0, SPREAD * len(tasks) / self._size)
            self._runs[asyncio.create_task(self._later(delay, task), name=str(task.id))] = task

    async def wait(self, timeout: float) -> list[tuple[Task, Outcome]]:  # noqa: ASYNC109
        """Wait until at least one attempt ends, or `timeout` seconds; returns those that may be settled."""
        interval = self._lease_seconds / 3
        pause = max(min(timeout, self._renewed + interval - clock.monotonic()), 0.0)
        if self._runs:
            done, others = await asyncio.wait(self._runs, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if done and others:
                await clock.sleep(min(GATHER[0] * self._size, GATHER[1]))
        if self._runs and clock.monotonic() >= self._renewed + interval:
            await self._renew()
        return self._collect()

    async def abort(self) -> list[tuple[Task, Outcome]]:
        """Let calls end and be billed, their time is up too; cancel what then still runs, which costs no attempt.

        What does not end when it is cancelled stays in `hanging`.
        """
        if self._runs:
            await asyncio.wait(self._runs, timeout=LAST_WORDS)
        for run in self._runs:
            run.cancel()
        if self._runs:
            await asyncio.wait(self._runs, timeout=PATIENCE)
        return self._collect()

    async def _later(self, delay: float, task: Task) -> Outcome | None:
        await clock.sleep(delay)
        return await attempt(self._env, task)

    async def _renew(self) -> None:
        tasks = [task for task in self._runs.values() if (task.id, task.lease) not in self._lost]
        self._renewed = clock.monotonic()
        gone = await queue.heartbeat(self._env.db, self._worker, tasks, self._lease_seconds)
        for run, task in self._runs.items():
            if task in tasks and task.id in gone:
                self._lost.add((task.id, task.lease))
                run.cancel()

    def _collect(self) -> list[tuple[Task, Outcome]]:
        ended: list[tuple[Task, Outcome]] = []
        for run in [run for run in self._runs if run.done()]:
            task = self._runs.pop(run)
            if (task.id, task.lease) in self._lost:
                continue
            if run.cancelled():
                outcome: Outcome | None = Release("cut_off")
            else:
                error = run.exception()
                outcome = Retry("worker_fault", f"{type(error).__name__}: {error}") if error else run.result()
            if outcome is not None:
                ended.append((task, outcome))
        return ended
