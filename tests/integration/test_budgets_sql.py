"""Budgets of every scope, hard and soft: batches, blocks of hot rows, overruns, and lost calls that are reconciled."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from backbeat.operate import actions
from shared.db import calls
from shared.db.calls import Closing
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from tests.support import every_postgres, tasks
from tests.support.databases import Database

pytestmark = every_postgres
CENT = Decimal("0.01")


async def _verdict(db: Connection, task: Task, key: str, **changed: Any) -> str:
    return (await calls.open_call(db, tasks.ask(task, key, **changed))).verdict


async def _running(db: Connection, count: int = 1) -> list[Task]:
    await tasks.add(db, count)
    return await tasks.take(db)


def _limit(database: Database, usd: str | None, tokens: int | None = None) -> None:
    """What the definition of alpha lets one task use."""
    database.sql("UPDATE backbeat.workflows SET max_usd = %s, max_tokens = %s WHERE name = 'alpha'", [usd, tokens])


async def test_a_task_over_what_its_definition_grants_is_told_so(database: Database) -> None:
    async with tasks.worker(database) as db:
        _limit(database, "0.025")
        one, other = await _running(db, 2)
        assert [await _verdict(db, one, key) for key in "abc"] == ["open", "open", "snooze"]
        assert await tasks.answered(db, one, 1, "a", cost="0.010")
        assert await tasks.answered(db, one, 1, "b", cost="0.006")
        over = await calls.open_call(db, tasks.ask(one, "c"))
        assert (over.verdict, over.until) == ("over", None)
        said = f"task/{one.id} may use 0.025 USD and any tokens; 0.016 USD and 2400 tokens are spent"
        assert over.detail == f"{said}, 0 and 0 presumed spent, and call c may take 0.01 and 2000"
        assert await _verdict(db, other, "a") == "open"
        await actions.set_budget(tasks.Operator(database), "task", "alpha", Decimal(1), 4399, "test")
        assert await _verdict(db, one, "c") == "over"
        await actions.set_budget(tasks.Operator(database), "task", "alpha", Decimal(1), None, "test")
        assert await _verdict(db, one, "c") == "open"
    assert tasks.money(database, "task", str(one.id)) == (CENT, Decimal("0.016"), Decimal())


async def test_a_lost_call_counts_against_its_task_until_a_person_says_better(database: Database) -> None:
    async with tasks.worker(database) as db:
        _limit(database, None, 3000)
        (task,) = await _running(db)
        seq = await tasks.opened(db, task, "a")
        assert await calls.close_call(db, task.id, "a", seq, Closing("lost"))
        assert await _verdict(db, task, "b") == "over"
        assert await actions.reconcile(tasks.Operator(database), task.id, "a", seq, Decimal("0.002"), 100, "alice")
        assert not await actions.reconcile(tasks.Operator(database), task.id, "a", seq, Decimal(0), 0, "alice")
        assert await _verdict(db, task, "b") == "open"
        assert await calls.close_call(db, task.id, "b", 1, Closing("lost"))
        assert await actions.reconcile(tasks.Operator(database), task.id, "b", 1, Decimal(0), 0, "alice")
    assert database.sql("SELECT status, cost_usd, uncached FROM backbeat.model_calls ORDER BY call_key") == [
        ("done", Decimal("0.002"), 100),
        ("refused", Decimal(), 0),
    ]
    assert tasks.money(database) == (Decimal(), Decimal("0.002"), Decimal())
    audited = database.sql(
        "SELECT detail ->> 'by', subject, detail ->> 'presumed_usd' FROM backbeat.audit_log ORDER BY id"
    )
    assert audited == [("alice", f"{task.id}/{key}#1", "0.01") for key in "ab"]


async def test_steps_of_an_agent_and_children_share_what_those_above_them_may_use(database: Database) -> None:
    async with tasks.worker(database) as db:
        agent = uuid4()
        await actions.set_budget(tasks.Operator(database), "agent", "alpha", Decimal("0.035"), None, "test")
        parent, child, grandchild = await _running(db, 3)
        link = "UPDATE backbeat.simple_tasks SET parent_id = %s WHERE id = %s"
        database.sql("UPDATE backbeat.simple_tasks SET agent_id = %s WHERE id = %s", [agent, parent.id])
        database.sql(link, [parent.id, child.id])
        database.sql(link, [child.id, grandchild.id])
        assert [await _verdict(db, one, "a") for one in (parent, child)] == ["open", "open"]
        assert await actions.cancel(tasks.Operator(database), child.id, "a test")
        assert await tasks.answered(db, parent, 1, "a", cost="0.01")
        refused = await calls.open_call(db, tasks.ask(grandchild, "a", usd=Decimal("0.02")))
        assert (refused.verdict, refused.detail.partition(" ")[0]) == ("over", f"agent/{agent}")
        assert await _verdict(db, grandchild, "a") == "open"
    assert tasks.money(database, "agent", str(agent)) == (CENT, CENT, CENT)


async def test_a_soft_cap_reserves_what_is_likely(database: Database) -> None:
    async with tasks.worker(database) as db:
        (task,) = await _running(db)
        await actions.set_budget(
            tasks.Operator(database), "workflow", "alpha", Decimal("0.011"), None, "test", soft=True
        )
        likely = {"likely_usd": Decimal("0.005"), "likely_tokens": 700}
        assert [await _verdict(db, task, key, **likely) for key in "abc"] == ["open", "open", "snooze"]
        assert tasks.money(database)[0] == CENT
        assert tasks.money(database, "tenant", "default")[0] == 2 * CENT
        # A change between soft and hard waits until nothing is reserved.
        await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal("0.025"), None, "test")
        assert [await _verdict(db, task, key, **likely) for key in "cdef"] == ["open", "open", "open", "snooze"]
        for key in "abcde":
            assert await tasks.answered(db, task, 1, key, cost="0.001")
        await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal("0.025"), None, "test")
        assert [await _verdict(db, task, key, **likely) for key in "gh"] == ["open", "open"]
        assert await calls.close_call(db, task.id, "h", 1, Closing("lost"))
    assert tasks.money(database) == (CENT, Decimal("0.005"), CENT)


async def test_what_is_likely_is_learned_from_the_calls_of_a_workflow_and_route(database: Database) -> None:
    async with tasks.worker(database) as db:
        (task,) = await _running(db)
        for n in range(20):
            assert await calls.likely_shares(db) == {}
            cost = "0.009" if n == 0 else "0.002"
            await tasks.answered(db, task, await tasks.opened(db, task, str(n)), str(n), cost=cost)
        usd, tokens = (await calls.likely_shares(db))["alpha", "r"]
        assert Decimal("0.2") <= usd < Decimal("0.9")
        assert tokens == Decimal("0.6")


async def test_calls_that_meet_are_one_batch_and_each_has_its_verdict(database: Database) -> None:
    async with tasks.worker(database) as db:
        several = await _running(db, 5)
        await actions.set_budget(tasks.Operator(database), "tenant", "default", Decimal("0.035"), None, "test")
        asks = [tasks.ask(task) for task in several] + [tasks.ask(several[0], lease=0), tasks.ask(several[1], "x" * 9)]
        verdicts = await asyncio.gather(*(calls.open_call(db, ask) for ask in asks))
        assert [one.verdict for one in verdicts] == ["open", *["open"] * 2, *["snooze"] * 2, "fenced", "snooze"]
        assert database.value("SELECT count(DISTINCT xmin::text) FROM backbeat.model_calls") == 1
        closed = await asyncio.gather(*(tasks.answered(db, task, 1) for task in several))
        assert closed == [True, True, True, False, False]
    assert tasks.money(database, "tenant", "default") == (Decimal(), Decimal("0.012"), Decimal())


async def test_one_bad_call_fails_none_of_its_batch(database: Database) -> None:
    async with tasks.worker(database) as db:
        (task,) = await _running(db)
        asks = [tasks.ask(task, "a"), tasks.ask(task, "b"), tasks.ask(task, ""), tasks.ask(task, "c")]
        answers = await asyncio.gather(*(calls.open_call(db, ask) for ask in asks), return_exceptions=True)
        assert [getattr(one, "verdict", "an error") for one in answers] == ["open", "open", "an error", "open"]


async def test_a_bill_above_its_reservation_is_in_the_audit_log(database: Database) -> None:
    async with tasks.worker(database) as db:
        (task,) = await _running(db)
        await tasks.answered(db, task, await tasks.opened(db, task), cost="0.013")
        await tasks.answered(db, task, await tasks.opened(db, task, "other", route="another"), "other", cost="0.010")
    audited = database.sql("SELECT action, subject, (detail ->> 'cost_usd')::numeric FROM backbeat.audit_log")
    assert audited == [("budget.overrun", f"{task.id}/answer#1", Decimal("0.013"))]
    assert database.value("SELECT overrun_usd FROM backbeat.budgets WHERE scope = 'tenant'") == Decimal("0.003")


# Blocks of hot rows


def _heat(database: Database) -> None:
    """As if more calls a second went through these rows than they can take."""
    database.sql("UPDATE backbeat.budgets SET rate = 1000")


def _blocks(database: Database) -> list[tuple[Any, ...]]:
    return database.sql("SELECT usd, left_usd, left_tokens FROM backbeat.budget_blocks")


def _versions(database: Database) -> list[tuple[Any, ...]]:
    return database.sql("SELECT xmin::text FROM backbeat.budgets WHERE scope IN ('workflow', 'tenant') ORDER BY id")


async def _hot(database: Database, db: Connection, cap: str = "6.40") -> Task:
    """A task whose next call goes on a block of a 64th of what is left."""
    (task,) = await _running(db)
    await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal(cap), None, "test")
    await tasks.opened(db, task, "cold")
    _heat(database)
    await tasks.opened(db, task, "hot")
    return task


async def test_calls_on_a_block_leave_the_hot_rows_alone(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _hot(database, db)
        ((usd, left, tokens),) = _blocks(database)
        assert usd == left == Decimal("6.38") / 64
        assert tokens is None
        database.sql("UPDATE backbeat.budget_blocks SET leased_until = leased_until + interval '1 hour'")
        before = _versions(database)
        for n in range(3):
            await tasks.answered(db, task, await tasks.opened(db, task, str(n)), str(n))
        await tasks.opened(db, task, "open")
        await calls.close_call(db, task.id, "open", 1, Closing("lost"))
        await tasks.opened(db, task, "last")
        assert _versions(database) == before
        assert _blocks(database)[0][1] == usd - Decimal("0.012") - 2 * CENT
        assert tasks.money(database) == (2 * CENT + usd, Decimal(), Decimal())
        await calls.return_blocks(db)
        assert tasks.money(database) == (3 * CENT, Decimal("0.012"), CENT)
        # Those that were open on the block close on the rows.
        for key in ("cold", "hot", "last", "open"):
            assert await tasks.answered(db, task, 1, key)
    assert tasks.money(database) == (Decimal(), Decimal("0.028"), Decimal())
    assert tasks.money(database, "tenant", "default") == tasks.money(database)
    assert database.sql("SELECT calls, overrun_usd FROM backbeat.budgets") == [(7, 0)] * 2


async def test_a_block_that_runs_short_is_returned_and_the_cap_holds(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _hot(database, db, "3.00")
        verdicts = []
        for n in range(400):
            _heat(database)
            verdicts.append(await _verdict(db, task, str(n)))
            if verdicts[-1] != "open":
                break
            if n % 5:
                await tasks.answered(db, task, 1, str(n), cost="0.010")
        assert verdicts[-1] == "snooze"
        await calls.return_blocks(db)
    reserved, spent, presumed = tasks.money(database)
    assert presumed == 0
    assert Decimal("2.99") <= reserved + spent <= Decimal("3.00")


async def test_the_block_of_a_dead_worker_comes_back(database: Database) -> None:
    async with tasks.worker(database) as db, tasks.worker(database) as survivor:
        task = await _hot(database, db, "6.40")
        await tasks.opened(db, task, "on the block")
        database.sql("UPDATE backbeat.budget_blocks SET leased_until = leased_until + interval '1 hour'")
        await calls.return_expired_blocks(survivor)
        assert len(_blocks(database)) == 1
        database.advance(timedelta(hours=1, seconds=11))
        await calls.return_expired_blocks(survivor)
        assert _blocks(database) == []
        assert tasks.money(database) == (3 * CENT, Decimal(), Decimal())
        assert await tasks.answered(db, task, 1, "on the block")
    assert tasks.money(database) == (2 * CENT, Decimal("0.004"), Decimal())


async def test_an_unknown_price_is_refused_on_a_block_too(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _hot(database, db)
        assert await _verdict(db, task, "new", usd=None) == "unpriced"


async def test_a_call_that_closes_while_its_block_is_returned_is_booked_once(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _hot(database, db)
        await tasks.opened(db, task, "on the block")
        closing = {"owner": str(task.id), "call_key": "on the block", "seq": 1, "status": "done", "cost_usd": "0.004"}
        async with await psycopg.AsyncConnection.connect(database.worker_url) as rival:
            bill = Jsonb([closing | tasks.USAGE.as_dict()])
            await rival.execute("SELECT backbeat.close_calls(%s)", [bill])
            await calls.return_blocks(db)
            assert len(_blocks(database)) == 1  # in use: left for the next look
            await rival.commit()
        await calls.return_blocks(db)
    assert tasks.money(database) == (2 * CENT, Decimal("0.004"), Decimal())


@pytest.mark.parametrize("scope", ["task", "agent"])
def test_caps_of_tasks_and_agents_are_audited(database: Database, scope: str) -> None:
    database.sql("SELECT backbeat.set_budget(%s, 'alpha', 1.5, NULL, 'bob')", [scope])
    subject, actor = database.sql(
        "SELECT subject, detail ->> 'by' FROM backbeat.audit_log WHERE action = 'budget.set'"
    )[0]
    assert (subject, actor) == (f"{scope}/alpha", "bob")
