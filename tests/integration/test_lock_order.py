"""Locks are taken in one order: who waits for its first flow, or for a tenant with a cap, holds no other flow."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from backbeat.operate import actions
from shared.db import queue
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Child, Dead, FanOut, Hold, Outcome, Retry, Succeed
from tests.support import tasks
from tests.support.databases import Database

# The tenant `acme` has a cap; whatever changes its flows locks it before any flow.
CAPPED = "SELECT FROM backbeat.tenants WHERE id = 'acme' FOR UPDATE"
FIRST = ("acme", "bulk/rules", "normal")
WORKFLOWS = ("alpha", "beta", "screen")
LOADED = [f"{name}@1" for name in WORKFLOWS]
DEFINITIONS = [
    tasks.definition("alpha"),
    tasks.definition("beta", tier="large"),
    tasks.definition("screen", tier="rules") | {"bulk": 50},
]
HOLD = "SELECT FROM backbeat.flows WHERE (tenant, tier, class) = ('{}', '{}', '{}') FOR UPDATE"
LATER = ("estimates", "model_calls", "budgets", "virtual_time")

Call = Callable[[Connection, Sequence[Task]], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A function, the SQL before it, whether it is about tasks that run, and the first flow it locks."""

    call: Call
    running: bool = False
    before: str = ""
    first: tuple[str, str, str] = FIRST


def _sql(query: str) -> Call:
    return lambda db, given: db.rows(query, {"ids": [task.id for task in given]})


DEMOTE = """
    UPDATE backbeat.simple_tasks SET status = 'pending', vstart = NULL, estimate = NULL
    WHERE status = 'ready' AND payload = '{"n": 1}'"""
COUNT = """
    UPDATE backbeat.flows f SET ready = (
        SELECT count(*) FROM backbeat.simple_tasks t
        WHERE t.status = 'ready' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class))"""
EXPIRE = "UPDATE backbeat.simple_tasks SET expires_at = backbeat.now() WHERE tier NOT LIKE 'bulk/%'"
STOP = """
    INSERT INTO backbeat.pauses
    SELECT 'workflow', key, 'a test', 'test', backbeat.now() FROM unnest(ARRAY['alpha', 'screen']) key"""
FULL = "UPDATE backbeat.tenants SET max_running = 4 WHERE id = 'acme'"
DIE = """
    SELECT backbeat.settle((
        SELECT jsonb_agg(jsonb_build_object('id', id, 'lease', lease, 'outcome', 'dead', 'error_class', 'x'))
        FROM backbeat.simple_tasks WHERE status = 'running'))"""
MINUTES = "UPDATE backbeat.test_clock SET shift = shift + interval '2 minutes'"
CANCEL = "SELECT backbeat.finish(%(ids)s::uuid[], 'cancelled', 'cancelled', 'a test')"
REQUEUE = "SELECT backbeat.requeue_dead(%(ids)s::uuid[], true, backbeat.now(), 0, 'test', 'a test')"
PAUSE = "SELECT backbeat.pause('workflow', 'alpha', 'a test', 'test')"


def _settling(outcome: Outcome) -> Call:
    return lambda db, given: queue.settle(db, [(task, outcome) for task in given[::-1]])


def _turning(outcome: Outcome) -> Call:
    return lambda db, given: queue.turn(db, [(task, outcome) for task in given], "A", LOADED, 9, 60.0)


MORE = FanOut([Child(name, 1, {}) for name in WORKFLOWS[::-1]])
SMALL, LARGE = ("acme", "small", "normal"), ("acme", "large", "normal")
CASES = {
    "enqueue": Case(lambda db, _: tasks.add(db, 2, tenant="acme"), first=SMALL),
    "claim": Case(lambda db, _: tasks.take(db, loaded=LOADED), first=LARGE),
    "claim_bulk": Case(lambda db, _: queue.claim(db, "A", LOADED, 100, 60.0, bulk=True)),
    "settle": Case(_settling(Retry("x", "y")), running=True),
    "settle, ending": Case(_settling(Succeed(1)), running=True),
    "fan_out": Case(_settling(MORE), running=True),
    "turn": Case(_turning(Retry("x", "y")), running=True),
    "reap": Case(_sql("SELECT backbeat.reap()"), running=True, before=MINUTES),
    "sweep": Case(_sql("SELECT backbeat.sweep()"), first=LARGE),
    "sweep of what expired": Case(_sql("SELECT backbeat.sweep()"), before=EXPIRE, first=LARGE),
    "sweep of what is paused": Case(_sql("SELECT backbeat.sweep()"), before=STOP),
    "sweep at the cap": Case(_sql("SELECT backbeat.sweep()"), before=f"{EXPIRE}; {FULL}", first=LARGE),
    "finish": Case(_sql(CANCEL), running=True),
    "pause": Case(_sql(PAUSE), first=SMALL),
    "requeue": Case(_sql(REQUEUE), running=True, before=DIE, first=LARGE),
}


