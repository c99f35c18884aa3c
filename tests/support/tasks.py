"""Tasks and calls at the level of the schema's functions, as a worker makes them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from backbeat.producer import rows as producers
from backbeat.producer.rows import Enqueued, Submission
from shared.db import calls, pool, queue
from shared.db.calls import Closing, Reservation
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Outcome
from shared.domain.usage import Usage
from tests.support.databases import Database
from tests.support.signals import until

LOADED = ("alpha@1", "beta@1")
USAGE = Usage(uncached=1000, output=200, reasoning=50)


def definition(name: str, version: int = 1, tier: str = "small", attempts: int = 3) -> dict[str, Any]:
    """What a worker registers of one definition."""
    return {"name": name, "version": version, "tier": tier, "max_attempts": attempts}


@asynccontextmanager
async def worker(database: Database, connections: int = 4, url: str | None = None) -> AsyncIterator[Connection]:
    """A worker's way into the database, or the one of `url`, with `alpha` and `beta` registered."""
    async with pool.connect(url or database.worker_url, max_size=connections) as db:
        await queue.register(db, "first", "cron", [definition("alpha"), definition("beta")])
        yield db


class Operator(Connection):
    """How people who operate get into the database: with a connection a statement."""

    def __init__(self, database: Database) -> None:
        self._url = database.operator_url

    async def rows(self, query: LiteralString, params: Mapping[str, Any] | None = None) -> list[DictRow]:
        async with pool.connect(self._url, max_size=1) as db:
            return await db.rows(query, params)


async def add(db: Connection, count: int = 1, workflow: str = "alpha", **options: Any) -> list[UUID]:
    """Enqueue tasks with payloads {"n": 0}, {"n": 1}, …; their ids."""
    return [one.task_id for one in await submit(db, [{"n": n} for n in range(count)], workflow=workflow, **options)]


async def submit(
    db: Connection, payloads: Sequence[Any], keys: Sequence[bytes | None] | None = None, **options: Any
) -> list[Enqueued]:
    """Enqueue payloads, by default of `alpha` without idempotency keys."""
    given: dict[str, Any] = {"workflow": "alpha", "version": 1} | options
    return await producers.enqueue(db, Submission(payloads=payloads, keys=keys or [None] * len(payloads), **given))


async def take(
    db: Connection, limit: int = 100, *, name: str = "A", loaded: Sequence[str] = LOADED, lease: float = 60.0
) -> list[Task]:
    """Claim."""
    return await queue.claim(db, name, loaded, limit, lease)


async def take_one(db: Connection, **options: Any) -> Task:
    """Claim the only task there is."""
    (task,) = await take(db, **options)
    return task


async def settle(db: Connection, task: Task, outcome: Outcome) -> bool:
    """Settle one attempt; False when it was refused."""
    return not await queue.settle(db, [(task, outcome)])


def ask(task: Task, key: str = "answer", **changed: Any) -> Reservation:
    """A call of this attempt: at most 0.01 USD and 2,000 tokens."""
    base = Reservation(
        owner=task.id,
        lease=task.lease,
        key=key,
        request_hash="h",
        route="r",
        tier="small",
        provider="simulated",
        model="m",
        usd=Decimal("0.01"),
        tokens=2000,
        price_version="p",
    )
    return replace(base, **changed)


async def opened(db: Connection, task: Task, key: str = "answer", **changed: Any) -> int:
    """Open a call and return its seq."""
    verdict = await calls.open_call(db, ask(task, key, **changed))
    assert verdict.verdict == "open"
    return verdict.seq


async def answered(db: Connection, task: Task, seq: int, key: str = "answer", cost: str = "0.004") -> bool:
    """Close a call with its answer and bill."""
    end = Closing("done", usage=USAGE, cost=Decimal(cost), response={"text": "yes"}, valid=True, stop="end")
    return await calls.close_call(db, task.id, key, seq, end)


def money(database: Database, scope: str = "workflow", key: str = "alpha") -> tuple[Decimal, Decimal, Decimal]:
    """(reserved, spent, presumed) of a scope in USD, all days."""
    query = "SELECT coalesce(sum(reserved_usd), 0), coalesce(sum(spent_usd), 0), coalesce(sum(presumed_usd), 0) "
    ((reserved, spent, presumed),) = database.sql(
        query + "FROM backbeat.budgets WHERE (scope, key) = (%s, %s)", [scope, key]
    )
    return reserved, spent, presumed


async def somebody_waits(database: Database) -> None:
    """Wait until a session of this database waits for a lock."""
    await asyncio.to_thread(until, lambda: waiting(database) == 1, what="a session that waits for a lock")


def waiting(database: Database) -> int:
    """How many sessions of this database wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database.admin_url) as admin:
        ((count,),) = admin.execute(query).fetchall()
    return int(count)
