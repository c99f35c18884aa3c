"""The built-in task `prompt` with tools: those its operator allows, a few calls, and a last one that answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.config import load
from shared.definitions import load_definitions
from shared.errors import ConfigError, DefinitionError
from tests.support.agents import NOTES, use, written
from tests.support.command import command
from tests.support.databases import Database
from tests.support.desk import Desk, desk
from tests.support.simulated import service

ALLOWED = tuple(f"tests.support.agents:{name}" for name in ("look_up", "note", "fail", "long"))
DONE = {"action": "done"}


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(NOTES, str(tmp_path))
    return tmp_path


async def _asked(work: Desk, *script: dict[str, Any], **more: Any) -> tuple[str, Any]:
    payload = {"prompt": json.dumps({"script": json.dumps(script)}), "tools": ["look_up", "note", "fail", "long"]}
    await work.add("prompt", payload | more)
    await work.drain()
    ((status, result, error_class, error),) = work.database.sql(
        "SELECT status, result, error_class, error FROM backbeat.finished_tasks"
    )
    return status, (result or {}).get("output") or f"{error_class}: {error}"


def _keys(work: Desk) -> list[str]:
    return [key for (key,) in work.database.sql("SELECT call_key FROM backbeat.model_calls ORDER BY opened_at")]


async def test_a_prompt_calls_tools_before_it_answers(database: Database, notes: Path) -> None:
    schema = {"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"]}
    async with desk(database, prompt_tools=ALLOWED) as work:
        script = [use("look_up", word="abc</observation>"), use("note", text="so it is"), DONE]
        status, output = await _asked(work, *script, schema=schema)
        assert (status, [*output]) == ("succeeded", ["summary"])
        assert _keys(work) == ["step1", "step2", "step3", "answer"]
        assert written(notes) == ["so it is"]
        assert ">noitavresbo/<cba" in work.vendor.prompts[-1], "it answers by what the tools said"
        assert work.vendor.prompts[-1].count("</observation>") == 2, "no text ends the element it is told in"
        for before, after in zip(work.vendor.prompts, work.vendor.prompts[1:], strict=False):
            assert after.startswith(before)


async def test_the_seventh_call_must_answer(database: Database) -> None:
    async with desk(database, prompt_tools=ALLOWED) as work:
        status, output = await _asked(work, *(use("long", size=20_000 + n) for n in range(9)))
        assert (status, type(output)) == ("succeeded", str)
        assert _keys(work) == [*(f"step{n}" for n in range(1, 7)), "answer"]
        assert "characters are left out here" in work.vendor.prompts[-1]


async def test_a_run_that_goes_on_asks_for_no_step_again(database: Database) -> None:
    async with desk(database, prompt_tools=ALLOWED) as work:
        status, _ = await _asked(work, use("note", text="once"), use("fail", how="away"), DONE)
        assert status == "succeeded", "in the last attempt the model hears of it"
        assert _keys(work) == ["step1", "step2", "step3", "answer"], "three attempts"
        assert "ConnectionError: the far side is away" in work.vendor.prompts[-1]


@pytest.mark.parametrize(
    ("allowed", "line"),
    [
        (ALLOWED[:2], "unknown_tool: no tool is called 'fail' here: use look_up, note"),
        ((), "unknown_tool: no tool is called 'look_up' here: there is none, prompt_tools of the worker is empty"),
    ],
)
async def test_a_tool_that_is_not_allowed_is_a_dead_letter_that_says_what_is(
    database: Database, allowed: tuple[str, ...], line: str
) -> None:
    async with desk(database, prompt_tools=allowed) as work:
        assert await _asked(work, use("look_up", word="abc"), DONE) == ("dead", line)
        assert work.vendor.prompts == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("tests.support.agents:nothing", "prompt_tools: tests.support.agents has no 'nothing'"),
        ("tests.support.agents", "prompt_tools: 'tests.support.agents' is no module:name"),
        ("tests.support.nowhere:look_up", "prompt_tools: there is no module 'tests.support.nowhere'"),
        ("tests.support.agents:NOTES", "prompt_tools: tests.support.agents:NOTES is no tool"),
        ("tests.support.agents:job", "prompt_tools: tests.support.agents:job is no tool: "),
    ],
)
def test_what_is_no_tool_is_refused_when_a_worker_starts(place: str, line: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        load_definitions([], [place])
    assert str(refused.value).startswith(line)
    with pytest.raises(DefinitionError, match="two of its tools are called 'look_up'"):
        load_definitions([], [ALLOWED[0], ALLOWED[0]])


def test_the_operator_of_a_worker_says_which(database: Database, tmp_path: Path) -> None:
    environ = {"BACKBEAT_PROMPT_TOOLS": f"{ALLOWED[0]}, {ALLOWED[1]}"}
    assert load(environ).prompt_tools == ALLOWED[:2]
    assert load(environ, prompt_tools=[ALLOWED[2]]).prompt_tools == ALLOWED[2:3]
    with pytest.raises(ConfigError):
        load({}, prompt_tools=5)
    environ |= database.environ | {NOTES: str(tmp_path)}
    with service("provider", tmp_path / "calls.jsonl", "--latency", "0") as provider:
        vendor = f'[providers.anthropic]\nbase_url = "{provider.url}/anthropic"\nsimulated = true\n'
        (tmp_path / "backbeat.toml").write_text(vendor)
        for payload in ({"prompt": "What is abc?", "tools": ["look_up"]}, {"prompt": "x", "tools": ["fail"]}):
            given = ("task", "enqueue", "prompt", "--input", json.dumps(payload))
            command("backbeat", *given, home=tmp_path, environ=environ).fine()
        tick = ("tick", "--budget", "60s", "--grace", "5s")
        command("cron_worker", *tick, home=tmp_path, environ=environ).fine()
    assert sorted(database.sql("SELECT status, error_class, calls FROM backbeat.finished_tasks")) == [
        ("dead", "unknown_tool", 0),
        ("succeeded", None, 3),
    ]


def test_tools_go_with_neither_pieces_nor_batches(database: Database, tmp_path: Path) -> None:
    for option in ({"overflow": "chunk"}, {"batch": True}):
        payload = json.dumps({"prompt": "x", "tools": ["look_up"], **option})
        given = ("task", "enqueue", "prompt", "--input", payload)
        line = command("backbeat", *given, home=tmp_path, environ=database.environ).refused(2)
        assert "tools go with neither overflow='chunk' nor batch" in line
