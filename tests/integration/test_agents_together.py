"""Parents and children: a join wakes the parent once, results come in pages, the parent's budget pays for all."""

from pathlib import Path
from typing import Any

import pytest

from backbeat.authoring_agents import tolerated
from shared.db import queue
from shared.domain.outcome import Dead, Succeed
from shared.execution.attempt import attempt
from tests.support import tasks
from tests.support.agents import DONE, NOTES, job, use, written
from tests.support.databases import Database
from tests.support.desk import desk


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(NOTES, str(tmp_path))
    return tmp_path


def delegate(*children: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return use("delegate", children=[{"definition": name, "input": given} for name, given in children])


@pytest.mark.parametrize(
    ("policy", "children", "wanted"),
    [("all", 10, 0), ("any", 10, 9), (3, 10, 7), (0.8, 10, 2), (0.75, 3, 0), (5, 3, 0), (1.0, 4, 0), ("any", 1, 0)],
)
def test_policies(policy: Any, children: int, wanted: int) -> None:
    assert tolerated(policy, children) == wanted


async def test_code_plans_waits_and_merges(database: Database, notes: Path) -> None:
    async with desk(database) as work:
        one = await work.add("boss", {"n": 7, "parts": 25, "bad": 3})
        await work.drain()
        agent, steps = work.agent(one), work.steps(one)
    assert (agent["status"], agent["result"]) == ("done", {"parts": 25, "failed": 3})
    assert [step["action"] for step in steps] == ["tool_call", "done"]
    assert written(notes) == ["merged 7"]
    ((left, failed, children),) = database.sql(
        "SELECT children_left, failed, cardinality(children) FROM backbeat.joins"
    )
    assert (left, failed, children) == (0, 3, 25)
    ((spent, calls),) = database.sql(
        "SELECT spent_tokens, calls FROM backbeat.budgets WHERE (scope, key) = ('agent', %s)", [str(one)]
    )
    everything = "SELECT sum(uncached + output), count(*) FROM backbeat.model_calls WHERE status = 'done'"
    assert [(spent, calls)] == database.sql(everything)
    assert calls == 25


async def test_a_model_hands_work_to_tasks_and_agents_and_reads_what_they_say(database: Database) -> None:
    async with desk(database) as work:
        inner = job(2, use("look_up", word="abc"), {"action": "respond"}, DONE)
        dying = job(3, {"action": "escalate"})
        script = [delegate(("part", {"n": 1, "text": "x"}), ("scripted", inner), ("scripted", dying)), DONE]
        one = await work.add("lead", job(1, *script))
        await work.drain()
        agent = work.agent(one)
        assert (agent["status"], agent["steps"]) == ("done", 2), agent
        seen = work.vendor.prompts[-1]
    assert '"children": 3, "page": 1' in seen
    assert '"status": "succeeded"' in seen
    assert '"result": {"summary": "all done"}' in seen
    assert "asks for a person" in seen
    assert database.sql("SELECT children_left, failed FROM backbeat.joins") == [(0, 1)]
    assert database.value("SELECT count(*) FROM backbeat.finished_tasks WHERE agent_id = %s", [one]) == 2


async def test_results_are_read_in_pages(database: Database) -> None:
    async with desk(database) as work:
        parts = [("part", {"n": n, "text": f"part {n}"}) for n in range(45)]
        script = [delegate(*parts), use("read_results", page=3), use("read_results", page=4), DONE]
        one = await work.add("lead", job(1, *script))
        await work.drain()
        assert work.agent(one)["status"] == "done", work.agent(one)
        _, third, fourth, _ = work.steps(one)
    assert [row["n"] for row in third["output"]["results"]] == list(range(41, 46))
    assert third["output"]["children"] == 45
    assert fourth["observation"] == "error: there is no page 4 of results"


async def test_too_many_failures_wake_the_parent_at_once_and_end_the_rest(database: Database) -> None:
    async with desk(database) as work:
        one = await work.add("boss", {"n": 1, "parts": 6})
        await work.turn()
        assert work.agent(one)["status"] == "waiting"
        claimed = await queue.claim(work.db, "desk", ["part@1"], 5, 60.0)
        await queue.settle(work.db, [(task, Dead("bad", "no")) for task in claimed])
        assert work.agent(one)["status"] == "thinking"
        await work.drain()
        agent = work.agent(one)
        assert agent["error"].startswith(f"children_failed: agent {one}: 5 of 6 children failed, 4 are tolerated")
        cancelled = "SELECT count(*) FROM backbeat.finished_tasks WHERE status = 'cancelled'"
        assert database.value(cancelled) == 1
        # A person looked: it goes on without them.
        assert database.value("SELECT backbeat.resume_agent(%s, NULL, NULL, NULL, 'me', 'why')", [one])
        await work.drain()
        assert work.agent(one)["result"] == {"parts": 6, "failed": 6}


async def test_every_child_counts_once_however_they_end_together(database: Database) -> None:
    async with desk(database) as work:
        one = await work.add("boss", {"n": 1, "parts": 40})
        await work.turn()
        claimed = await queue.claim(work.db, "desk", ["part@1"], 40, 60.0)
        assert len(claimed) == 40
        ends = [(task, Succeed({"summary": "x"})) for task in claimed]
        assert await queue.settle(work.db, ends[:39]) == set()
        assert await queue.settle(work.db, ends[:39]) == {task.id for task, _ in ends[:39]}
        assert database.sql("SELECT children_left FROM backbeat.joins") == [(1,)]
        assert database.value("SELECT count(*) FROM backbeat.simple_tasks WHERE agent_id = %s", [one]) == 0
        await queue.settle(work.db, ends[39:])
        assert database.value("SELECT count(*) FROM backbeat.simple_tasks WHERE agent_id = %s", [one]) == 1
        await work.drain()
        assert work.agent(one)["result"] == {"parts": 40, "failed": 0}


async def test_cancelling_a_parent_ends_all_below_it(database: Database) -> None:
    async with desk(database) as work:
        deep = job(2, delegate(("part", {"n": 1, "text": "x"}), ("part", {"n": 2, "text": "y"})), DONE)
        one = await work.add("nested", job(1, delegate(("lead", deep), ("part", {"n": 3, "text": "z"})), DONE))
        await work.turn()
        (task,) = await queue.claim(work.db, "desk", ["lead@1"], 1, 60.0)
        planned = await attempt(work.env, task)
        assert planned
        await tasks.settle(work.db, task, planned)
        assert database.value("SELECT count(*) FROM backbeat.agents WHERE status = 'waiting'") == 2
        assert database.value("SELECT backbeat.cancel_agent(%s, 'enough', 'me')", [one]) >= 3
        assert database.sql("SELECT * FROM backbeat.simple_tasks") == []
        assert database.sql("SELECT DISTINCT status FROM backbeat.agents") == [("cancelled",)]
        assert database.sql("SELECT DISTINCT children_left FROM backbeat.joins") == [(0,)]


async def test_children_spend_the_parents_budget(database: Database) -> None:
    async with desk(database) as work:
        database.sql("UPDATE backbeat.workflows SET max_tokens = 400 WHERE name = 'boss'")
        one = await work.add("boss", {"n": 1, "parts": 8})
        await work.drain()
        agent = work.agent(one)
    letters = database.sql("SELECT DISTINCT error_class FROM backbeat.dead_letters WHERE workflow = 'part'")
    assert letters == [("over_agent_budget",)]
    assert agent["status"] == "dead"
    ((spent, cap),) = database.sql(
        "SELECT spent_tokens + presumed_tokens, cap_tokens FROM backbeat.budgets WHERE key = %s", [str(one)]
    )
    assert spent <= cap
