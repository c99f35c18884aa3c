"""Sixty-four workers race one hard cap, on rows so hot that they lease blocks. Time is fake, and so are the answers."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from random import Random

from shared.db import calls
from shared.db.calls import Closing
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from tests.chaos.conftest import soaking
from tests.support import tasks
from tests.support.databases import Database

PROCESSES, SLOTS = soaking((16, 4), (64, 1))
WORKERS: int = PROCESSES * SLOTS
CAP = Decimal(soaking(14, 60))
MOST = Decimal("0.01")  # what a call reserves
SECOND = float(WORKERS)  # verdicts in a second of fake time: each worker can have had one
STARVED = 10.0  # seconds of fake time in which a worker with demand settles a call


@dataclass
class Race:
    """What the vendor billed, what nobody knows, and who settled when."""

    database: Database
    dice: Random
    billed: Decimal = Decimal()
    presumed: Decimal = Decimal()
    used_at_first_hold: Decimal | None = None
    verdicts: int = 0
    longest: float = 0.0
    blocks: int = 0
    over: list[Decimal] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Seconds of fake time."""
        return self.verdicts / SECOND

    async def work(self, db: Connection, task: Task) -> None:
        """Make one call after another until the money is gone."""
        # A worker gets about one verdict a second of this clock, so ten refusals are ten seconds; one whose connection
        # stands still while the others go on is not refused.
        settled, refused = self.now, 0
        for n in range(100_000):
            verdict = (await calls.open_call(db, tasks.ask(task, str(n), usd=MOST))).verdict
            self.verdicts += 1
            if self.used_at_first_hold is None:
                self.longest = max(self.longest, min(self.now - settled, refused))
            if verdict == "held":
                self.used_at_first_hold = self.used_at_first_hold or self.billed + self.presumed
                return
            refused += verdict != "open"
            await asyncio.sleep(self.dice.uniform(0, 0.01))
            if verdict == "open":
                await self._end(db, task, str(n))
                settled, refused = self.now, 0

    async def _end(self, db: Connection, task: Task, key: str) -> None:
        if self.dice.random() < 0.02:
            self.presumed += MOST
            end = Closing("lost")
        else:
            cost = MOST * self.dice.randint(50, 100) / 100
            self.billed += cost
            end = Closing("done", tasks.USAGE, cost, response={}, valid=True)
        assert await calls.close_call(db, task.id, key, 1, end)
        if self.billed + self.presumed > CAP:
            self.over.append(self.billed + self.presumed)

    async def pass_time(self, db: Connection) -> None:
        """Let the clock follow the verdicts, keep the rows hot, and return what is due, as every tick does."""
        at = 0.0
        while True:
            await asyncio.sleep(0.02)
            by, at = self.now - at, self.now
            self.database.advance(timedelta(seconds=by))
            self.database.sql("UPDATE backbeat.budgets SET rate = 1000 WHERE rate < 100")
            self.blocks = max(self.blocks, self.database.value("SELECT count(*) FROM backbeat.budget_blocks"))
            await calls.return_expired_blocks(db)


async def test_sixty_four_workers_use_a_hard_cap_up_and_never_pass_it(database: Database, seed: int) -> None:
    race = Race(database, Random(seed))
    async with AsyncExitStack() as stack:
        desks = [await stack.enter_async_context(tasks.worker(database, 1)) for _ in range(PROCESSES)]
        await tasks.add(desks[0], WORKERS)
        running: list[Task] = []
        while len(running) < WORKERS:
            running += await tasks.take(desks[0], WORKERS, lease=1e6)
            await desks[0].rows("SELECT FROM backbeat.sweep()")
        database.sql("SELECT backbeat.set_budget('workflow', 'alpha', %s, NULL, 'test')", [CAP])
        clock = asyncio.create_task(race.pass_time(desks[0]))
        await asyncio.gather(*(race.work(desks[n % PROCESSES], task) for n, task in enumerate(running)))
        clock.cancel()
        await asyncio.gather(clock, return_exceptions=True)
        for db in desks:
            await calls.return_blocks(db)

    print(f"{race.now:.0f} s, {race.blocks} blocks, longest wait {race.longest:.1f} s, used {race.used_at_first_hold}")
    assert race.blocks > 1
    assert race.over == []
    assert race.used_at_first_hold is not None
    assert race.used_at_first_hold >= Decimal("0.95") * CAP
    assert race.longest <= STARVED
    assert tasks.money(database) == (Decimal(), race.billed, race.presumed)
    assert tasks.money(database, "tenant", "default") == tasks.money(database)
