"""Who cancels an agent has the tasks of all below it before it waits for a flow, also of those made meanwhile."""

import asyncio

import psycopg

from backbeat.operate import agents
from shared.db import queue
from shared.execution.attempt import attempt
from tests.integration.test_agents_together import delegate
from tests.support import tasks
from tests.support.agents import DONE, job
from tests.support.databases import Database
from tests.support.desk import desk
from tests.support.signals import until

FREE = "SELECT count(*) FROM (SELECT FROM backbeat.simple_tasks FOR UPDATE SKIP LOCKED) t"


async def test_what_a_step_makes_while_it_is_waited_for_is_locked_before_flows(database: Database) -> None:
    deep = job(2, delegate(("part", {"n": 1, "text": "x"}), ("part", {"n": 2, "text": "y"})), DONE)
    async with (
        desk(database) as work,
        await psycopg.AsyncConnection.connect(database.owner_url) as settling,
        await psycopg.AsyncConnection.connect(database.owner_url) as holding,
    ):
        one = await work.add("nested", job(1, delegate(("lead", deep), ("part", {"n": 3, "text": "z"})), DONE))
        await work.turn()
        (step,) = await queue.claim(work.db, "desk", ["lead@1"], 1, 60.0)
        handed_over = await attempt(work.env, step)
        assert handed_over
        await settling.execute("SELECT backbeat.settle(%s)", [queue._rows([(step, handed_over)])])
        people = tasks.Operator(database)
        cancelling = asyncio.create_task(agents.cancel(people, one, "enough", "me"))
        await tasks.somebody_waits(database)  # for the step's task
        holder = asyncio.create_task(holding.execute("SELECT FROM backbeat.flows FOR UPDATE"))
        await asyncio.to_thread(until, lambda: tasks.waiting(database) == 2, what="both wait for what is being settled")
        await settling.commit()
        await holder
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        pid = holding.info.backend_pid
        await asyncio.to_thread(until, lambda: database.value(blocked, [pid]) == 1, what="it waits for a flow")
        assert database.value(FREE) == 0
        await holding.rollback()
        await cancelling
        assert database.sql("SELECT * FROM backbeat.simple_tasks") == []
        assert database.sql("SELECT DISTINCT status FROM backbeat.agents") == [("cancelled",)]
        assert database.sql("SELECT DISTINCT children_left FROM backbeat.joins") == [(0,)]
