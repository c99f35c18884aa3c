"""What is over is removed: thirty days on the test clock, and the rows that stay."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from backbeat.operate import dead
from backbeat.operate.dead import Filter, Verdict
from cron_worker.limits import Limits
from cron_worker.tick import tick
from shared.config import Config
from shared.db import orchestrations, queue
from shared.db.pool import Database as Connection
from shared.db.queries import load
from shared.domain.outcome import Dead, Succeed
from shared.ids import idempotency_key
from shared.orchestration.messages import Report, Step
from tests.support import tasks
from tests.support.approvals import ask, decide, start, token
from tests.support.databases import AUDIT_PROBLEMS, Database

DAY = timedelta(days=1)
CHAT = '[{"channel": "chat", "recipient": "", "seconds": 0}]'
A_DAY = 100  # tasks
PARTITIONS = """
    SELECT count(*) FROM pg_inherits WHERE inhparent = 'backbeat.finished_tasks'::regclass
    AND inhrelid::regclass::text ~ '\\d{8}$'"""
ROWS = """
    SELECT (SELECT count(*) FROM backbeat.finished_tasks), (SELECT count(*) FROM backbeat.idempotency),
           (SELECT count(*) FROM backbeat.model_calls), (SELECT count(*) FROM backbeat.ticks)"""
BUDGETS = "SELECT count(*) FROM backbeat.budgets WHERE day = '-infinity'"


OLD = """
    SELECT inhrelid::regclass::text FROM pg_inherits
    WHERE inhparent = 'backbeat.finished_tasks'::regclass AND inhrelid::regclass::text ~ '[0-9]{8}$'
        AND right(inhrelid::regclass::text, 8) < to_char(backbeat.utc_day(backbeat.now()) - 1, 'YYYYMMDD')"""


@pytest.fixture
async def db(database: Database) -> AsyncIterator[Connection]:
    for policy, days in (("finished", 5), ("ticks", 3)):
        database.sql("UPDATE backbeat.retention SET days = %s WHERE policy = %s", [days, policy])
    # A template that was made before midnight has a day more.
    database.sql("SELECT backbeat.maintain_partitions()")
    for (name,) in database.sql(OLD):
        database.sql(f"DROP TABLE {name}")
    async with tasks.worker(database) as connection:
        yield connection


async def _work(db: Connection, count: int, salt: str = "") -> None:
    """Enqueue keyed tasks and run them: one in ten makes a call, the last dies."""
    payloads = [{"n": n} for n in range(count)]
    await tasks.submit(db, payloads, [idempotency_key("alpha", 1, payload, salt) for payload in payloads])
    while claimed := await tasks.take(db):
        for task in claimed:
            if task.payload["n"] % 10 == 0:
                await tasks.answered(db, task, await tasks.opened(db, task))
        ends: list[tuple[Any, Any]] = [
            (task, Dead("broken", "oops") if task.payload["n"] == count - 1 else Succeed({"n": 1})) for task in claimed
        ]
        assert await queue.settle(db, ends) == set()


async def _tick(db: Connection) -> None:
    await queue.end_tick(db, await queue.start_tick(db, "A"), 0, 0)
    await queue.sweep(db)


async def test_thirty_days_keep_the_tables_flat(db: Connection, database: Database) -> None:
    sizes = []
    for day in range(30):
        await _work(db, A_DAY, f"day {day}")
        for _ in range(3):
            await _tick(db)
        sizes.append((database.value(PARTITIONS), *database.sql(ROWS)[0]))
        database.advance(DAY)
    assert len(set(sizes[10:])) == 1, sizes
    partitions, finished, keys, calls, ticks = sizes[-1]
    assert finished == keys == 6 * A_DAY
    assert (calls, ticks) == (6 * A_DAY // 10, 3 * 3)
    assert partitions == 5 + 1 + 14
    assert database.value("SELECT count(*) FROM backbeat.dead_letters") == 30


async def test_ticks_that_find_no_work_remove_and_open_days_too(db: Connection, database: Database) -> None:
    config = Config(database_url=database.worker_url)
    await _work(db, 1)
    await _tick(db)
    assert database.sql(ROWS)[0] == (1, 1, 1, 1)
    database.advance(timedelta(days=7))
    looks = []
    for _ in range(5):
        looks.append((await db.row(load("queue")["anything_to_do"]))["due"])
        assert (await tick(config, Limits(budget=5.0, grace=1.0))).claimed == 0
    assert database.sql(ROWS)[0] == (0, 0, 1, 0)
    assert database.value(PARTITIONS) == 5 + 1 + 14
    # Once all is done there is nothing to do each time.
    assert looks[0]
    assert not looks[-1]
    database.advance(DAY)
    await tick(config, Limits(budget=5.0, grace=1.0))
    assert database.value(PARTITIONS) == 5 + 1 + 14


async def test_a_living_task_of_an_old_day_makes_no_tick_look_again(db: Connection, database: Database) -> None:
    await tasks.add(db, run_after=(await db.row("SELECT backbeat.now() + interval '99 days' AS at"))["at"])
    database.advance(timedelta(days=7))
    await _tick(db)
    database.sql("DELETE FROM backbeat.ticks")
    for _ in range(9):
        await db.rows(load("queue")["maintain_partitions"])
    assert not (await db.row(load("queue")["anything_to_do"]))["due"]


async def test_a_forgotten_payload_runs_again(db: Connection, database: Database) -> None:
    key = idempotency_key("alpha", 1, {"n": 0})
    await _work(db, 1, "")
    database.advance(timedelta(days=7))
    for _ in range(3):
        await _tick(db)
    (again,) = await tasks.submit(db, [{"n": 0}], [key])
    assert again.created


async def test_a_letter_whose_history_is_gone_goes_on_with_all_it_had(db: Connection, database: Database) -> None:
    await tasks.submit(db, [{"n": 0}], [b"k" * 32], class_="high")
    old = await tasks.take_one(db)
    await tasks.answered(db, old, await tasks.opened(db, old))
    await tasks.settle(db, old, Dead("broken", "oops"))
    database.advance(timedelta(days=7))
    for _ in range(3):
        await _tick(db)
    assert database.sql(ROWS)[0][:3] == (0, 0, 1)
    start = (await db.row("SELECT backbeat.now() AS at"))["at"]
    found = dead.requeue(
        tasks.Operator(database), Filter(), Verdict("a", "b"), newest=False, per_minute=None, start=start
    )
    assert [made async for _, made in found] == [1]
    new = await tasks.take_one(db)
    same = ("class_", "payload", "origin_id", "idempotency_key", "traceparent", "effect_scope")
    assert [getattr(new, name) for name in same] == [getattr(old, name) for name in same]
    # The paid call of the old one went with it.
    assert database.sql("SELECT owner, status FROM backbeat.model_calls") == [(new.id, "memo")]


async def test_a_day_with_a_living_task_stays(db: Connection, database: Database) -> None:
    await tasks.add(db, run_after=(await db.row("SELECT backbeat.now() + interval '8 days' AS at"))["at"])
    await _work(db, 2)
    database.advance(timedelta(days=7))
    for _ in range(3):
        await _tick(db)
    assert database.sql(ROWS)[0][:2] == (2, 2)
    database.advance(timedelta(days=2))
    await _tick(db)
    assert await tasks.settle(db, await tasks.take_one(db), Succeed({"n": 1}))
    for _ in range(3):
        await _tick(db)
    assert database.sql(ROWS)[0][:2] == (0, 0)


async def test_days_that_nobody_needs_are_not_opened_for_one_old_task(db: Connection, database: Database) -> None:
    before = database.value(PARTITIONS)
    await tasks.add(db, run_after=(await db.row("SELECT backbeat.now() + interval '99 days' AS at"))["at"])
    database.advance(timedelta(days=40))
    await _tick(db)
    assert database.value(PARTITIONS) <= before + 16


async def test_a_reader_keeps_its_day_and_blocks_nobody_for_long(db: Connection, database: Database) -> None:
    await _work(db, 1)
    database.advance(timedelta(days=7))
    database.sql("SELECT backbeat.maintain_partitions()")
    with psycopg.connect(database.owner_url) as reader:
        reader.execute("SELECT count(*) FROM backbeat.finished_tasks")
        before = database.value(PARTITIONS)
        for _ in range(3):
            await _tick(db)
        await tasks.add(db)
        assert await tasks.settle(db, await tasks.take_one(db), Succeed({"n": 1}))
        assert database.value(PARTITIONS) >= before
    for _ in range(3):
        await _tick(db)
    assert database.value(PARTITIONS) < before + 7


async def test_the_budget_of_a_task_goes_with_its_history(db: Connection, database: Database) -> None:
    database.sql("UPDATE backbeat.workflows SET max_usd = 1 WHERE name = 'alpha'")
    await _work(db, 21)
    database.advance(timedelta(days=5))
    await _work(db, 11, "later")
    await _tick(db)
    assert database.value(BUDGETS) == 3 + 2
    database.advance(DAY)
    await _tick(db)
    assert database.value(BUDGETS) == 2
    # What workflows and tenants used on a day is the record of the bill.
    assert database.value("SELECT count(*) FROM backbeat.budgets WHERE scope IN ('workflow', 'tenant')") == 4


WORKFLOWS = """
    SELECT (SELECT count(*) FROM backbeat.orchestrated_workflows WHERE workflow <> 'approve_effect'),
           (SELECT count(*) FROM backbeat.orchestrated_workflows_steps), (SELECT count(*) FROM backbeat.joins),
           (SELECT count(*) FROM backbeat.temporal_outbox), (SELECT count(*) FROM backbeat.model_calls),
           (SELECT count(*) FROM backbeat.budgets WHERE scope = 'task')"""
TOLD = "SELECT (SELECT count(*) FROM backbeat.notifications), (SELECT count(*) FROM backbeat.messages)"
KEPT = """
    SELECT (SELECT count(*) FROM backbeat.approval_requests), (SELECT count(*) FROM backbeat.approval_decisions),
           (SELECT count(*) FROM backbeat.audit_log), (SELECT count(*) FROM backbeat.side_effects)"""


async def test_runs_that_are_over_go_and_what_people_decided_stays(db: Connection, database: Database) -> None:
    database.sql("UPDATE backbeat.retention SET days = 10 WHERE policy = 'workflows'")
    over, open_ = (start(database, "journey") for _ in range(2))
    for run in (over, open_):
        step = Step(1, "judge", "llm", "running", "2026-01-01T00:00:00Z")
        await orchestrations.project(db, Report(str(run), 1, "running", steps=[step]), "r")
        await orchestrations.add_children(db, run, "spread", 0, ("alpha", 1), [{"n": 1}], None, seal=True)
        database.sql("INSERT INTO backbeat.budgets (scope, key, day) VALUES ('task', %s, '-infinity')", [str(run)])
    asked = ask(database)
    decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    for (one,) in database.sql("SELECT id FROM backbeat.notifications"):
        database.sql("SELECT backbeat.route_notification(%s, %s::jsonb)", [one, CHAT])
    sent = "SELECT backbeat.settle_message(m.id, m.lease, 'sent', NULL, 0) FROM backbeat.lease_message('chat', 60) AS m"
    database.sql(sent)
    kept = database.sql(KEPT)
    for run in (over, asked.workflow):
        await orchestrations.project(db, Report(str(run), 2, "completed", result={}), "r")
    database.advance(9 * DAY)
    await _tick(db)
    before = database.sql(WORKFLOWS)[0]
    assert (before[:3], database.sql(TOLD)) == ((2, 2, 2), [(2, 1)])

    database.advance(2 * DAY)
    await _tick(db)
    runs, steps, joins, outbox, _, budgets = database.sql(WORKFLOWS)[0]
    assert (runs, steps, joins, budgets) == (1, 1, 1, before[-1] - 1)
    assert outbox == before[3] - 2, "its start and its wake"
    assert database.sql(TOLD) == [(0, 0)]
    assert database.sql(KEPT) == kept
    assert database.sql(AUDIT_PROBLEMS) == []
    assert database.sql("SELECT status FROM backbeat.orchestrated_workflows WHERE id = %s", [open_]) == [("running",)]
