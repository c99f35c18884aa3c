"""The examples with agents, on the simulated provider's rules."""

import json

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
    async with desk(database, "examples.market_watch.definitions") as work:
        one = await work.add("market_watch", {"day": "2026-11-20", "regions": ["north", "south", "east"]})
        await work.drain()
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
