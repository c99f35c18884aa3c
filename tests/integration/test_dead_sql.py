"""Dead letters: what a requeued task takes along, and what it must not do twice."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from backbeat.operate import dead
from backbeat.operate.dead import Filter, Verdict
from shared.db import calls, effects, queue
from shared.db.effects import Intent
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Dead, Succeed
from tests.support import tasks
from tests.support.databases import AUDIT_PROBLEMS, Database

WHY = Verdict("alice", "the vendor is back")
KEY = b"k" * 32
EVERY = Filter()


@pytest.fixture
async def db(database: Database) -> AsyncIterator[Connection]:
    async with tasks.worker(database) as connection:
        yield connection


async def _die(db: Connection, key: bytes | None = None, n: int = 0, error: str = "oops") -> Task:
    await tasks.submit(db, [{"n": n}], [key])
    task = await tasks.take_one(db)
    assert await tasks.settle(db, task, Dead("broken", error))
    return task


async def _requeue(
    database: Database,
    which: Filter = EVERY,
    *,
    newest: bool = False,
    per_minute: float | None = None,
    start: datetime | None = None,
) -> int:
    start = start or database.value("SELECT backbeat.now()")
    found = dead.requeue(tasks.Operator(database), which, WHY, newest=newest, per_minute=per_minute, start=start)
    return sum([made async for _, made in found])


async def test_a_requeued_task_is_a_new_one_with_the_old_ones_place_in_the_world(
    db: Connection, database: Database
) -> None:
    old = await _die(db, KEY)
    assert await _requeue(database) == 1
    new = await tasks.take_one(db)
    assert new.id != old.id
    same = (
        "tenant",
        "workflow",
        "version",
        "class_",
        "payload",
        "origin_id",
        "source_at",
        "idempotency_key",
        "traceparent",
    )
    assert [getattr(new, name) for name in same] == [getattr(old, name) for name in same]
    assert (new.attempts, new.first_id, new.effect_scope) == (1, old.id, old.effect_scope)
    (again,) = await tasks.submit(db, [{"n": 0}], [KEY])
    assert (again.task_id, again.created) == (new.id, False)

    letter = await dead.letter(db, old.id)
    assert (letter["state"], letter["requeued_as"], letter["payload"]) == ("requeued", new.id, None)
    assert (letter["resolved_by"], letter["reason"]) == ("alice", "the vendor is back")
    audit = "SELECT actor, action, subject, detail ->> 'reason' FROM backbeat.audit_log"
    assert database.sql(audit) == [("backbeat_people", "dead.requeued", str(old.id), "the vendor is back")]
    assert database.sql(AUDIT_PROBLEMS) == []


async def test_no_answered_call_is_paid_again(db: Connection, database: Database) -> None:
    await tasks.submit(db, [{"n": 0}])
    old = await tasks.take_one(db)
    await tasks.answered(db, old, await tasks.opened(db, old, "first"), "first")
    await tasks.settle(db, old, Dead("broken", "second"))
    for _ in range(2):
        assert await _requeue(database) == 1
        new = await tasks.take_one(db)
        verdict = await calls.open_call(db, tasks.ask(new, "first"))
        assert (verdict.verdict, verdict.response) == ("memo", {"text": "yes"})
        changed = await calls.open_call(db, tasks.ask(new, "first", request_hash="another"))
        assert changed.verdict == "open"
        await tasks.settle(db, new, Dead("broken", "again"))
    spent = database.value("SELECT sum(cost_usd) FROM backbeat.model_calls")
    assert str(spent) == "0.004"
    assert await _requeue(database) == 1
    await tasks.settle(db, await tasks.take_one(db), Succeed({"n": 1}))
    assert database.value("SELECT count(*) FROM backbeat.model_calls WHERE response IS NOT NULL") == 0


async def test_effects_without_a_key_are_not_repeated_either(db: Connection, database: Database) -> None:
    old = await _die(db)
    key = f"{old.effect_scope}:post"
    for _ in range(2):
        await _requeue(database)
        new = await tasks.take_one(db)
        assert f"{new.effect_scope}:post" == key
        intent = Intent(key, "mail", {}, "h", "task", new.id, new.lease, new.origin_id, new.traceparent)
        verdict = await effects.begin_effect(db, intent, 1.0)
        assert verdict.verdict == ("done" if _ else "fire")
        await effects.finish_effect(db, key, {"id": 7})
        await tasks.settle(db, new, Dead("broken", "later"))


async def test_a_key_that_another_task_took_over_keeps_its_letter(db: Connection, database: Database) -> None:
    old = await _die(db, KEY)
    (heir,) = await tasks.submit(db, [{"n": 0}], [KEY])
    assert heir.created
    assert await _requeue(database) == 0
    task = await tasks.take_one(db)
    assert task.id == heir.task_id
    await tasks.settle(db, task, Dead("broken", "too"))
    # Both are open now; one task comes of them.
    assert await _requeue(database) == 1
    assert (await dead.letter(db, old.id))["state"] == "open"
    assert (await dead.letter(db, heir.task_id))["state"] == "requeued"


async def test_two_who_requeue_the_same_letters_make_one_task_of_each(db: Connection, database: Database) -> None:
    for n in range(20):
        await _die(db, n=n)
    made = await asyncio.gather(_requeue(database), _requeue(database), _requeue(database))
    assert sum(made) == 20
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 20


async def test_at_a_rate(db: Connection, database: Database) -> None:
    for n in range(4):
        await _die(db, n=n)
    start = database.value("SELECT backbeat.now()")
    assert await _requeue(database, per_minute=1, start=start) == 4
    waits = database.sql("SELECT status, run_after - %s FROM backbeat.simple_tasks ORDER BY id", [start])
    assert waits == [("ready", None), *(("delayed", timedelta(minutes=n)) for n in (1, 2, 3))]


async def test_on_the_newest_version(db: Connection, database: Database) -> None:
    first, second = await _die(db), await _die(db, n=1)
    await queue.register(db, "second", "cron", [tasks.definition("alpha", 2, tier="large", attempts=5)])
    await _requeue(database, Filter(ids=[first.id]))
    await _requeue(database, newest=True)
    found = {task.first_id: task for task in await tasks.take(db, loaded=["alpha@1", "alpha@2"])}
    assert [(found[one.id].version, found[one.id].tier, found[one.id].max_attempts) for one in (first, second)] == [
        (1, "small", 3),
        (2, "large", 5),
    ]


async def test_discard_keeps_the_fact_alone(db: Connection, database: Database) -> None:
    await tasks.submit(db, [{"n": 0}])
    old = await tasks.take_one(db)
    await tasks.answered(db, old, await tasks.opened(db, old))
    await tasks.settle(db, old, Dead("broken", "oops"))
    assert [done async for _, done in dead.discard(tasks.Operator(database), Filter(), WHY)] == [1]
    assert await _requeue(database) == 0
    letter = await dead.letter(db, old.id)
    assert (letter["state"], letter["payload"], letter["error"]) == ("discarded", None, "oops")
    assert database.value("SELECT count(*) FROM backbeat.model_calls WHERE response IS NOT NULL") == 0
    assert database.value("SELECT action FROM backbeat.audit_log") == "dead.discarded"


async def test_filters(db: Connection, database: Database) -> None:
    old = await _die(db, error="Timeout at the vendor")
    database.advance(timedelta(hours=2))
    new = await _die(db, n=1, error="100% of it")
    both = {old.id, new.id}
    wanted: list[tuple[Filter, set[UUID]]] = [
        (Filter(), both),
        (Filter(workflow="alpha", version=1, tenant="default", error_class="broken"), both),
        (Filter(workflow="beta"), set()),
        (Filter(version=2), set()),
        (Filter(tenant="nobody"), set()),
        (Filter(error_class="other"), set()),
        (Filter(older=timedelta(hours=1)), {old.id}),
        (Filter(newer=timedelta(hours=1)), {new.id}),
        (Filter(text="timeout"), {old.id}),
        (Filter(text="100%"), {new.id}),
        (Filter(ids=[new.id]), {new.id}),
        (Filter(state="requeued"), set()),
    ]
    for which, found in wanted:
        assert {row["id"] for row in await dead.letters(db, which, 10)} == found, which
        assert sum(row["letters"] for row in await dead.counts(db, which)) == len(found), which


async def test_many_are_done_in_bounded_batches(
    db: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "BATCH", 8)
    await tasks.add(db, 20)
    for task in await tasks.take(db):
        await tasks.settle(db, task, Dead("broken", "x"))
    start = (await db.row("SELECT backbeat.now() AS at"))["at"]
    found = dead.requeue(tasks.Operator(database), Filter(), WHY, newest=False, per_minute=60, start=start)
    assert [progress async for progress in found] == [(8, 8), (8, 8), (4, 4)]
    last = "SELECT max(run_after) - %s FROM backbeat.simple_tasks"
    assert database.value(last, [start]) == timedelta(seconds=19)
