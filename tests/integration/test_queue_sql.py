"""How tasks enter the queue, wait in it and are handed out: migrations/postgres/0002_queue.sql from the outside."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from backbeat.operate import actions
from shared.db import queue
from shared.db.pool import Database as Connection
from shared.db.queries import load
from shared.domain.outcome import Dead, Escalate, Succeed
from shared.errors import InputError, NotFoundError
from shared.ids import span_id, trace_id
from tests.support import every_postgres, tasks
from tests.support.approvals import escalation
from tests.support.databases import Database

pytestmark = every_postgres

K1, K2 = b"1" * 32, b"2" * 32
WINDOW = 64


def _statuses(database: Database) -> Counter[str]:
    return Counter(status for (status,) in database.sql("SELECT status FROM backbeat.simple_tasks"))


def _tenant(database: Database, name: str, weight: float = 1, max_running: int | None = None) -> None:
    insert = "INSERT INTO backbeat.tenants (id, weight, max_running) VALUES (%s, %s, %s)"
    database.sql(insert, [name, weight, max_running])


async def _anything_to_do(db: Connection) -> bool:
    return bool((await db.row(load("queue")["anything_to_do"]))["work"])


# Adding


async def test_a_batch_keeps_its_order(database: Database) -> None:
    async with tasks.worker(database) as db:
        ids = await tasks.add(db, 30)
        assert ids == sorted(ids)
        assert [task.payload["n"] for task in await tasks.take(db)] == list(range(30))


async def test_one_key_is_one_task_while_it_lives_and_after_it_succeeded(database: Database) -> None:
    async with tasks.worker(database) as db:
        first, twin, plain, other = await tasks.submit(db, [{}] * 4, [K1, K1, None, K2])
        assert [one.created for one in (first, twin, plain, other)] == [True, False, True, True]
        assert len({first.task_id, plain.task_id, other.task_id}) == 3
        assert twin.task_id == first.task_id
        for status in ("ready", "succeeded"):
            (again,) = await tasks.submit(db, [{}], [K1])
            assert (again.task_id, again.created, again.status) == (first.task_id, False, status)
            for task in await tasks.take(db):
                await tasks.settle(db, task, Succeed({}))
    assert database.value("SELECT count(*) FROM backbeat.tasks") == 3


@pytest.mark.parametrize("end", ["dead", "cancelled", "expired", "escalated"])
async def test_a_task_that_came_to_nothing_gives_its_key_to_the_next(database: Database, end: str) -> None:
    async with tasks.worker(database) as db:
        expires = datetime.now(UTC) + timedelta(seconds=60) if end == "expired" else None
        (first,) = await tasks.submit(db, [{}], [K1], expires_at=expires)
        if end == "cancelled":
            await actions.cancel(tasks.Operator(database), first.task_id, "a test")
        elif end == "expired":
            database.advance(timedelta(seconds=61))
            await queue.sweep(db)
        else:
            outcome = Dead("oops", "no") if end == "dead" else Escalate("approve_effect", escalation())
            assert await tasks.settle(db, await tasks.take_one(db), outcome)
        (second,) = await tasks.submit(db, [{}], [K1])
        (third,) = await tasks.submit(db, [{}], [K1])
    assert (second.task_id == first.task_id, second.created) == ((True, False) if end == "escalated" else (False, True))
    assert (third.task_id, third.created) == (second.task_id, False)


async def test_a_key_is_its_tenants_own(database: Database) -> None:
    _tenant(database, "other")
    async with tasks.worker(database) as db:
        (mine,) = await tasks.submit(db, [{}], [K1])
        (theirs,) = await tasks.submit(db, [{}], [K1], tenant="other")
    assert theirs.created
    assert theirs.task_id != mine.task_id


async def test_two_who_enqueue_one_key_at_once_get_one_task(database: Database) -> None:
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.worker_url) as rival:
        enqueue = "SELECT task_id FROM backbeat.enqueue('alpha', 1, ARRAY['{}'::jsonb], %s)"
        row = await (await rival.execute(enqueue, [[K1]])).fetchone()
        late = asyncio.create_task(tasks.submit(db, [{}], [K1]))
        await tasks.somebody_waits(database)
        await rival.commit()
        (answer,) = await late
    assert row is not None
    assert (answer.task_id, answer.created) == (row[0], False)


async def test_what_cannot_be_enqueued_is_refused_whole(database: Database) -> None:
    async with tasks.worker(database) as db:
        with pytest.raises(NotFoundError, match="no task nosuch version 1 is registered"):
            await tasks.add(db, workflow="nosuch")
        with pytest.raises(NotFoundError, match="tenant nosuch does not exist"):
            await tasks.add(db, tenant="nosuch")
        with pytest.raises(InputError, match="larger than 1048576 bytes"):
            await tasks.submit(db, [{"n": 1}, {"text": "x" * 1048576}])
        await tasks.submit(db, [{"text": "x" * (1048576 - 12)}])
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 1


async def test_a_task_carries_its_trace_and_its_origin(database: Database) -> None:
    caller = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with tasks.worker(database) as db:
        (alone,) = await tasks.add(db)
        (called,) = await tasks.add(db, traceparent=caller, origin=alone, parent=alone)
    columns = "SELECT id, traceparent, origin_id, parent_id FROM backbeat.simple_tasks"
    assert database.sql(f"{columns} ORDER BY parent_id NULLS FIRST") == [
        (alone, f"00-{trace_id('task', alone)}-{span_id('enqueue', alone)}-01", alone, None),
        (called, f"00-{'ab' * 16}-{span_id('enqueue', called)}-01", alone, alone),
    ]


# Handing out


async def test_a_claim_takes_only_what_is_loaded_up_to_its_limit_each_under_a_new_lease(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 5)
        await tasks.add(db, 5, workflow="beta")
        first = await tasks.take(db, 3, loaded=["beta@1"])
        second = await tasks.take(db, 10, loaded=["beta@1", "alpha@2"])
        assert [task.name for task in first + second] == ["beta@1"] * 5
        assert len({task.lease for task in first + second}) == 5
        assert min(task.lease for task in second) > max(task.lease for task in first)
        assert {(task.attempts, task.worker) for task in first} == {(1, "A")}
        assert await tasks.take(db, 0) == []
        database.sql("SELECT backbeat.throw_switch('all', 'a test', 'tester')")
        assert await tasks.take(db) == []
    assert _statuses(database) == {"ready": 5, "running": 5}


async def test_claimers_side_by_side_get_different_rows(database: Database) -> None:
    claim = "SELECT id FROM backbeat.claim('B', ARRAY['alpha@1'], 4, 60)"
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.worker_url) as rival:
        _tenant(database, "other")
        await tasks.add(db, 4)
        await tasks.add(db, 4, tenant="other")
        taken = [one for (one,) in await (await rival.execute(claim)).fetchall()]
        waiting = asyncio.create_task(tasks.take(db, 4))
        await tasks.somebody_waits(database)
        await rival.commit()
        assert not set(taken) & {task.id for task in await waiting}
    assert _statuses(database) == {"running": 8}


async def test_a_worker_that_comes_while_a_sweep_holds_its_rows_finds_them(database: Database) -> None:
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.worker_url) as rival:
        await tasks.add(db, 2)
        database.sql("UPDATE backbeat.workflows SET seen_at = NULL")
        await rival.execute("SELECT backbeat.sweep()")
        coming = asyncio.create_task(queue.register(db, "late", "cron", [tasks.definition("alpha")]))
        await tasks.somebody_waits(database)
        await rival.commit()
        assert await coming == 2
        await queue.sweep(db)
        assert len(await tasks.take(db)) == 2


async def test_a_flow_keeps_a_window_ready_and_fills_it_as_attempts_end(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, WINDOW + 20)
        assert _statuses(database) == {"ready": WINDOW, "pending": 20}
        (task, *_) = await tasks.take(db, 10)
        assert _statuses(database) == {"ready": WINDOW - 10, "running": 10, "pending": 20}
        await tasks.settle(db, task, Succeed({}))
        assert _statuses(database) == {"ready": WINDOW, "running": 9, "pending": 10}
        assert (await queue.sweep(db))["promoted"] == 0
    assert database.sql("SELECT ready, running FROM backbeat.flows") == [(WINDOW, 9)]


async def test_a_tenants_cap_bounds_what_is_ready_and_running(database: Database) -> None:
    _tenant(database, "small", max_running=3)
    async with tasks.worker(database) as db:
        await tasks.add(db, 10, tenant="small")
        assert _statuses(database) == {"ready": 3, "pending": 7}
        (task, *_) = await tasks.take(db)
        await queue.sweep(db)
        assert _statuses(database) == {"running": 3, "pending": 7}
        await tasks.settle(db, task, Succeed({}))
        assert _statuses(database) == {"running": 2, "ready": 1, "pending": 6}


async def test_tenants_take_turns_and_weights_count(database: Database) -> None:
    _tenant(database, "equal")
    _tenant(database, "heavy", weight=3)
    async with tasks.worker(database) as db:
        for tenant in ("default", "equal", "heavy"):
            await tasks.add(db, 60, tenant=tenant)
        served = Counter(task.tenant for task in await tasks.take(db, 50))
    assert served == {"default": 10, "equal": 10, "heavy": 30}


async def test_classes_are_weights_and_nothing_starves(database: Database) -> None:
    async with tasks.worker(database) as db:
        for class_ in ("low", "normal", "high"):
            await tasks.add(db, 60, class_=class_)
        served = Counter(task.class_ for task in await tasks.take(db, 35))
    assert served == {"high": 20, "normal": 10, "low": 5}


async def test_tiers_are_served_in_turn(database: Database) -> None:
    async with tasks.worker(database) as db:
        await queue.register(db, "first", "cron", [tasks.definition("beta", tier="large")])
        await tasks.add(db, 20)
        await tasks.add(db, 20, workflow="beta")
        assert Counter(task.tier for task in await tasks.take(db, 10)) == {"small": 5, "large": 5}


async def test_a_newcomer_neither_waits_for_the_backlog_nor_is_paid_back_for_the_past(database: Database) -> None:
    _tenant(database, "late")
    async with tasks.worker(database) as db:
        await tasks.add(db, 60)
        for task in await tasks.take(db, 40):
            await tasks.settle(db, task, Succeed({}))
        await tasks.add(db, 20, tenant="late")
        served = Counter(task.tenant for task in await tasks.take(db, 20))
    assert abs(served["late"] - served["default"]) <= 2


async def test_a_dear_flow_gets_fewer_starts_so_that_costs_are_equal(database: Database) -> None:
    """One tenant's tasks take ten calls, the other's one. Windows are small: what is in them is served as stamped."""
    _tenant(database, "dear", max_running=4)
    database.sql("UPDATE backbeat.tenants SET max_running = 4")
    calls_of, cost = {"default": 1, "dear": 10}, Counter[str]()
    async with tasks.worker(database) as db:
        for tenant in calls_of:
            await tasks.add(db, 64, tenant=tenant)
        for _ in range(70):
            task = await tasks.take_one(db, limit=1)
            for n in range(calls_of[task.tenant]):
                await tasks.answered(db, task, await tasks.opened(db, task, f"c{n}"), f"c{n}")
            await tasks.settle(db, task, Succeed({}))
            cost[task.tenant] += 1000 + 1200 * calls_of[task.tenant]
    assert 0.75 < cost["dear"] / cost["default"] < 1.35


# What time alone moves


async def test_rows_that_fall_due_go_to_the_front_of_their_flow(database: Database) -> None:
    async with tasks.worker(database) as db:
        soon = datetime.now(UTC) + timedelta(minutes=5)
        due = await tasks.add(db, run_after=soon)
        assert not await _anything_to_do(db)
        await tasks.add(db, WINDOW + 1)
        due += await tasks.add(db, run_after=soon)
        assert (await queue.sweep(db))["due"] == 0
        database.advance(timedelta(minutes=6))
        assert await _anything_to_do(db)
        assert (await queue.sweep(db))["due"] == 2
        for task in await tasks.take(db, 2):
            await tasks.settle(db, task, Succeed({}))
        ready = "SELECT count(*) FROM backbeat.simple_tasks WHERE status = 'ready' AND id = ANY (%s)"
        assert database.value(ready, [due]) == 2


async def test_rows_expire_unless_they_run(database: Database) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    async with tasks.worker(database) as db:
        await tasks.add(db, expires_at=soon)
        running = await tasks.take_one(db)
        (ready,) = await tasks.add(db, expires_at=soon)
        (delayed,) = await tasks.add(db, expires_at=soon, run_after=soon + timedelta(minutes=1))
        database.advance(timedelta(seconds=31))
        assert (await queue.sweep(db))["expired"] == 2
        assert await tasks.settle(db, running, Succeed({}))
    ended = dict(database.sql("SELECT id, status FROM backbeat.finished_tasks"))
    assert ended == {running.id: "succeeded", ready: "expired", delayed: "expired"}
    assert database.sql("SELECT ready, running FROM backbeat.flows") == [(0, 0)]


async def test_a_version_nobody_has_loaded_is_held_until_somebody_has(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 3)
        assert (await queue.sweep(db))["unloaded"] == 0
        database.advance(timedelta(minutes=11))
        await queue.register(db, "second", "cron", [tasks.definition("beta")])
        assert (await queue.sweep(db))["unloaded"] == 3
        held = database.sql("SELECT status, hold_reason, hold_key, attempts FROM backbeat.simple_tasks")
        assert held == [("held", "version", "alpha@1", 0)] * 3
        assert await queue.register(db, "third", "cron", [tasks.definition("alpha")]) == 3
        await queue.sweep(db)
        assert len(await tasks.take(db)) == 3


async def test_a_sweep_is_bounded(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 10, run_after=datetime.now(UTC) + timedelta(minutes=5))
        database.advance(timedelta(minutes=6))
        assert [(await queue.sweep(db, 4))["due"] for _ in range(4)] == [4, 4, 2, 0]


async def test_days_are_opened_ahead_and_a_task_ends_in_the_day_it_was_made(database: Database) -> None:
    database.value("SELECT backbeat.maintain_partitions()")  # midnight may have passed since the database was made
    assert database.value("SELECT backbeat.maintain_partitions()") == 0
    async with tasks.worker(database) as db:
        await tasks.add(db)
        database.advance(timedelta(days=3))
        assert database.value("SELECT backbeat.maintain_partitions()") == 3
        await tasks.add(db)
        for task in await tasks.take(db):
            await tasks.settle(db, task, Succeed({}))
    day = "'backbeat.finished_tasks_' || to_char(created_at AT TIME ZONE 'UTC', 'YYYYMMDD')"
    found = database.sql(f"SELECT tableoid::regclass::text, {day} FROM backbeat.finished_tasks")
    assert len(set(found)) == 2
    assert all(partition == wanted for partition, wanted in found)


def test_time_is_read_from_our_clock_alone(database: Database) -> None:
    """A bare now() is PostgreSQL's own, which comes first on every search path."""
    bare = r"'(^|[^.\w])(now|clock_timestamp)\(\)'"
    functions = f"SELECT proname FROM pg_proc WHERE pronamespace = 'backbeat'::regnamespace AND prosrc ~ {bare}"
    assert database.sql(functions) == []