async def _prepared(database: Database, db: Connection, case: Case) -> list[Task]:
    """Waiting tasks in all flows, and, where the case is about such, running ones."""
    database.sql("SELECT backbeat.finish(ARRAY(SELECT id FROM backbeat.simple_tasks), 'cancelled', 'x', 'x')")
    database.sql("TRUNCATE backbeat.pauses; UPDATE backbeat.tenants SET max_running = 500 WHERE id = 'acme'")
    await queue.register(db, "A", "cron", DEFINITIONS)
    given: list[Task] = []
    for again in range(2):
        for tenant in ("zoo", "default", "acme"):
            for workflow in WORKFLOWS:
                await tasks.add(db, 2, workflow, tenant=tenant)
        if case.running and not again:
            given = await tasks.take(db, loaded=LOADED) + await queue.claim(db, "A", LOADED, 100, 60.0, bulk=True)
            assert len(given) == 18
    # Rows that wait, and room for them, in each flow: what a sweep promotes.
    database.sql(DEMOTE)
    database.sql(COUNT)
    if case.before:
        database.sql(case.before)
    return given


async def test_who_waits_for_its_first_flow_holds_no_other(database: Database) -> None:
    database.sql("INSERT INTO backbeat.tenants (id, max_running) VALUES ('acme', 500), ('zoo', NULL)")
    held: dict[str, set[str]] = {}
    async with tasks.worker(database, url=database.owner_url) as db:
        for name, case in CASES.items():
            first = HOLD.format(*case.first)
            for hold in (first,) if name == "claim" else (first, CAPPED):
                given = await _prepared(database, db, case)
                with psycopg.connect(database.owner_url) as other:
                    assert other.execute(hold.encode()).rowcount == 1, name
                    called = asyncio.ensure_future(case.call(db, given))
                    waits = asyncio.ensure_future(tasks.somebody_waits(database))
                    await asyncio.wait([called, waits], return_when="FIRST_COMPLETED")
                    assert not called.done(), f"{name} did not wait: {called.result()}"
                    await waits
                    if found := _held(database) - _held_by(hold, case):
                        held[f"{name}: {hold}"] = found
                await called
    assert held == {}, held


async def test_a_claim_counts_on_flows_as_they_are_once_it_has_waited_for_them(database: Database) -> None:
    """It finds them again by their place, which another session has moved meanwhile."""
    async with tasks.worker(database) as db:
        await queue.register(db, "A", "cron", DEFINITIONS)
        await tasks.add(db, 3)
        with psycopg.connect(database.owner_url) as other:
            for _ in range(300):
                other.execute("UPDATE backbeat.flows SET last_v = last_v + 1")
            claimed = asyncio.ensure_future(tasks.take(db, 2, loaded=LOADED))
            await tasks.somebody_waits(database)
        assert len(await claimed) == 2
    assert database.sql("SELECT ready, running, last_v > 300 FROM backbeat.flows") == [(1, 2, True)]


def _held(database: Database) -> set[str]:
    """The flows, and the tables that come after them, of which somebody holds a row."""
    flows = "SELECT tenant || '/' || tier || '/' || class FROM backbeat.flows"
    found = set(database.sql(flows)) - set(database.sql(f"{flows} FOR UPDATE SKIP LOCKED"))
    for table in LATER:
        rows = f"SELECT ctid::text FROM backbeat.{table}"
        found |= {(table,) for _ in set(database.sql(rows)) - set(database.sql(f"{rows} FOR UPDATE SKIP LOCKED"))}
    return {name for (name,) in found}


def _held_by(hold: str, case: Case) -> set[str]:
    return set() if hold == CAPPED else {"/".join(case.first)}


async def test_these_wait_for_no_flow_and_no_task(database: Database) -> None:
    async with tasks.worker(database, url=database.owner_url) as db:
        await queue.register(db, "A", "cron", DEFINITIONS)
        await tasks.add(db, 4, "screen")
        first = await queue.claim(db, "A", LOADED, 2, 60.0, bulk=True)
        await tasks.add(db, 3)
        for outcome in (Dead("x", "y"), Hold("route", "r")):
            assert await tasks.settle(db, (await tasks.take(db, 1))[0], outcome)
        with psycopg.connect(database.owner_url) as other:
            other.execute("SELECT FROM backbeat.simple_tasks FOR UPDATE")
            async with asyncio.timeout(60):
                await actions.set_budget(tasks.Operator(database), "workflow", "alpha", Decimal(1), None, "test")
                await db.rows("SELECT backbeat.release_held('route', 'r')")
                await db.rows("SELECT backbeat.pause('workflow', 'alpha', 'a test', 'test')")
                await db.rows("SELECT backbeat.unpause('workflow', 'alpha', 'test')")
                assert await tasks.take(db, loaded=LOADED) == []
                assert await queue.claim(db, "A", LOADED, 9, 60.0, bulk=True) == []
                await db.rows("SELECT backbeat.sweep()")
            other.rollback()
            # Settling, it has flows already, and must not wait for more.
            await tasks.add(db, 2, "screen", class_="high")
            other.execute(HOLD.format("default", "bulk/rules", "high").encode())
            async with asyncio.timeout(60):
                refused, taken = await queue.turn(db, [(task, Succeed(1)) for task in first], "A", LOADED, 9, 60.0)
            assert (refused, [task.class_ for task in taken]) == (set(), ["normal", "normal"])
