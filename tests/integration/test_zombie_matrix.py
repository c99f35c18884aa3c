"""Every transition under every kind of stale lease: refused, and nothing changes but the zombie's own bill."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import psycopg

from backbeat.operate import actions
from shared.db import calls, effects, queue
from shared.db.calls import Closing
from shared.db.effects import Intent
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Child, Dead, Escalate, FanOut, Hold, Outcome, Release, Retry, Snooze, Succeed
from tests.support import tasks
from tests.support.approvals import escalation
from tests.support.databases import Database

_TOMORROW = datetime.now(UTC) + timedelta(days=1)
OUTCOMES: dict[str, Outcome] = {
    "succeed": Succeed({"by": "zombie"}),
    "retry": Retry("oops", "zombie"),
    "release": Release("stopped"),
    "snooze": Snooze(_TOMORROW),
    "hold": Hold("route", "r", _TOMORROW),
    "dead": Dead("oops", "zombie"),
    "escalate": Escalate("approve_effect", escalation()),
    "fan_out": FanOut([Child("beta", 1, {})]),
}
LOADED = [*tasks.LOADED, "screen@1"]
SCREEN = tasks.definition("screen", tier="rules") | {"bulk": 50}
TABLES = ["simple_tasks", "finished_tasks", "dead_letters", "idempotency", "flows", "estimates", "virtual_time"]
TABLES += ["orchestrated_workflows", "temporal_outbox", "side_effects", "audit_log", "budgets", "model_calls"]
Moment = Callable[[Database, Connection, Task], Awaitable[None]]
Owner = psycopg.Connection[tuple[Any, ...]]
Transition = Callable[[Connection, Task], Awaitable[bool]]


async def _taken(db: Connection, workflow: str, worker: str) -> Task:
    (task,) = await queue.claim(db, worker, LOADED, 1, 60.0, bulk=workflow == "screen")
    return task


async def _lost(database: Database, db: Connection, task: Task) -> None:
    database.advance(timedelta(seconds=61))
    assert await queue.reap(db) == 1
    await queue.sweep(db)


async def _reaped(database: Database, db: Connection, task: Task) -> None:
    await _lost(database, db, task)


async def _claimed_by_another(database: Database, db: Connection, task: Task) -> None:
    await _lost(database, db, task)
    assert (await _taken(db, task.workflow, "B")).id == task.id


async def _claimed_by_itself(database: Database, db: Connection, task: Task) -> None:
    assert await tasks.settle(db, task, Release("stopped"))
    assert (await _taken(db, task.workflow, task.worker)).id == task.id


async def _cancelled(database: Database, db: Connection, task: Task) -> None:
    assert await actions.cancel(tasks.Operator(database), task.id, "a test")


async def _expired(database: Database, db: Connection, task: Task) -> None:
    database.sql("UPDATE backbeat.simple_tasks SET expires_at = backbeat.now() WHERE id = %s", [task.id])
    await _lost(database, db, task)
    status = database.value("SELECT status FROM backbeat.finished_tasks WHERE id = %s", [task.id])
    assert status == "expired"


async def _finished(database: Database, db: Connection, task: Task) -> None:
    assert await tasks.settle(db, task, Succeed({"by": "itself"}))


async def _requeued(database: Database, db: Connection, task: Task) -> None:
    assert await tasks.settle(db, task, Dead("oops", "no"))
    again = "SELECT task_id FROM backbeat.requeue_dead(ARRAY[%s::uuid], false, backbeat.now(), 0, 'test', 'a test')"
    assert database.sql(again, [task.id])
    await _taken(db, task.workflow, "B")


MOMENTS: list[Moment] = [
    *[_reaped, _claimed_by_another, _claimed_by_itself, _cancelled, _expired, _finished, _requeued],
]


async def _heartbeat(db: Connection, task: Task) -> bool:
    return await queue.heartbeat(db, task.worker, [task], 60.0) == {task.id}


async def _open_call(db: Connection, task: Task) -> bool:
    return (await calls.open_call(db, tasks.ask(task, "next"))).verdict == "fenced"


async def _begin_effect(db: Connection, task: Task) -> bool:
    trace = task.traceparent
    intent = Intent(f"note/{task.id}", "note", {}, "h", "task", task.id, task.lease, task.origin_id, trace)
    return (await effects.begin_effect(db, intent, 1.0)).verdict == "fenced"


def _settle(outcome: Outcome) -> Transition:
    async def transition(db: Connection, task: Task) -> bool:
        return await queue.settle(db, [(task, outcome)]) == {task.id}

    return transition


def _turn(outcome: Outcome) -> Transition:
    async def transition(db: Connection, task: Task) -> bool:
        return await queue.turn(db, [(task, outcome)], task.worker, ["nobody@1"], 10, 60.0) == ({task.id}, [])

    return transition


def transitions() -> Iterator[tuple[str, Transition]]:
    """All that a worker may write of a task, by name."""
    yield from {"heartbeat": _heartbeat, "open_call": _open_call, "begin_effect": _begin_effect}.items()
    for name, outcome in OUTCOMES.items():
        yield f"settle {name}", _settle(outcome)
        yield f"turn {name}", _turn(outcome)


@asynccontextmanager
async def _zombie(database: Database, db: Connection, workflow: str, moment: Moment) -> AsyncIterator[tuple[Task, int]]:
    """A task that was taken from its worker in the middle of a call, and the seq of that; cleared up afterwards."""
    (made,) = await tasks.add(db, workflow=workflow)
    zombie = await _taken(db, workflow, "A")
    assert zombie.id == made
    seq = await tasks.opened(db, zombie)
    await moment(database, db, zombie)
    yield zombie, seq
    for (rest,) in database.sql("SELECT id FROM backbeat.simple_tasks"):
        assert await actions.cancel(tasks.Operator(database), rest, "the end")


async def test_a_stale_lease_changes_nothing_of_its_task(database: Database) -> None:
    async with tasks.worker(database) as db:
        await queue.register(db, "A", "cron", [SCREEN, tasks.definition("alpha"), tasks.definition("beta")])
        with psycopg.connect(database.owner_url, autocommit=True) as owner:
            for workflow, moment in product(("alpha", "screen"), MOMENTS):
                async with _zombie(database, db, workflow, moment) as (zombie, seq):
                    before = _state(owner)
                    for name, transition in transitions():
                        what = f"{name} of {workflow}, {moment.__name__}"
                        assert await transition(db, zombie), f"let through: {what}"
                        assert _state(owner) == before, f"changed something: {what}"
                    await _may_close_its_bill(owner, db, zombie, seq)


async def _may_close_its_bill(owner: Owner, db: Connection, zombie: Task, seq: int) -> None:
    rest = [table for table in TABLES if table not in {"budgets", "model_calls"}]
    before, money = _state(owner, rest), _money(owner, zombie)
    assert _bills(owner, zombie) == [("lost", Decimal("0.01"), None)]
    assert await tasks.answered(db, zombie, seq)
    assert _bills(owner, zombie) == [("done", Decimal("0.01"), Decimal("0.004"))]
    # What was presumed of this call is replaced by its bill.
    moved = [now - then for now, then in zip(_money(owner, zombie), money, strict=True)]
    assert moved == [Decimal(), Decimal("0.004"), Decimal("-0.01")]
    settled = _state(owner)
    assert not await tasks.answered(db, zombie, seq, cost="9")
    assert not await calls.close_call(db, zombie.id, "answer", seq, Closing("refused"))
    assert not await calls.close_call(db, zombie.id, "another", 1, Closing("refused"))
    assert _state(owner) == settled
    assert _state(owner, rest) == before


def _bills(owner: Owner, task: Task) -> list[tuple[Any, ...]]:
    query = "SELECT status, reserved_usd, cost_usd FROM backbeat.model_calls WHERE owner = %s"
    return owner.execute(query, [task.id]).fetchall()


def _money(owner: Owner, task: Task) -> tuple[Any, ...]:
    query = """
        SELECT sum(reserved_usd), sum(spent_usd), sum(presumed_usd) FROM backbeat.budgets
        WHERE (scope, key) = ('workflow', %s)"""
    (found,) = owner.execute(query, [task.workflow]).fetchall()
    return found


def _state(owner: Owner, tables: Sequence[str] = TABLES) -> list[tuple[Any, ...]]:
    """Everything there is, as Postgres holds it."""
    rows = " UNION ALL ".join(f"SELECT '{name}', t::text FROM backbeat.{name} t" for name in tables)
    return owner.execute(f"{rows} ORDER BY 1, 2".encode()).fetchall()
