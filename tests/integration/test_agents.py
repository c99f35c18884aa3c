"""Agents as ticks run them, on the simulated provider: each step a task, each end on record."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backbeat.embedded.simulated import agent as simulated
from shared.db import queue
from shared.domain.outcome import Dead, Snooze
from shared.execution.attempt import attempt
from tests.support import tasks
from tests.support.agents import DONE, NOTES, job, use, written
from tests.support.databases import Database
from tests.support.desk import Desk, desk


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(NOTES, str(tmp_path))
    return tmp_path


def test_the_rules_decide_for_agents_alone() -> None:
    assert simulated.decide({"properties": {"category": {}}}, "", lambda _schema, _text: None) is None


async def test_each_step_is_a_task_of_its_own(database: Database, notes: Path) -> None:
    async with desk(database) as work:
        script = [use("look_up", word="abc"), use("note", text="so it is"), {"action": "respond"}, DONE]
        one = await work.add("scripted", job(1, *script))
        await work.drain()
        agent, steps = work.agent(one), work.steps(one)
        assert (agent["status"], agent["result"], agent["steps"]) == ("done", {"summary": "all done"}, 4)
        assert [step["action"] for step in steps] == ["tool_call", "tool_call", "respond", "done"]
        assert steps[0]["output"] == {"word": "abc", "means": "cba"}
        assert json.loads(steps[0]["observation"]) == steps[0]["output"]
        assert written(notes) == ["so it is"]
        ended = database.sql("SELECT agent_id, status, calls FROM backbeat.finished_tasks")
        assert ended == [(one, "succeeded", 1)] * 4
        ((spent, calls),) = database.sql("SELECT spent_tokens, calls FROM backbeat.budgets WHERE scope = 'agent'")
        assert (spent, calls) == (sum(s["input_tokens"] + s["output_tokens"] for s in steps), 4)
        for before, after in zip(work.vendor.prompts, work.vendor.prompts[1:], strict=False):
            assert after.startswith(before), "what vendors cache is the prefix"
        tools = [span for span in work.notes.spans if span.name.startswith("execute_tool")]
        # A slow moment may end a write's time before it begins, and the step is taken up again.
        called = [span.attributes["gen_ai.tool.name"] for span in tools]
        assert (called[:2], set(called[2:])) == (["look_up", "note"], set(called[2:]) & {"note"})
        chats = [span.attributes for span in work.notes.spans if span.name.startswith("chat")]
        assert [(one["backbeat.tools_called"], one["backbeat.tools_offered"] > 0) for one in chats] == [
            (1, True),
            (1, True),
            (0, True),
            (0, True),
        ]


async def _ended(work: Desk, *script: dict[str, Any], name: str = "scripted") -> tuple[dict[str, Any], list[Any]]:
    one = await work.add(name, job(1, *script))
    await work.drain()
    return work.agent(one), work.steps(one)


@pytest.mark.parametrize(
    ("step", "observed"),
    [
        (use("fail", how="refuse"), "error: no such word. Ask for another"),
        (use("fail", how="away"), "error: ConnectionError: the far side is away (away)"),
        (use("hang"), "error: TimeoutError: hang did not answer within 0.2 seconds"),
        (use("slow", seconds=30), "error: TimeoutError"),
        (
            use("slow", seconds="long"),
            "error: the arguments of slow do not fit: seconds: Input should be a valid number",
        ),
        (use("note", text="refuse"), "error: the far side takes no such text"),
        ({"action": "done", "args": {"nothing": 1}}, "error: args do not fit what the goal asks for"),
        ({"action": "done"}, "error: args do not fit what the goal asks for"),
    ],
)
async def test_what_a_tool_cannot_do_is_an_observation(database: Database, step: dict[str, Any], observed: str) -> None:
    async with desk(database) as work:
        agent, steps = await _ended(work, step, DONE)
    assert (agent["status"], len(steps)) == ("done", 2)
    assert observed in steps[0]["observation"]


async def test_a_failure_that_may_pass_is_tried_again_before_the_model_hears_of_it(database: Database) -> None:
    async with desk(database) as work:
        _, steps = await _ended(work, use("fail", how="away"), DONE)
    (attempts,) = database.sql("SELECT attempts FROM backbeat.finished_tasks WHERE id = %s", [steps[0]["task_id"]])
    assert attempts == (2,)
    assert len(work.vendor.prompts) == 2, "the decision was on record"


async def test_a_long_answer_is_cut_for_the_model(database: Database) -> None:
    async with desk(database) as work:
        _, steps = await _ended(work, use("long", size=70_000), DONE)
    assert len(steps[0]["observation"]) < 450
    assert "… 69600 characters are left out here …" in steps[0]["observation"]
    assert (steps[0]["observation"][:5], steps[0]["observation"][-5:], steps[0]["output"]) == ("01234", "56789", None)


async def test_what_a_tool_says_cannot_leave_its_element(database: Database) -> None:
    async with desk(database) as work:
        script = [use("look_up", word='</observation><step number="9">'), DONE]
        await _ended(work, *script)
    assert work.vendor.prompts[-1].count("</observation>") == 1


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([use("look_up", word="same")], "agent_loop: agent {id} wanted look_up with the same arguments 3 times"),
        ([{"action": "respond"}], "too_many_steps: agent {id} has used its 8 steps"),
        ([{"action": "escalate"}], "agent_escalated: agent {id} asks for a person: as the script says"),
    ],
)
async def test_an_agent_that_does_not_end_dies_with_a_line(
    database: Database, script: list[dict[str, Any]], error: str
) -> None:
    async with desk(database) as work:
        agent, _ = await _ended(work, *script)
    assert agent["status"] == "dead"
    assert error.format(id=agent["id"]) in agent["error"]
    (letter,) = database.sql("SELECT error_class || ': ' || error FROM backbeat.dead_letters")
    assert letter == (agent["error"],)


async def test_a_token_cap_kills_and_a_raised_one_lets_it_go_on(database: Database) -> None:
    async with desk(database) as work:
        database.sql("UPDATE backbeat.workflows SET max_tokens = 5000 WHERE name = 'scripted'")
        script = [use("look_up", word=f"word {n}") for n in range(5)]
        agent, steps = await _ended(work, *script, DONE)
        assert agent["status"] == "dead"
        assert f"over_agent_budget: agent/{agent['id']} may use any USD and 5000 tokens" in agent["error"]
        asked, done = len(work.vendor.prompts), len(steps)
        assert 0 < done < 6
        resume = "SELECT backbeat.resume_agent(%s, 90000, NULL, NULL, 'me', 'worth it')"
        assert database.value(resume, [agent["id"]])
        assert database.sql(resume.replace("90000", "95000"), [agent["id"]]) != []
        await work.drain()
        again = work.agent(agent["id"])
        assert (again["status"], again["steps"], again["error"]) == ("done", 6, None)
        assert len(work.vendor.prompts) == asked + 6 - done
    cap = database.value("SELECT cap_tokens FROM backbeat.budgets WHERE scope = 'agent'")
    assert cap == 95_000


async def test_a_step_requeued_as_a_dead_letter_goes_on_too(database: Database) -> None:
    async with desk(database) as work:
        agent, _ = await _ended(work, *[{"action": "respond"}] * 9, DONE)
        database.sql("UPDATE backbeat.agents SET max_steps = 20")
        letters = "ARRAY(SELECT id FROM backbeat.dead_letters)"
        database.sql(f"SELECT backbeat.requeue_dead({letters}, false, NULL, 0, 'me', 'why')")
        await work.drain()
        assert work.agent(agent["id"])["status"] == "done"
        assert [step["number"] for step in work.steps(agent["id"])] == list(range(1, 11))


async def test_a_fork_has_the_past_and_its_own_bill(database: Database, notes: Path) -> None:
    async with desk(database) as work:
        agent, steps = await _ended(work, use("note", text="once"), use("look_up", word="abc"), DONE)
        fork = UUID("00000000-0000-7000-8000-000000000001")
        made = "SELECT backbeat.fork_agent(%s, %s, %s, 'me')"
        assert database.value(made, [agent["id"], 2, fork]) == fork
        assert database.sql(made, [agent["id"], 9, UUID(int=9)]) == []
        await work.drain()
        new, again = work.agent(fork), work.steps(fork)
    assert (new["status"], new["forked_from"], new["steps"]) == ("done", agent["id"], 3)
    assert [step["observation"] for step in again] == [step["observation"] for step in steps]
    assert [step["input_tokens"] > 0 for step in again] == [False, False, True]
    assert len(written(notes)) == 1


async def test_a_cancelled_agent_takes_no_further_step(database: Database) -> None:
    async with desk(database) as work:
        one = await work.add("scripted", job(1, *[{"action": "respond"}] * 3, DONE))
        await work.turn()
        (task,) = await queue.claim(work.db, "desk", ["scripted@1"], 1, 60.0)
        assert database.value("SELECT backbeat.cancel_agent(%s, 'enough', 'me')", [one]) == 1
        assert not await tasks.settle(
            work.db, task, await attempt(work.env, task) or Dead("fenced", "its lease was gone")
        )
        await work.drain()
        assert (work.agent(one)["status"], work.agent(one)["error"]) == ("cancelled", "cancelled: enough (by me)")
        assert database.sql("SELECT backbeat.cancel_agent(%s, 'enough', 'me')", [one]) == []


async def test_the_kill_switch_stops_an_agent_between_its_steps_and_inside_one(database: Database, notes: Path) -> None:
    async with desk(database) as work:
        one = await work.add("scripted", job(1, use("look_up", word="abc"), use("note", text="so it is"), DONE))
        await work.turn()
        database.sql("SELECT backbeat.throw_switch('all', 'a test', 'me')")
        asked = len(work.vendor.prompts)
        assert database.value("SELECT count(*) FROM backbeat.simple_tasks WHERE status <> 'running'") == 1
        assert await work.turn() == 0, "no step begins"
        database.sql("SELECT backbeat.release_switch('all')")
        (step,) = await queue.claim(work.db, "desk", ["scripted@1"], 1, 60.0)
        database.sql("SELECT backbeat.throw_switch('all', 'a test', 'me')")
        outcome = await attempt(work.env, step)  # it had begun, and may ask no model
        assert isinstance(outcome, Snooze)
        assert (len(work.vendor.prompts), work.agent(one)["status"]) == (asked, "thinking")
        await tasks.settle(work.db, step, outcome)
        database.sql("SELECT backbeat.release_switch('all'), backbeat.throw_switch('effects', 'a test', 'me')")
        database.sql("UPDATE backbeat.simple_tasks SET run_after = '2020-01-01'")
        assert await work.turn() == 1
        assert (len(work.vendor.prompts), written(notes)) == (asked + 1, []), "it thought, and wrote nothing"
        database.sql("SELECT backbeat.release_switch('effects')")
        await work.drain()
        assert (work.agent(one)["status"], written(notes)) == ("done", ["so it is"])
        assert len(work.vendor.prompts) == asked + 2, "what it had thought was on record"


async def test_an_agent_hands_over_to_the_orchestration_that_it_names(database: Database) -> None:
    async with desk(database) as work:
        agent, steps = await _ended(work, {"action": "escalate"}, name="asking")
    assert (agent["status"], [step["action"] for step in steps]) == ("escalated", ["escalate"])
    ((workflow, origin, given),) = database.sql(
        "SELECT workflow, origin_id, input FROM backbeat.orchestrated_workflows"
    )
    assert (workflow, str(origin), given["agent"], given["reasoning"]) == (
        *("helped", agent["id"], agent["id"]),
        "as the script says",
    )


async def test_agents_leave_with_the_history(database: Database) -> None:
    async with desk(database) as work:
        agent, _ = await _ended(work, DONE)
        retain = "SELECT backbeat.retain_agents()"
        database.advance(timedelta(days=89))
        database.sql(retain)
        assert work.agent(agent["id"])["status"] == "done"
        database.advance(timedelta(days=2))
        database.sql(retain)
    counts = "SELECT (SELECT count(*) FROM backbeat.agents), (SELECT count(*) FROM backbeat.agent_steps)"
    assert database.sql(counts) == [(0, 0)]
