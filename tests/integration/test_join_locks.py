"""Locks around joins, seen by two sessions: who ends children takes joins in order and waits for no workflow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import psycopg
import pytest

from shared.db import orchestrations, queue
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Dead, Outcome, Succeed
from tests.support import tasks
from tests.support.approvals import worker_rows
from tests.support.databases import Database
from tests.support.temporal import eventually

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def db(database: Database) -> AsyncIterator[Connection]:
    async with tasks.worker(database) as connection:
        yield connection


@asynccontextmanager
async def held(database: Database, query: str, *given: object) -> AsyncIterator[None]:
    """Rows that another session has locked for as long as the block lasts."""
    async with await psycopg.AsyncConnection.connect(database.owner_url) as other:
        await other.execute(query.encode(), given)
        yield
        await other.rollback()


def _workflow(database: Database) -> UUID:
    call = "SELECT backbeat.start_workflow('approve_effect', 1, 'default', '{}', NULL, NULL, NULL) AS id"
    found: UUID = worker_rows(database, call)[0]["id"]
    return found


async def _joins(db: Connection, database: Database) -> tuple[list[UUID], list[Task], UUID]:
    """Eight joins of a workflow with a child each, in the order of the joins' ids; the children run."""
    run = _workflow(database)
    for step in "abcdefgh":
        await orchestrations.add_children(db, run, step, 0, ("alpha", 1), [{"step": step}], None, seal=True)
    order = [row[0] for row in database.sql("SELECT id FROM backbeat.joins ORDER BY id")]
    parents = dict(database.sql("SELECT id, parent_id FROM backbeat.simple_tasks"))
    claimed = sorted(await tasks.take(db), key=lambda task: order.index(parents[task.id]))
    return order, claimed, run


def _blocked(database: Database) -> bool:
    # Only a superuser sees what sessions of other logins wait for.
    with psycopg.connect(database.admin_url) as admin:
        (count,) = admin.execute(WAITING).fetchone() or (0,)
    return bool(count)


async def test_who_waits_for_the_first_join_holds_no_other(db: Connection, database: Database) -> None:
    (first, *others), claimed, _ = await _joins(db, database)
    # The other way round: the order is of the function's making.
    ends = [(task, Succeed({"n": 1})) for task in claimed[::-1]]
    # Nor of the table's, in which the first comes last now: an update alone would go that way.
    database.sql("UPDATE backbeat.joins SET failed = failed WHERE id = %s", [first])
    async with held(database, "SELECT FROM backbeat.joins WHERE id = %s FOR UPDATE", first):
        settling = asyncio.create_task(queue.settle(db, ends))
        await eventually(lambda: _blocked(database))
        free = "SELECT count(*) FROM (SELECT FROM backbeat.joins WHERE id = ANY (%s) FOR UPDATE SKIP LOCKED) j"
        assert database.value(free, [others]) == 7
    assert await settling == set()
    assert database.sql("SELECT children_left FROM backbeat.joins") == [(0,)] * 8


async def test_two_that_end_children_of_the_same_joins_count_each_once(db: Connection, database: Database) -> None:
    run = _workflow(database)
    for step in ("a", "b"):
        await orchestrations.add_children(
            db, run, step, 0, ("alpha", 1), [{"s": step, "n": n} for n in range(20)], None, seal=True
        )
    claimed = await tasks.take(db, limit=40)
    assert len(claimed) == 40
    mixed = sorted(claimed, key=lambda task: (task.payload["n"], task.payload["s"]))
    halves: list[list[tuple[Task, Outcome]]] = [
        [(task, Succeed({})) for task in mixed[:20]],
        [(task, Dead("x", "no")) for task in mixed[20:][::-1]],
    ]
    await asyncio.gather(*(queue.settle(db, half) for half in halves))
    assert database.sql("SELECT children_left, failed FROM backbeat.joins") == [(0, 10), (0, 10)]


async def test_who_ends_a_child_waits_for_no_workflow(db: Connection, database: Database) -> None:
    _, claimed, run = await _joins(db, database)
    async with held(database, "SELECT FROM backbeat.orchestrated_workflows WHERE id = %s FOR NO KEY UPDATE", run):
        await asyncio.wait_for(queue.settle(db, [(task, Succeed({})) for task in claimed]), 10)
    woken = "SELECT delivered_at IS NULL FROM backbeat.temporal_outbox WHERE stream = %s AND kind = 'wake'"
    assert database.value(woken, [run])
