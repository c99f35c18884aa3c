"""Locks are taken in one order: eight sessions that do everything at once to few rows never deadlock."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from time import monotonic

from backbeat.operate import actions
from shared.db import calls, effects, pool, queue
from shared.db.calls import Closing
from shared.db.effects import Intent
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Child, Dead, FanOut, Hold, Outcome, Release, Retry, Snooze, Succeed
from tests.chaos.conftest import soaking
from tests.support import tasks
from tests.support.databases import Database

SESSIONS = 8
SECONDS = soaking(5.0, 120.0)
CLASSES = ("urgent", "high", "normal", "low")
TENANTS = ("capped", "default", "other")
LOADED = ("alpha@1", "beta@1")
BULK = ("screen@1", "tally@1")
DEFINITIONS = [
    tasks.definition("alpha"),
    tasks.definition("beta", tier="large"),
    *[tasks.definition(name, tier=tier) | {"bulk": 50} for name, tier in (("screen", "small"), ("tally", "large"))],
]
TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"


class Storm:
    """Random calls of the schema's functions on three tenants, one capped, two tiers and lanes, four classes."""

    def __init__(self, database: Database, db: Connection, desk: Connection, seed: int) -> None:
        self.database, self.db, self.desk, self.dice = database, db, desk, Random(seed)
        self.running: list[Task] = []
        self.done = Counter[str]()

    async def blow(self, until: float) -> None:
        """Do one thing after another."""
        things: list[Callable[[], Awaitable[object]]] = [
            *[self.enqueue, self.claim, self.claim, self.call, self.call, self.settle, self.settle, self.reap],
            *[self.sweep, self.finish, self.cap, self.effect, self.heartbeat, self.register, self.unregister],
            *[self.claim_bulk, self.turn, self.turn, self.pause, self.unpause, self.release, self.requeue],
        ]
        while monotonic() < until or len(self.done) < len(set(things)):
            thing = self.dice.choice(things)
            await thing()
            self.done[thing.__name__] += 1

    async def enqueue(self) -> None:
        count, options = self.dice.randint(1, 4), {"class_": self.dice.choice(CLASSES)}
        keys = [self.dice.choice(KEYS) for _ in range(count)] if self.dice.random() < 0.5 else None
        expires = datetime.now(UTC) + timedelta(seconds=0.2) if self.dice.random() < 0.3 else None
        tenant, workflow = self.dice.choice(TENANTS), self.dice.choice(("alpha", "beta", "screen", "tally"))
        payloads = [{"n": n} for n in range(count)]
        await tasks.submit(self.db, payloads, keys, workflow=workflow, tenant=tenant, expires_at=expires, **options)

    async def claim(self) -> None:
        lease = self.dice.choice((0.02, 30.0))
        self.running += await tasks.take(self.db, self.dice.randint(1, 5), loaded=LOADED, lease=lease)

    async def claim_bulk(self) -> None:
        lease = self.dice.choice((0.02, 30.0))
        self.running += await queue.claim(self.db, "A", BULK, self.dice.randint(1, 9), lease, bulk=True)

    async def turn(self) -> None:
        some, limit = self._some(), self.dice.randint(1, 9)
        ends = [(task, self._outcome()) for task in some]
        _, more = await queue.turn(self.db, ends, "A", BULK, limit, 30.0)
        self.running = [task for task in self.running if task not in some] + more

    async def pause(self) -> None:
        await self.desk.rows("SELECT backbeat.pause(%(scope)s, %(key)s, 'a test', 'test')", self._pausable())

    async def unpause(self) -> None:
        for _ in range(2):
            await self.desk.rows("SELECT backbeat.unpause(%(scope)s, %(key)s, 'test')", self._pausable())

    def _pausable(self) -> dict[str, str]:
        scope, key = self.dice.choice((("tenant", "other"), ("workflow", "alpha"), ("workflow", "screen")))
        return {"scope": scope, "key": key}

    async def release(self) -> None:
        await self.db.rows("SELECT backbeat.release_held('budget', 'workflow/alpha')")

    async def requeue(self) -> None:
        """The letters of one moment, from two sessions perhaps."""
        await self.desk.rows(
            "SELECT backbeat.requeue_dead(ARRAY(SELECT id FROM backbeat.dead_letters WHERE resolved_at IS NULL"
            " ORDER BY id LIMIT 9), true, backbeat.now(), 0, 'test', 'a test')"
        )

    async def call(self) -> None:
        for task in self._some():
            verdict = await calls.open_call(self.db, tasks.ask(task, usd=Decimal("0.001")))
            if verdict.verdict != "open" or self.dice.random() < 0.3:
                continue
            end = Closing("done", tasks.USAGE, Decimal("0.0005"), response={}, valid=True)
            await calls.close_call(self.db, task.id, "answer", verdict.seq, end)

    async def settle(self) -> None:
        some = self._some()
        await queue.settle(self.db, [(task, self._outcome()) for task in some])
        self.running = [task for task in self.running if task not in some]

    def _outcome(self) -> Outcome:
        soon = datetime.now(UTC) + timedelta(milliseconds=50)
        hold = Hold("budget", "workflow/alpha", soon)
        names = self.dice.sample(("alpha", "beta", "screen", "tally"), 2)
        more = FanOut([Child(name, 1, {}) for name in names])
        return self.dice.choice(
            (Succeed({}), Retry("oops", "again"), Release("busy", 0.05), Snooze(soon), hold, Dead("oops", "no"), more)
        )

    async def reap(self) -> None:
        await queue.reap(self.db, 5)

    async def sweep(self) -> None:
        await queue.sweep(self.db, self.dice.randint(1, 20))

    async def finish(self) -> None:
        for task in self._some()[:1]:
            await actions.cancel(self.desk, task.id, "a test")

    async def cap(self) -> None:
        scope = self.dice.choice((("workflow", "alpha"), ("workflow", "beta"), ("tenant", "default")))
        await actions.set_budget(self.desk, *scope, Decimal(self.dice.randint(1, 9)), None, "test")

    async def effect(self) -> None:
        for task in self._some()[:2]:
            intent = Intent(
                f"e{self.dice.randint(1, 3)}", "note", {}, "h", "task", task.id, task.lease, task.origin_id, TRACEPARENT
            )
            await effects.begin_effect(self.db, intent, 0.01)
            await effects.finish_effect(self.db, intent.key, {})

    async def heartbeat(self) -> None:
        await queue.heartbeat(self.db, "A", self._some(), self.dice.choice((0.02, 30.0)))

    async def register(self) -> None:
        await queue.register(self.db, self.dice.choice("AB"), "cron", DEFINITIONS)

    async def unregister(self) -> None:
        """Nobody has a version loaded for a moment, so that a sweep holds its rows."""
        await queue.register(self.db, self.dice.choice("AB"), "cron", [tasks.definition("alpha")])

    def _some(self) -> list[Task]:
        return self.dice.sample(self.running, min(len(self.running), self.dice.randint(1, 6)))


KEYS = [bytes([n]) * 32 for n in range(6)]


async def test_no_order_of_calls_deadlocks(database: Database, seed: int) -> None:
    database.sql("INSERT INTO backbeat.tenants (id, weight) VALUES ('other', 2)")
    database.sql("INSERT INTO backbeat.tenants (id, max_running) VALUES ('capped', 4)")
    async with (
        pool.connect(database.worker_url, max_size=SESSIONS, patience=0.0) as db,
        pool.connect(database.operator_url, max_size=SESSIONS, patience=0.0) as desk,
    ):
        await queue.register(db, "A", "cron", DEFINITIONS)
        storms = [Storm(database, db, desk, seed + n) for n in range(SESSIONS)]
        until = monotonic() + SECONDS
        results = await asyncio.gather(*(storm.blow(until) for storm in storms), return_exceptions=True)
    done = sum((storm.done for storm in storms), Counter[str]())
    print(json.dumps(done))
    assert [repr(error) for error in results if error] == []
    assert min(done.values()) > 3
    assert database.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
