"""Model calls and the money they move: verdicts, closings, caps, and the sums against a small model in Python."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from backbeat.operate import actions
from shared.db import calls, queue
from shared.db.calls import Closing
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Succeed
from tests.support import every_postgres, tasks
from tests.support.databases import Database

pytestmark = every_postgres

CENT = Decimal("0.01")


async def _verdict(db: Connection, task: Task, key: str = "answer", **changed: Any) -> str:
    return (await calls.open_call(db, tasks.ask(task, key, **changed))).verdict


def _asked(owner: UUID, lease: int, key: str, usd: Decimal) -> dict[str, Any]:
    """A call as `backbeat.open_calls` takes it, of 10 tokens."""
    amounts = {"reserved_usd": str(usd), "likely_usd": str(usd), "reserved_tokens": 10, "likely_tokens": 10}
    where = dict.fromkeys(("route", "tier", "provider", "model", "price_version", "request_hash"), "x")
    return {"owner": str(owner), "lease": lease, "call_key": key, **amounts, **where}


async def _running(db: Connection) -> Task:
    await tasks.add(db)
    return await tasks.take_one(db)


async def test_an_answered_request_is_answered_from_the_record(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        await tasks.answered(db, task, await tasks.opened(db, task))
        again = await calls.open_call(db, tasks.ask(task))
        assert (again.verdict, again.seq, again.response) == ("memo", 1, {"text": "yes"})
        database.advance(timedelta(seconds=61))
        await queue.reap(db)
        await queue.sweep(db)
        task = await tasks.take_one(db)
        assert await _verdict(db, task) == "memo"
        other = await calls.open_call(db, tasks.ask(task, request_hash="another"))
        assert (other.verdict, other.seq) == ("open", 2)
    assert tasks.money(database) == (CENT, Decimal("0.004"), Decimal())


async def test_only_the_holder_of_the_lease_opens_calls(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        assert await _verdict(db, task, lease=task.lease + 1) == "fenced"
        await tasks.settle(db, task, Succeed({}))
        assert await _verdict(db, task) == "fenced"


async def test_the_switch_stops_new_calls_but_not_recorded_answers(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        await tasks.answered(db, task, await tasks.opened(db, task))
        await actions.throw_switch(tasks.Operator(database), "all", "too dear", "alice")
        assert await _verdict(db, task) == "memo"
        stopped = await calls.open_call(db, tasks.ask(task, "next"))
        assert (stopped.verdict, stopped.detail) == ("stopped", "too dear")
        assert await actions.release_switch(tasks.Operator(database), "all")
        assert await _verdict(db, task, "next") == "open"


async def test_a_question_told_twice_reserves_once_and_presumes_the_rest(database: Database) -> None:
    """A connection that breaks after the commit makes the worker ask again under the same lease."""
    async with tasks.worker(database) as db:
        task = await _running(db)
        assert [await tasks.opened(db, task) for _ in range(2)] == [1, 2]
        await tasks.opened(db, task, "other")
    assert database.sql("SELECT call_key, seq, status FROM backbeat.model_calls ORDER BY 1, 2") == [
        ("answer", 1, "lost"),
        ("answer", 2, "open"),
        ("other", 1, "open"),
    ]
    assert tasks.money(database) == (2 * CENT, Decimal(), CENT)


@pytest.mark.parametrize("scope", ["workflow", "tenant"])
async def test_a_cap_holds_snoozes_and_names_itself(database: Database, scope: str) -> None:
    key = {"workflow": "alpha", "tenant": "default"}[scope]
    async with tasks.worker(database) as db:
        task = await _running(db)
        await actions.set_budget(tasks.Operator(database), scope, key, Decimal("0.025"), None, "test")
        await tasks.opened(db, task, "one")
        await tasks.opened(db, task, "two")
        assert await _verdict(db, task, "three") == "snooze"
        assert await _verdict(db, task, "three", usd=None) == "unpriced"
        await tasks.answered(db, task, 1, "one", cost="0.006")
        await tasks.answered(db, task, 1, "two", cost="0.010")
        held = await calls.open_call(db, tasks.ask(task, "three"))
        assert (held.verdict, held.detail) == ("held", f"{scope}/{key}")
        assert held.until is not None
        minutes = database.value(
            "SELECT extract(epoch FROM %s - (backbeat.utc_day(backbeat.now()) + 1)::timestamp AT TIME ZONE 'UTC') / 60",
            [held.until],
        )
        assert 0 <= minutes <= 5
        assert await _verdict(db, task, "three", usd=Decimal("0.009")) == "open"


async def test_tokens_have_a_cap_too(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        await actions.set_budget(tasks.Operator(database), "workflow", "alpha", None, 4500, "test")
        await tasks.opened(db, task, "one")
        await tasks.opened(db, task, "two")
        assert await _verdict(db, task, "three") == "snooze"
        await tasks.answered(db, task, 1, "one")
        assert await _verdict(db, task, "three", tokens=1300) == "open"
        assert await _verdict(db, task, "four", tokens=3301) == "held"


async def test_a_new_day_has_its_own_budget_and_a_call_is_charged_to_the_day_it_was_reserved(
    database: Database,
) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        await actions.set_budget(tasks.Operator(database), "workflow", "alpha", CENT, None, "test")
        await tasks.opened(db, task)
        assert await _verdict(db, task, "next") == "snooze"
        database.advance(timedelta(days=1))
        assert await _verdict(db, task, "next") == "open"
        await tasks.answered(db, task, 1)
    rows = "SELECT cap_usd, reserved_usd, spent_usd FROM backbeat.budgets WHERE scope = 'workflow' ORDER BY day"
    assert database.sql(rows) == [(CENT, Decimal(), Decimal("0.004")), (CENT, CENT, Decimal())]


async def test_an_excess_over_the_reservation_is_booked_as_overrun(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        await tasks.answered(db, task, await tasks.opened(db, task), cost="0.013")
    row = database.sql(
        "SELECT spent_usd, overrun_usd, calls, spent_tokens FROM backbeat.budgets WHERE scope = 'tenant'"
    )
    assert row == [(Decimal("0.013"), Decimal("0.003"), 1, 1200)]


@pytest.mark.parametrize("first", ["call", "cap"])
async def test_a_cap_set_while_the_days_first_call_opens_is_in_force(database: Database, first: str) -> None:
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.owner_url) as rival:
        task = await _running(db)
        if first == "call":
            opening = "SELECT verdict FROM backbeat.open_calls('rival', %s)"
            await rival.execute(opening, [Jsonb([_asked(task.id, task.lease, "a", CENT)])])
            late: asyncio.Task[Any] = asyncio.create_task(
                actions.set_budget(tasks.Operator(database), "workflow", "alpha", CENT, None, "t")
            )
        else:
            await rival.execute("SELECT backbeat.set_budget('workflow', 'alpha', 0.01, NULL, 't')")
            late = asyncio.create_task(_verdict(db, task))
        await tasks.somebody_waits(database)
        await rival.commit()
        await late
        assert await _verdict(db, task, "next") == "snooze"
    assert database.value("SELECT cap_usd FROM backbeat.budgets WHERE scope = 'workflow'") == CENT


# Any sequence of openings, closings and losses, against a model of a page

KEYS = st.sampled_from(["a", "b", "c"])
AMOUNTS = st.integers(0, 40).map(lambda cents: cents * CENT / 10)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), KEYS, AMOUNTS),
        st.tuples(st.just("done"), KEYS, AMOUNTS),
        st.tuples(st.just("refused"), KEYS, AMOUNTS),
        st.tuples(st.just("lose"), KEYS, AMOUNTS),
        st.tuples(st.just("cap"), KEYS, AMOUNTS.map(lambda usd: usd * 50)),
        st.tuples(st.sampled_from(["heat", "return"]), KEYS, AMOUNTS),
    ),
    max_size=40,
)


@dataclass
class Ledger:
    """What the budget of a scope must say. A call is (status, reserved), newest last a key."""

    cap: Decimal = Decimal(1)
    spent: Decimal = Decimal()
    overrun: Decimal = Decimal()
    calls: dict[str, list[tuple[str, Decimal]]] = field(default_factory=dict)

    def sum(self, status: str) -> Decimal:
        """The reservations of the calls in this state."""
        return sum((usd for rows in self.calls.values() for how, usd in rows if how == status), Decimal())

    def open(self, key: str, usd: Decimal) -> str:
        self.close(key, "lost")
        if self.spent + self.sum("lost") + usd > self.cap:
            return "held"
        if self.spent + self.sum("lost") + self.sum("open") + usd > self.cap:
            return "snooze"
        self.calls.setdefault(key, []).append(("open", usd))
        return "open"

    def close(self, key: str, status: str, cost: Decimal = Decimal(), seq: int | None = None) -> bool:
        """The call `seq`, or the open one, changes its state if it may."""
        rows = self.calls.get(key, [])
        at = seq - 1 if seq else len(rows) - 1
        if not 0 <= at < len(rows) or rows[at][0] not in (("open", "lost") if seq else ("open",)):
            return False
        if rows[at][0] == status:
            return False
        reserved = rows[at][1]
        rows[at] = (status, reserved)
        if status == "done":
            self.spent += cost
            self.overrun += max(cost - reserved, Decimal())
        return True


class Books:
    """The same in Postgres, for one running task whose every request is new."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._asked = 0
        self._one("SELECT backbeat.register_worker('w', 'cron', %s)", Jsonb([tasks.definition("alpha")]))
        self._one("SELECT backbeat.enqueue('alpha', 1, ARRAY['{}'::jsonb])")
        self.task, self.lease = self._row("SELECT id, lease FROM backbeat.claim('w', ARRAY['alpha@1'], 1, 60)")
        self.cap(Decimal(1))

    def cap(self, usd: Decimal) -> None:
        self._one("SELECT backbeat.set_budget('workflow', 'alpha', %s, NULL, 'test')", usd)

    def open(self, key: str, usd: Decimal) -> str:
        self._asked += 1
        ask = _asked(self.task, self.lease, key, usd) | {"request_hash": str(self._asked)}
        while True:
            verdict: str = self._one("SELECT verdict FROM backbeat.open_calls('w', %s)", Jsonb([ask]))
            if verdict != "again":
                return verdict

    def heat(self) -> None:
        """From here on what is opened may go on a block."""
        self._connection.execute("UPDATE backbeat.budgets SET rate = 1000")

    def give_back(self) -> None:
        """End all blocks, so that the sums are whole again."""
        self._one("SELECT backbeat.return_blocks('w')")

    def lose(self, key: str) -> None:
        lost = "SELECT c FROM backbeat.model_calls c WHERE (c.owner, c.call_key, c.status) = (%s, %s, 'open')"
        self._one(f"SELECT backbeat.lose(ARRAY({lost}))", self.task, key)

    def close(self, key: str, status: str, cost: Decimal, seq: int) -> bool:
        end: dict[str, Any] = {"owner": str(self.task), "call_key": key, "seq": seq, "status": status}
        bill = tasks.USAGE.as_dict() | {"cost_usd": str(cost)} if status == "done" else {}
        closed = bool(self._one("SELECT count(*) FROM backbeat.close_calls(%s)", Jsonb([end | bill])))
        # An overrun holds the route, which is not what this is about.
        self._connection.execute("DELETE FROM backbeat.pauses")
        return closed

    def sums(self, scope: str) -> tuple[Any, ...]:
        """(reserved, spent, presumed, overrun) in USD, then reserved and presumed tokens."""
        columns = "reserved_usd, spent_usd, presumed_usd, overrun_usd, reserved_tokens, presumed_tokens"
        return self._row(f"SELECT {columns} FROM backbeat.budgets WHERE scope = %s", scope)

    def _one(self, query: str, *params: Any) -> Any:
        return self._row(query, *params)[0]

    def _row(self, query: str, *params: Any) -> tuple[Any, ...]:
        row = self._connection.execute(query.encode(), params).fetchone()
        assert row is not None
        return row


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        yield connection


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_sums_are_those_of_the_calls(owner: psycopg.Connection, steps: list[tuple[str, str, Decimal]]) -> None:
    with owner.transaction(force_rollback=True):
        books, ledger = Books(owner), Ledger()
        for step, key, usd in steps:
            if step == "open":
                assert books.open(key, usd) == ledger.open(key, usd)
            elif step == "lose":
                books.lose(key)
                ledger.close(key, "lost")
            elif step == "cap":
                books.cap(usd)
                ledger.cap = usd
            elif step == "heat":
                books.heat()
            elif step == "return":
                books.give_back()
            else:
                # The oldest call of the key that may still be closed: open, or presumed spent.
                rows = ledger.calls.get(key, [])
                seq = next((n for n, (how, _) in enumerate(rows, 1) if how in ("open", "lost")), 1)
                assert books.close(key, step, usd, seq) == ledger.close(key, step, usd, seq)
        books.give_back()
        counts = {how: sum(s == how for rows in ledger.calls.values() for s, _ in rows) for how in ("open", "lost")}
        money = ledger.sum("open"), ledger.spent, ledger.sum("lost"), ledger.overrun
        assert books.sums("workflow") == (*money, 10 * counts["open"], 10 * counts["lost"])
        if ledger.calls:
            assert books.sums("tenant") == books.sums("workflow")


