"""Agents, orchestrators and tools as they are declared: what is wrong is said with its file and line."""

import asyncio
import json
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from backbeat import agent, bounded_loop, orchestrator, tool
from backbeat.authoring_agents import DEFAULT_TOKENS
from backbeat.tools.function import in_thread
from backbeat.tools.http import http
from shared.definitions import load_definitions
from shared.errors import DefinitionError
from shared.llm.structured import json_schema
from tests.support.agents import note


class Given(BaseModel):
    text: str


class Loose(BaseModel):
    anything: dict[str, Any]


async def look(word: str, often: int = 1) -> str:
    """Look a word up.

    This is not told.
    """
    return word * often


def untyped(word):  # type: ignore[no-untyped-def]
    """Nobody knows what goes in."""
    return word


def silent(word: str) -> str:
    return word


async def _steps(*_: Any) -> Any:
    return []


def made(**changed: Any) -> Any:
    given: dict[str, Any] = {"version": 1, "goal": "Do it.", "input": Given, "output": Given, "tier": "small"}
    return agent(changed.pop("name", "worker"), **(given | changed))


def test_a_model_is_told_goal_tools_and_result() -> None:
    definition = made(tools=[look])
    (one,) = definition.tools
    assert (one.name, one.description, one.timeout) == ("look", "Look a word up.", 30.0)
    assert definition.max_tokens == DEFAULT_TOKENS == 200_000
    assert asyncio.run(one.call(one.args(word="ab", often=2))) == "abab"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"goal": " "}, "its goal is empty"),
        ({"max_steps": 0}, "max_steps is 1 to 1,000, not 0"),
        ({"max_repeats": 1}, "max_repeats is 2 to 100"),
        ({"max_observation": 10}, "max_observation is 200"),
        ({"policy": 0}, "its policy is 'all', 'any', a number"),
        ({"policy": 1.5}, "its policy is 'all', 'any', a number"),
        ({"policy": "most"}, "its policy is 'all', 'any', a number"),
        ({"policy": True}, "its policy is 'all', 'any', a number"),
        ({"tools": [untyped]}, "the argument 'word' of the tool 'untyped' needs a name and a type"),
        ({"tools": [silent]}, "the tool 'silent' has no docstring"),
        ({"tools": [look, look]}, "two of its tools are called 'look'"),
        ({"output": Loose}, "has no fixed fields"),
        ({"name": "No Name"}, "a name is lower case"),
        ({"max_tokens": -1}, "must be above 0"),
        ({"tools": [lambda: 1]}, "not '<lambda>'"),
    ],
)
def test_a_mistake_names_file_and_line(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        made(**changed)
    assert why in str(caught.value)
    assert f"{__file__}:" in str(caught.value)


def test_children_may_not_take_the_names_of_what_comes_with_them() -> None:
    async def delegate(word: str) -> str:
        """Not this one."""
        return word

    with pytest.raises(DefinitionError, match="two of its tools are called 'delegate'"):
        made(tools=[delegate], children=[made(name="other")])


def test_a_dear_agent_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="'worker': one agent may use 600,000 tokens") as told:
        made(max_tokens=600_000)
    assert told[0].filename.endswith("authoring_agents.py") or told[0].filename == __file__


def test_an_orchestrator_is_checked_too() -> None:
    given: dict[str, Any] = {"version": 1, "input": Given, "output": Given, "tier": "small"}
    assert orchestrator("boss", plan=_steps, merge=_steps, **given).max_tokens == DEFAULT_TOKENS
    with pytest.raises(DefinitionError, match="its policy"):
        orchestrator("boss", plan=_steps, merge=_steps, policy="some", **given)


def test_every_answer_has_a_shape_that_vendors_can_decode_by() -> None:
    definition = made(tools=[look, note], children=[made(name="other")])
    closure = {cell.cell_contents for cell in definition.run.__closure__ if hasattr(cell.cell_contents, "action")}
    (spec,) = closure
    schema = json_schema(spec.action)
    assert schema["required"] == ["reasoning", "action", "tool", "args"]
    shapes = schema["properties"]["args"]["anyOf"]
    assert [one.get("description") for one in shapes[:-1]] == [
        f"args of {name}" for name in ("look", "note", "delegate", "read_results", "done")
    ]
    assert all(one["additionalProperties"] is False for one in shapes[:-1])
    assert "look: Look a word up." in spec.system
    assert json.dumps(schema)


def test_effects_of_tools_are_found_by_who_loads_the_module() -> None:
    assert list(load_definitions(["tests.support.agent_definitions"]).effects) == ["note"]


def test_code_has_its_list_too() -> None:
    definition = bounded_loop(
        "loop", version=1, input=Given, output=Given, tier="small", run=_steps, tools=[tool(look, name="seek")]
    )
    assert [one.name for one in definition.tools] == ["seek"]


def test_a_tool_without_hosts_or_with_odd_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the hosts"):
        http(hosts=[])
    with pytest.raises(ValueError, match="above 0 and at most 600"):
        tool(look, timeout=0)


async def test_a_thread_that_hangs_is_left_behind() -> None:
    over = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_thread(over.wait)
    over.set()
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(lambda: next(iter([])))
