"""The examples with agents, on the simulated provider's rules."""

import json

from shared.db import queue
from shared.definitions import load_definitions
from shared.execution.attempt import attempt
from tests.support.databases import Database
from tests.support.desk import desk


async def test_the_research_agent_searches_reads_and_answers(database: Database) -> None:
    async with desk(database, "examples.research_agent.definitions") as work:
        one = await work.add("research", {"question": "What does prompt caching save an agent?"})
        await work.drain()
        agent, steps = work.agent(one), work.steps(one)
    assert agent["status"] == "done", agent
    assert [step["tool"] for step in steps][:2] == ["search", "read_file"]
    assert steps[0]["output"][0]["path"] in ("caching.md", "agents.md")
    read = {step["args"]["path"] for step in steps if step["tool"] == "read_file"}
    assert "caching.md" in read
    assert agent["result"]["answer"]


async def test_the_market_watch_plans_waits_and_reports(database: Database) -> None:
    """The outer beat plans and merges; the inner one, which has not loaded the parent, does all between."""
    inner = list(load_definitions(["examples.market_watch.inner"]).tasks)
    async with desk(database, "examples.market_watch.definitions") as work:
        outer = list(work.env.registry.tasks)

        async def beat(loaded: list[str], limit: int) -> int:
            await queue.sweep(work.db)
            claimed = await queue.claim(work.db, "desk", loaded, limit, 60.0)
            ends = [(task, await attempt(work.env, task)) for task in claimed]
            assert not await queue.settle(work.db, [(task, end) for task, end in ends if end])
            return len(claimed)

        one = await work.add("market_watch", {"day": "2026-11-20", "regions": ["north", "south", "east"]})
        assert await beat(inner, 20) == 0
        assert await beat(outer, 1) == 1
        done = [await beat(inner, 20) for _ in range(4)]
        assert done == [6, 3, 0, 0], "six children, of which three are agents of two steps"
        assert work.agent(one)["status"] == "thinking", "woken, and nobody's but the outer beat's"
        assert await beat(outer, 1) == 1
        agent = work.agent(one)
    assert agent["status"] == "done", agent
    report = agent["result"]
    assert (report["day"], report["failed"], len(report["findings"]), sum(report["moods"].values())) == (
        "2026-11-20",
        0,
        3,
        3,
    )
    assert report["moods"]["positive"] == report["moods"]["negative"] == 1
    assert "harvest was lost" in json.dumps(report["findings"])
    kinds = database.sql("SELECT workflow, count(*) FROM backbeat.agents GROUP BY 1 ORDER BY 1")
    assert kinds == [("market_scout", 3), ("market_watch", 1)]