def test_a_hard_cap_bounds_spent_and_presumed(owner: psycopg.Connection) -> None:
    """Whatever is answered within its reservation, or lost, in any order."""
    with owner.transaction(force_rollback=True):
        books = Books(owner)
        for n in range(60):
            if books.open(f"k{n}", 3 * CENT) != "open":
                break
            if n % 3:
                books.close(f"k{n}", "done", 3 * CENT, 1)
            else:
                books.lose(f"k{n}")
        reserved, spent, presumed, overrun, *_ = books.sums("workflow")
    assert (reserved, overrun) == (0, 0)
    assert Decimal("0.97") < spent + presumed <= 1


def test_closing_needs_a_row(owner: psycopg.Connection) -> None:
    with owner.transaction(force_rollback=True):
        books = Books(owner)
        books.task = UUID(int=0)
        assert not books.close("a", "done", CENT, 1)


async def test_a_late_answer_to_a_finished_task_is_billed_and_forgotten(database: Database) -> None:
    async with tasks.worker(database) as db:
        task = await _running(db)
        seq = await tasks.opened(db, task)
        await tasks.settle(db, task, Succeed({}))
        assert tasks.money(database) == (Decimal(), Decimal(), CENT)
        assert await tasks.answered(db, task, seq)
        assert not await calls.close_call(db, task.id, "answer", seq, Closing("refused"))
    assert tasks.money(database) == (Decimal(), Decimal("0.004"), Decimal())
    assert database.value("SELECT response FROM backbeat.model_calls") is None
