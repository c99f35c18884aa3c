"""How attempts end: settle, reap and cancel, what each leaves behind, and holds that are lifted."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import psycopg
import pytest
from psycopg.types.json import Jsonb

from backbeat.operate import actions
from shared.db import calls, effects, queue
from shared.db.effects import Intent
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Dead, Escalate, Hold, Outcome, Release, Retry, Snooze, Succeed
from tests.support import every_postgres, tasks
from tests.support.approvals import escalation
from tests.support.databases import Database

pytestmark = every_postgres

LATER = datetime.now(UTC) + timedelta(hours=1)
LIVE = """
    SELECT status, attempts, releases, rank, hold_reason, hold_key, run_after > backbeat.now()
    FROM backbeat.simple_tasks"""
OUTCOMES: dict[str, tuple[Outcome, tuple[object, ...]]] = {
    "retry": (Retry("oops", "again"), ("ready", 1, 0, 0, None, None, False)),
    "retry later": (Retry("oops", "again", after=60.0), ("delayed", 1, 0, 0, None, None, True)),
    "release": (Release("busy"), ("ready", 0, 1, 0, None, None, False)),
    "release later": (Release("busy", after=60.0), ("delayed", 0, 1, 0, None, None, True)),
    "snooze": (Snooze(LATER), ("delayed", 0, 0, 0, None, None, True)),
    "snooze till now": (Snooze(datetime.now(UTC)), ("ready", 0, 0, 0, None, None, False)),
    "hold": (Hold("effect", "k"), ("held", 0, 0, 0, "effect", "k", None)),
    "hold until": (Hold("route", "r", LATER), ("held", 0, 0, 0, "route", "r", True)),
}
ENDS: dict[str, tuple[Outcome, tuple[object, ...]]] = {
    "succeed": (Succeed({"a": 1}), ("succeeded", {"a": 1}, None, None, 1)),
    "dead": (Dead("bad", "no"), ("dead", None, "bad", "no", 1)),
    "escalate": (Escalate("approve_effect", escalation(), {"a": 1}), ("escalated", {"a": 1}, None, None, 1)),
}


@pytest.mark.parametrize(("outcome", "row"), OUTCOMES.values(), ids=OUTCOMES)
async def test_an_attempt_that_is_not_the_last(database: Database, outcome: Outcome, row: tuple[object, ...]) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        assert await tasks.settle(db, task, outcome)
    assert database.sql(LIVE) == [row]
    assert database.sql("SELECT lease_until, worker, started_at FROM backbeat.simple_tasks") == [(None, None, None)]
    history = database.value("SELECT history FROM backbeat.simple_tasks")
    told = [(entry["lease"], entry["worker"], entry["outcome"]) for entry in history]
    # A snooze may come a thousand times, and is not written down.
    assert told == ([] if isinstance(outcome, Snooze) else [(task.lease, "A", type(outcome).__name__.lower())])
    assert all(entry["started_at"] <= entry["ended_at"] for entry in history)
    assert _counters(database) == (int(row[0] == "ready"), 0)


@pytest.mark.parametrize(("outcome", "row"), ENDS.values(), ids=ENDS)
async def test_an_attempt_that_ends_its_task(database: Database, outcome: Outcome, row: tuple[object, ...]) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        assert await tasks.settle(db, task, outcome)
        assert not await tasks.settle(db, task, outcome)
    assert database.sql("SELECT count(*) FROM backbeat.simple_tasks") == [(0,)]
    ended = "SELECT status, result, error_class, error, attempts FROM backbeat.finished_tasks"
    assert database.sql(ended) == [row]
    dead = [(task.id, "bad", "no", {"n": 0})] if row[0] == "dead" else []
    assert database.sql("SELECT id, error_class, error, payload FROM backbeat.dead_letters") == dead
    workflows = database.sql("SELECT id, parent_task FROM backbeat.orchestrated_workflows")
    named = database.value("SELECT workflow_id FROM backbeat.finished_tasks")
    assert workflows == ([(named, task.id)] if row[0] == "escalated" else [])
    assert _counters(database) == (0, 0)


def _counters(database: Database) -> tuple[int, int]:
    """What the only flow says is ready and running."""
    ((ready, running),) = database.sql("SELECT ready, running FROM backbeat.flows")
    return ready, running


async def test_retries_end_in_the_dead_letters_with_their_history(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        for n in range(3):
            await tasks.settle(db, await tasks.take_one(db), Retry("oops", f"failure {n}"))
        assert await tasks.take(db) == []
    assert database.sql("SELECT error_class, error, attempts FROM backbeat.dead_letters") == [("oops", "failure 2", 3)]
    history = database.value("SELECT history FROM backbeat.finished_tasks")
    assert [(entry["outcome"], entry["error"]) for entry in history] == [("retry", f"failure {n}") for n in range(3)]
    assert len({entry["lease"] for entry in history}) == 3


async def test_free_releases_are_bounded_and_snoozes_are_not(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        for _ in range(25):
            await tasks.settle(db, await tasks.take_one(db), Snooze(datetime.now(UTC)))
        for reason in [*["out_of_time", "cut_off"] * 15, *["busy"] * 21]:
            await tasks.settle(db, await tasks.take_one(db), Release(reason))
            database.advance(timedelta(seconds=901))
            await queue.register(db, "first", "cron", [tasks.definition("alpha")])
            await queue.sweep(db)
    assert database.sql("SELECT error_class, error FROM backbeat.dead_letters") == [("released_too_often", "busy")]


async def test_a_finished_task_carries_its_bill_and_drops_its_answers(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        for key, cost in (("one", "0.004"), ("two", "0.0051")):
            await tasks.answered(db, task, await tasks.opened(db, task, key), key, cost)
        await tasks.opened(db, task, "three")
        await tasks.settle(db, task, Succeed({}))
    bill = database.sql("SELECT calls, input_tokens, output_tokens, cost_usd FROM backbeat.finished_tasks")
    assert bill == [(2, 2000, 400, Decimal("0.0091"))]
    rows = database.sql("SELECT call_key, status, response, uncached FROM backbeat.model_calls ORDER BY call_key")
    assert rows == [("one", "done", None, 1000), ("three", "lost", None, None), ("two", "done", None, 1000)]


async def test_one_unknown_price_makes_the_bill_unknown(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        await tasks.answered(db, task, await tasks.opened(db, task))
        seq = await tasks.opened(db, task, "unpriced", usd=None)
        await calls.close_call(db, task.id, "unpriced", seq, calls.Closing("done", usage=tasks.USAGE))
        await tasks.settle(db, task, Succeed({}))
    assert database.value("SELECT cost_usd FROM backbeat.finished_tasks") is None
    assert database.value("SELECT unpriced_calls FROM backbeat.budgets WHERE scope = 'workflow'") == 1


async def test_cancel_takes_even_a_running_task_and_stops_its_worker(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        await tasks.opened(db, task)
        assert await actions.cancel(tasks.Operator(database), task.id, "changed my mind")
        assert not await actions.cancel(tasks.Operator(database), task.id, "again")
        assert await queue.heartbeat(db, "A", [task], 60.0) == {task.id}
        assert not await tasks.settle(db, task, Succeed({}))
    ended = database.sql("SELECT status, error, history -> 0 ->> 'outcome' FROM backbeat.finished_tasks")
    assert ended == [("cancelled", "changed my mind", "cancelled")]
    assert database.sql("SELECT status FROM backbeat.model_calls") == [("lost",)]
    assert database.sql("SELECT * FROM backbeat.dead_letters") == []
    assert _counters(database) == (0, 0)


async def test_a_lost_run_counts_and_its_last_attempt_runs_alone(database: Database) -> None:
    async with tasks.worker(database) as db:
        (suspect,) = await tasks.add(db)
        for attempt in (1, 2):
            task = await tasks.take_one(db)
            assert (task.attempts, task.alone) == (attempt, False)
            database.advance(timedelta(seconds=61))
            assert await queue.reap(db) == 1
            await queue.sweep(db)
        others = await tasks.add(db, 2)
        assert {task.id for task in await queue.claim(db, "A", tasks.LOADED, 1, 60.0, idle=False)} <= set(others)
        last = await tasks.take_one(db, limit=5)
        assert (last.id, last.attempts, last.alone) == (suspect, 3, True)
        database.advance(timedelta(seconds=61))
        assert await queue.reap(db) == 2
    ((error, attempts),) = database.sql("SELECT error, attempts FROM backbeat.dead_letters")
    assert (error, attempts) == ("worker A stopped renewing its lease; 3 of 3 attempts", 3)


async def test_a_heartbeat_keeps_a_run_and_reaping_names_its_leases(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 3)
        kept, told, untold = await tasks.take(db)
        database.advance(timedelta(seconds=50))
        assert await queue.heartbeat(db, "A", [kept], 60.0) == set()
        database.advance(timedelta(seconds=11))
        assert [run["lease"] for run in await queue.expired_leases(db)] == [told.lease, untold.lease]
        assert await queue.reap(db, 100, [told.lease]) == 1
        assert await queue.reap(db) == 1
    assert Counter(database.sql("SELECT status FROM backbeat.simple_tasks")) == {("running",): 1, ("pending",): 2}


async def test_counters_return_to_zero_whatever_happened(database: Database) -> None:
    dice = Random(7)
    async with tasks.worker(database) as db:
        for class_ in ("high", "normal", "low"):
            await tasks.add(db, 40, class_=class_)
        while database.value("SELECT count(*) FROM backbeat.simple_tasks"):
            if not (taken := await tasks.take(db, dice.randint(1, 30))):
                database.advance(timedelta(seconds=901))
                await queue.sweep(db)
            choices = (Succeed({}), Retry("oops", "x"), Release("busy"), Dead("bad", "x"), Snooze(datetime.now(UTC)))
            await queue.settle(db, [(task, dice.choice(choices)) for task in taken])
    assert database.value("SELECT count(*) FROM backbeat.finished_tasks") == 120
    assert database.sql("SELECT DISTINCT ready, running FROM backbeat.flows") == [(0, 0)]


async def test_one_batch_settles_many_and_reports_the_refused(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 5)
        taken = await tasks.take(db)
        await actions.cancel(tasks.Operator(database), taken[2].id, "a test")
        assert await queue.settle(db, [(task, Succeed({})) for task in taken]) == {taken[2].id}
    assert database.value("SELECT count(*) FROM backbeat.finished_tasks WHERE status = 'succeeded'") == 4


# A hold whose cause is lifted while it is being written


async def _held_task(database: Database, db: Connection) -> Task:
    await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal("0.001"), None, "test")
    await tasks.add(db)
    task = await tasks.take_one(db)
    assert (await calls.open_call(db, tasks.ask(task))).verdict == "held"
    return task


HOLD = Hold("budget", "workflow/alpha", LATER)
RAISE = "SELECT backbeat.set_budget('workflow', 'alpha', 5, NULL, 'test')"


async def test_a_budget_raised_before_the_hold_is_written_holds_nobody(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _held_task(database, db)
        await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal(5), None, "test")
        await tasks.settle(db, task, HOLD)
    assert database.sql(LIVE) == [("ready", 0, 0, 0, None, None, False)]


async def test_a_budget_raised_while_the_hold_is_written_holds_nobody(database: Database) -> None:
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.operator_url) as person:
        task = await _held_task(database, db)
        await person.execute(RAISE)
        settling = asyncio.create_task(tasks.settle(db, task, HOLD))
        await tasks.somebody_waits(database)
        await person.commit()
        assert await settling
    assert database.sql(LIVE) == [("ready", 0, 0, 0, None, None, False)]


async def test_a_budget_raised_right_after_the_hold_lifts_it(database: Database) -> None:
    row = {"outcome": "hold", "reason": HOLD.reason, "key": HOLD.key, "until": LATER.isoformat()}
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.worker_url) as settler:
        task = await _held_task(database, db)
        rows = Jsonb([{"id": str(task.id), "lease": task.lease, **row}])
        await settler.execute("SELECT backbeat.settle(%s)", [rows])
        raising = asyncio.create_task(
            actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal(5), None, "test")
        )
        await tasks.somebody_waits(database)
        await settler.commit()
        assert await raising == 1
    assert database.value("SELECT status FROM backbeat.simple_tasks") == "pending"


async def test_a_budget_that_still_stands_holds(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _held_task(database, db)
        await tasks.settle(db, task, HOLD)
        assert database.sql(LIVE) == [("held", 0, 0, 0, "budget", "workflow/alpha", True)]
        assert await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal(5), None, "test") == 1
        await queue.sweep(db)
        assert (await tasks.take_one(db)).id == task.id


async def test_lifting_a_cap_frees_what_waited_for_a_price(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _held_task(database, db)
        assert (await calls.open_call(db, tasks.ask(task, usd=None))).verdict == "unpriced"
        await tasks.settle(db, task, Hold("price", "some-model under workflow/alpha"))
        assert database.value("SELECT status FROM backbeat.simple_tasks") == "held"
        assert await actions.set_budget(tasks.Operator(database), "workflow", "alpha", None, None, "test") == 1


@pytest.mark.parametrize("resolved", [False, True])
async def test_an_unknown_effect_holds_its_task_until_somebody_resolves_it(database: Database, resolved: bool) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        intent = Intent("k", "note", {}, "h", "task", task.id, task.lease, task.origin_id, task.traceparent)
        assert [(await effects.begin_effect(db, intent, 0.0)).verdict for _ in range(2)] == ["fire", "look"]
        desk = tasks.Operator(database)
        if resolved:
            await actions.resolve_effect(desk, "k", {}, "", "alice")
        await tasks.settle(db, task, Hold("effect", "k"))
        assert database.value("SELECT status FROM backbeat.simple_tasks") == ("ready" if resolved else "held")
        if not resolved:
            await actions.resolve_effect(desk, "k", {}, "", "alice")
            await queue.sweep(db)
            assert (await tasks.take_one(db)).id == task.id
