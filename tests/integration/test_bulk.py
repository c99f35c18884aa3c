"""Rows that are handled by the hundred: claimed, answered and settled together, and each on its own all the same."""

from datetime import timedelta
from pathlib import Path

import pytest

from cron_worker import bulk
from cron_worker.limits import Limits, Report
from cron_worker.tick import tick
from shared.config import Config
from shared.db import queue
from shared.db.pool import Database as Connection
from shared.domain.outcome import Child, FanOut, Outcome, Retry, Succeed
from tests.support import every_postgres, screening, tasks
from tests.support.databases import Database

SCREEN = tasks.definition("screen", tier="rules") | {"bulk": 50, "history": "failures", "idempotency": False}
LOADED = ["screen@1"]


async def _known(db: Connection) -> None:
    await queue.register(db, "w", "cron", [SCREEN, tasks.definition("judge")])


async def _rows(db: Connection, limit: int = 50) -> list[queue.Task]:
    return await queue.claim(db, "w", LOADED, limit, 60.0, bulk=True)


async def _beat(database: Database, spool: Path, most: int | None = None) -> Report:
    config = Config(database_url=database.worker_url, definitions=("tests.support.screening",), spool_dir=spool)
    return await tick(config, Limits(budget=20, grace=5, max_tasks=most))


