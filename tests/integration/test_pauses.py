"""Pauses and urgency: what is not started, and what is started first."""

from datetime import UTC, datetime, timedelta

import psycopg

from shared.db import queue
from shared.db.queries import load
from shared.domain.outcome import Retry, Succeed
from tests.support import tasks
from tests.support.databases import Database

SCREEN = tasks.definition("screen", tier="rules") | {"bulk": 50, "idempotency": False}


def _pause(database: Database, scope: str, key: str) -> int:
    return int(database.value("SELECT backbeat.pause(%s, %s, 'a test', 'tester')", [scope, key]))


def _resume(database: Database, scope: str, key: str) -> bool:
    return bool(database.value("SELECT backbeat.unpause(%s, %s, 'tester')", [scope, key]))


def _states(database: Database) -> dict[str, int]:
    return dict(database.sql("SELECT workflow || ' ' || status, count(*) FROM backbeat.simple_tasks GROUP BY 1"))


async def test_a_paused_tenant_starts_nothing_and_wakes_nobody(database: Database) -> None:
    async with tasks.worker(database) as db:
        database.sql("INSERT INTO backbeat.tenants (id) VALUES ('acme')")
        await tasks.add(db, 100, tenant="acme")
        running = await tasks.take(db, 2)
        assert _pause(database, "tenant", "acme") == 62
        assert await tasks.take(db) == []
        # What runs goes on, and what it leaves to do waits with the rest.
        assert await tasks.settle(db, running[0], Retry("x", "y"))
        await queue.sweep(db)
        assert _states(database) == {"alpha pending": 99, "alpha running": 1}
        assert await tasks.settle(db, running[1], Succeed(1))
        assert not (await db.row(load("queue")["anything_to_do"]))["work"]
        await tasks.add(db, 1, tenant="acme")
        assert await tasks.take(db) == []
        assert _resume(database, "tenant", "acme")
        assert (await db.row(load("queue")["anything_to_do"]))["work"]
        await queue.sweep(db)
        again = await tasks.take(db, 100)
        assert len(again) == 64
        assert again[0].id == running[0].id
        assert not _resume(database, "tenant", "acme")


async def test_a_paused_workflow_is_parked_and_lets_others_by(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 200)
        await tasks.add(db, 3, workflow="beta")
        assert _pause(database, "workflow", "alpha") == 64
        await queue.sweep(db)
        assert [task.workflow for task in await tasks.take(db)] == ["beta"] * 3
        assert _states(database) == {"alpha held": 200, "beta running": 3}
        assert _resume(database, "workflow", "alpha")
        await queue.sweep(db)
        assert [task.workflow for task in await tasks.take(db)] == ["alpha"] * 64
    actions = "SELECT detail ->> 'by', action, subject FROM backbeat.audit_log ORDER BY id"
    assert database.sql(actions) == [
        ("tester", "queue.paused", "workflow/alpha"),
        ("tester", "queue.resumed", "workflow/alpha"),
    ]


async def test_a_paused_workflow_in_a_bulk_lane_is_parked_too(database: Database) -> None:
    async with tasks.worker(database) as db:
        await queue.register(db, "w", "cron", [SCREEN])
        await tasks.submit(db, [{}] * 5, workflow="screen")
        _pause(database, "workflow", "screen")
        assert await queue.claim(db, "w", ["screen@1"], 9, 60.0, bulk=True) == []
        await queue.sweep(db)
        assert _states(database) == {"screen held": 5}
        _resume(database, "workflow", "screen")
        assert len(await queue.claim(db, "w", ["screen@1"], 9, 60.0, bulk=True)) == 5


async def test_urgent_rows_go_first_within_their_share(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 60, class_="high")
        await tasks.settle(db, (await tasks.take(db, 40))[0], Succeed(1))
        # The urgent flow's clock is far ahead, as after a burst: in the fair walk its rows would come last.
        database.sql("INSERT INTO backbeat.flows VALUES ('default', 'small', 'urgent', 1000)")
        await tasks.add(db, 60, class_="urgent")
        assert [task.class_ for task in await tasks.take(db, 16)].count("urgent") == 4
        assert [task.class_ for task in await tasks.take(db, 8)].count("urgent") == 2
        # Beyond it they take what others leave.
        assert [task.class_ for task in await tasks.take(db, 8)].count("urgent") == 6


async def test_what_lies_behind_a_paused_backlog_runs_in_the_next_tick(database: Database) -> None:
    async with tasks.worker(database) as db:
        _pause(database, "workflow", "alpha")
        await tasks.add(db, 5000)
        # A producer's own transaction moves no more of other people's rows than a window.
        moved = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'simple_tasks'"
        enqueue = "SELECT task_id FROM backbeat.enqueue('beta', 1, ARRAY['{}'::jsonb])"
        with psycopg.connect(database.owner_url) as producer:
            producer.execute(enqueue)
            ((parked,),) = producer.execute(moved).fetchall()
        assert parked <= 64
        await queue.sweep(db)
        assert [task.workflow for task in await tasks.take(db)] == ["beta"]
        assert _states(database) == {"alpha held": 5000, "beta running": 1}
        assert not (await db.row(load("queue")["anything_to_do"]))["work"]


async def test_a_window_with_few_paused_rows_is_filled_all_the_same(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 64)
        await tasks.add(db, 3000, workflow="beta")
        _pause(database, "workflow", "beta")
        await tasks.add(db, 100)
        await tasks.take(db, 64)
        await queue.sweep(db)
        assert [task.workflow for task in await tasks.take(db)] == ["alpha"] * 64


async def test_bulk_lanes_do_not_keep_single_rows_from_their_windows(database: Database) -> None:
    async with tasks.worker(database) as db:
        await queue.register(db, "w", "cron", [SCREEN])
        database.sql("INSERT INTO backbeat.tenants (id) SELECT 't' || n FROM generate_series(1, 5) n")
        for n in range(1, 6):
            await tasks.submit(db, [{}], workflow="screen", tenant=f"t{n}")
        await tasks.add(db, 1, run_after=datetime.now(UTC) + timedelta(hours=1))
        database.sql("UPDATE backbeat.flows SET last_v = 1000 WHERE tier = 'small'")
        database.sql("UPDATE backbeat.simple_tasks SET run_after = backbeat.now() WHERE run_after IS NOT NULL")
        assert (await queue.sweep(db, 64))["promoted"] == 1
