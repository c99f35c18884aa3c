"""A worker that stalls past its lease changes nothing any more, and its bill is booked."""

import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from shared.db import calls, queue
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Dead, Escalate, Hold, Outcome, Release, Retry, Snooze, Succeed
from tests.chaos.conftest import OpenRig, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import wait_for_leases
from tests.support import tasks
from tests.support.databases import Database

_TOMORROW = datetime.now(UTC) + timedelta(days=1)
OUTCOMES: dict[str, Outcome] = {
    "succeed": Succeed({"by": "A"}),
    "retry": Retry("oops", "A failed"),
    "snooze": Snooze(_TOMORROW),
    "release": Release("stopped"),
    "dead": Dead("oops", "A gave up"),
    "hold": Hold("route", "r", _TOMORROW),
    "escalate": Escalate("approve_effect", {"effect": "note"}),
}


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize("moment", ["while B works", "after B's end"])
async def test_whatever_a_zombie_writes_is_refused(database: Database, outcome: Outcome, moment: str) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        a = await tasks.take_one(db, name="A")
        seq = await tasks.opened(db, a)
        database.advance(timedelta(seconds=61))
        assert await queue.reap(db) == 1
        assert tasks.money(database) == (Decimal(), Decimal(), Decimal("0.01"))
        await queue.sweep(db)
        b = await tasks.take_one(db, name="B")
        assert b.lease > a.lease
        if moment == "after B's end":
            assert await tasks.settle(db, b, Succeed({"by": "B"}))

        before = _state(database)
        assert await queue.heartbeat(db, "A", [a], 60.0) == {a.id}
        assert not await tasks.settle(db, a, outcome)
        assert (await calls.open_call(db, tasks.ask(a, "next"))).verdict == "fenced"
        assert _state(database) == before

        assert await tasks.answered(db, a, seq)
        assert not await tasks.answered(db, a, seq, cost="9")
        assert tasks.money(database) == (Decimal(), Decimal("0.004"), Decimal())
        if moment == "while B works":
            assert await tasks.settle(db, b, Succeed({"by": "B"}))
    assert database.sql("SELECT status, result ->> 'by', attempts FROM backbeat.tasks") == [("succeeded", "B", 2)]


def _state(database: Database) -> list[tuple[object, ...]]:
    """Everything a worker may change, as Postgres holds it."""
    tables = (
        "simple_tasks",
        "finished_tasks",
        "flows",
        "dead_letters",
        "orchestrated_workflows",
        "budgets",
        "estimates",
    )
    return [row for table in tables for row in database.sql(f"SELECT t::text FROM backbeat.{table} t ORDER BY 1")]


def test_a_stopped_process_wakes_up_as_a_zombie(open_rig: OpenRig, database: Database) -> None:
    rig = open_rig(database, latency="3")
    for n in range(soaking(1, 10)):
        (task,) = rig.enqueue("single", [{"n": n}])
        a = rig.tick("--lease", "1s")
        rig.called(2 * n + 1)
        a.send(signal.SIGSTOP)
        wait_for_leases(rig.database)
        rig.tick().ends_well()
        a.send(signal.SIGCONT)
        a.ends_well()
        assert "claimed 1, settled 0" in a.output

        rows = sorted((row["seq"], row["status"]) for row in books.calls(rig) if row["owner"] == task)
        assert rows == [(1, "done"), (2, "done")]
        history = rig.database.value("SELECT history FROM backbeat.finished_tasks WHERE id = %s", [task])
        assert [entry["outcome"] for entry in history] == ["lost", "succeed"]
    books.money_adds_up(rig)


def test_a_call_that_outlives_its_lease_is_billed_when_it_ends(open_rig: OpenRig, database: Database) -> None:
    rig = open_rig(database, latency="5")
    rig.enqueue("single", [{"n": 1}])
    a = rig.tick("--lease", "1s")
    rig.called(1)
    # Its answer waits for as long as it does, however slow this machine is.
    rig.provider.process.send_signal(signal.SIGSTOP)
    try:
        a.send(signal.SIGSTOP)
        wait_for_leases(database)
        b = rig.ask(_takes_over)
        assert rig.provider.entries("end") == []
    finally:
        rig.provider.process.send_signal(signal.SIGCONT)
    a.send(signal.SIGCONT)
    a.ends_well()
    assert "claimed 1, settled 0" in a.output
    assert [row["status"] for row in books.calls(rig)] == ["done"]
    books.money_adds_up(rig)
    assert rig.ask(lambda db: tasks.settle(db, b, Succeed({"by": "B"})))


async def _takes_over(db: Connection) -> Task:
    assert await queue.reap(db) == 1
    await queue.sweep(db)
    return await tasks.take_one(db, name="B", loaded=["single@1"])