@pytest.fixture(autouse=True)
def _no_second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that takes long would begin it: what failed once waits for an hour."""
    monkeypatch.setattr("shared.execution.batch.backoff", lambda *_: 3600.0)


@every_postgres
async def test_a_tick_drains_rows_in_batches_and_the_tasks_they_leave_behind(
    database: Database, tmp_path: Path
) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": n} for n in range(450)], workflow="screen")
        (bad,) = await tasks.submit(db, [{"n": "many"}], workflow="screen")
    report = await _beat(database, tmp_path)
    ended = (
        "SELECT workflow, status, error_class, count(*) FROM backbeat.finished_tasks GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    assert database.sql(ended) == [
        ("judge", "succeeded", None, 4),
        ("screen", "dead", "invalid_payload", 1),
        ("screen", "dead", "refused", 1),
        ("screen", "succeeded", None, 448),
    ]
    # Thirteen raises each time: it waits for its next attempt alone, and took nobody with it.
    assert database.sql("SELECT payload, status, attempts FROM backbeat.simple_tasks") == [({"n": 13}, "delayed", 1)]
    assert database.value("SELECT error FROM backbeat.dead_letters WHERE id = %s", [bad.task_id]).startswith("n: ")
    children = """
        SELECT (c.payload ->> 'n')::int
        FROM backbeat.finished_tasks c JOIN backbeat.finished_tasks p ON p.id = c.parent_id
        WHERE c.origin_id = p.origin_id AND c.payload = p.payload ORDER BY 1"""
    assert database.sql(children) == [(50,), (150,), (250,), (350,)]
    assert database.sql(
        "SELECT DISTINCT history FROM backbeat.finished_tasks WHERE workflow = 'screen' AND status = 'succeeded'"
    ) == [([],)]
    assert report.refused == 0


async def test_a_turn_settles_and_claims_and_reports_what_was_lost(database: Database) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": n} for n in range(30)], workflow="screen")
        first = await _rows(db, 10)
        assert [task.payload["n"] for task in first] == list(range(10))
        database.sql("SELECT backbeat.finish(ARRAY[%s::uuid], 'cancelled', 'cancelled', 'test')", [first[3].id])
        refused, second = await queue.turn(db, [(task, Succeed(1)) for task in first], "w", LOADED, 10, 60.0)
        assert refused == {first[3].id}
        assert [task.payload["n"] for task in second] == list(range(10, 20))
        refused, third = await queue.turn(db, [(task, Retry("x", "y")) for task in second], "w", LOADED, 20, 60.0)
        # What is to be done again comes first.
        assert (refused, [task.payload["n"] for task in third]) == (set(), list(range(10, 30)))
        assert {task.attempts for task in third[:10]} == {2}


async def test_an_outcome_that_postgres_refuses_undoes_no_other(database: Database) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": n} for n in range(3)], workflow="screen")
        rows = await _rows(db)
        ends: list[tuple[queue.Task, Outcome]] = [
            (rows[0], Succeed(1)),
            (rows[1], FanOut([Child("nobody", 1, {})])),
            (rows[2], FanOut([Child("judge", 1, {})])),
        ]
        assert await queue.turn(db, ends, "w", LOADED, 10, 60.0) == (set(), [])
    told = "SELECT status, error_class FROM backbeat.finished_tasks ORDER BY id"
    assert database.sql(told) == [("succeeded", None), ("dead", "not_storable"), ("succeeded", None)]
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks WHERE workflow = 'judge'") == 1


async def test_bulk_rows_and_single_rows_are_claimed_apart(database: Database) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{}], workflow="screen")
        await tasks.submit(db, [{}], workflow="judge")
        assert [task.workflow for task in await tasks.take(db, loaded=["screen@1", "judge@1"])] == ["judge"]
        assert [task.workflow for task in await queue.claim(db, "w", ["screen@1", "judge@1"], 9, 60.0, bulk=True)] == [
            "screen"
        ]


async def test_tenants_of_a_bulk_lane_take_turns_by_weight_and_caps_hold(database: Database) -> None:
    database.sql("INSERT INTO backbeat.tenants (id, weight, max_running) VALUES ('big', 3, NULL), ('capped', 1, 5)")
    served = {"default": 0, "big": 0, "capped": 0}
    async with tasks.worker(database) as db:
        await _known(db)
        for tenant in served:
            await tasks.submit(db, [{"n": n} for n in range(400)], workflow="screen", tenant=tenant)
        for _ in range(16):
            rows = await _rows(db, 25)
            for row in rows:
                served[row.tenant] += 1
            await queue.settle(db, [(row, Succeed(1)) for row in rows])
        assert abs(served["big"] / 3 - served["default"]) <= 25
        batch = await _rows(db, 400)
        assert len([row for row in batch if row.tenant == "capped"]) == 5
        assert not [row for row in await _rows(db, 400) if row.tenant == "capped"]


async def test_a_killed_batch_comes_back_whole_and_its_last_attempt_row_by_row(database: Database) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": n} for n in range(4)], workflow="screen")
        for attempt in (1, 2):
            assert len(await _rows(db)) == 4, attempt
            database.advance(timedelta(seconds=61))
            assert await queue.reap(db) == 4
        alone = await _rows(db)
        assert [(task.alone, task.attempts) for task in alone] == [(True, 3)]


async def test_a_row_that_must_run_alone_and_may_not_yet_lets_others_by(database: Database) -> None:
    database.sql("INSERT INTO backbeat.tenants (id, max_running) VALUES ('acme', 1)")
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": 0}], workflow="screen", tenant="acme")
        for _ in range(2):
            assert len(await _rows(db)) == 1
            database.advance(timedelta(seconds=61))
            assert await queue.reap(db) == 1
        await tasks.submit(db, [{}], tenant="acme", workflow="judge")
        (busy,) = await tasks.take(db, loaded=["judge@1"])
        await tasks.submit(db, [{"n": 1}], workflow="screen")
        assert [(task.payload, task.alone) for task in await _rows(db)] == [({"n": 1}, False)]
        assert await tasks.settle(db, busy, Succeed(1))
        assert [(task.payload, task.alone) for task in await _rows(db)] == [({"n": 0}, True)]


async def test_a_row_that_must_run_alone_runs_beside_no_single_row(database: Database, tmp_path: Path) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": 99}], workflow="screen")
        for _ in range(2):
            assert len(await _rows(db)) == 1
            database.advance(timedelta(seconds=61))
            assert await queue.reap(db) == 1
        await tasks.submit(db, [{"n": n} for n in range(20)], workflow="judge")
    screening.beside.clear()
    await _beat(database, tmp_path)
    # Whoever claimed first kept the other out; the row may also have been left to the next tick.
    if not screening.beside:
        await _beat(database, tmp_path)
    assert screening.beside == [0] * 8


async def test_a_handler_whose_own_awaiting_was_cancelled_uses_up_its_attempts(
    database: Database, tmp_path: Path
) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": 98}], workflow="screen")
    await _beat(database, tmp_path)
    assert database.sql("SELECT status, attempts FROM backbeat.simple_tasks") == [("delayed", 1)]


async def test_a_handler_that_will_not_end_keeps_its_rows_and_is_named(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LAST_WORDS", 0.0)
    monkeypatch.setattr(bulk, "PATIENCE", 0.3)
    async with tasks.worker(database) as db:
        await _known(db)
        (made,) = await tasks.submit(db, [{"n": 97}], workflow="screen")
    config = Config(database_url=database.worker_url, definitions=("tests.support.screening",), spool_dir=tmp_path)
    try:
        report = await tick(config, Limits(budget=5, grace=0.2))
    finally:
        screening.released.set()
    assert report.hanging == [f"screen {made.task_id}"]
    assert database.sql("SELECT status, attempts FROM backbeat.simple_tasks") == [("running", 1)]


async def test_two_batches_at_a_time_keep_to_the_most_a_tick_may_take(database: Database, tmp_path: Path) -> None:
    async with tasks.worker(database) as db:
        await _known(db)
        await tasks.submit(db, [{"n": 1}] * 700, workflow="screen")
    report = await _beat(database, tmp_path, most=501)
    assert (report.claimed, report.settled) == (501, 501)
    assert database.sql("SELECT status, count(*) FROM backbeat.simple_tasks GROUP BY 1") == [("pending", 199)]
