"""One step of an agent, which is one task: the past is told, one action decided and done, and what follows is said."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from backbeat.agents import record
from backbeat.agents.record import State, Step
from shared.domain.outcome import Child, Dead, Escalate, FanOut, Outcome, Retry, Succeed
from shared.execution.context import Context
from shared.execution.interrupt import Interrupt
from shared.execution.tools import ToolError, call_tool
from shared.llm.classify import backoff

DELEGATE, READ = "delegate", "read_results"
PAGE = 20  # children whose results are read at once
KEPT = 65_536  # characters of an answer that stay on record beside what the model saw of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What a model works by. `system` tells it goal and tools, `action` is the model of one answer.

    `max_repeats` equal calls end it; it sees `max_observation` characters of an answer. `delegate` reads what a call
    hands over: the children, and how many of them may fail. It raises ToolError.
    """

    system: str
    action: type[BaseModel]
    output: type[BaseModel]
    tier: str
    max_steps: int
    max_repeats: int
    max_observation: int
    max_output_tokens: int
    escalate_to: str | None
    delegate: Callable[[Any], tuple[Sequence[Child], int]] | None


async def begin(ctx: Context, max_steps: int) -> State:
    """The agent as it stands. Raises Interrupt when it may take no further step."""
    state = await record.begin_step(ctx.env.db, ctx.task.id, ctx.task.lease)
    if state is None:
        raise Interrupt(None)
    most = state.max_steps or max_steps
    if state.failed:
        raise Interrupt(Dead("children_failed", f"agent {state.id}: {state.failed}; resumed, it goes on without them"))
    if len(state.steps) >= most:
        raise Interrupt(Dead("too_many_steps", f"agent {state.id} has used its {most} steps; resume it with more"))
    return state


async def think(ctx: Context, value: BaseModel, agent: Agent) -> Outcome:
    """Let the model decide one step, and do it."""
    state = await begin(ctx, agent.max_steps)
    decided: Any = await ctx.llm(
        "step",
        output=agent.action,
        system=agent.system,
        prompt=await transcript(ctx, value, state.steps, agent.max_observation),
        tier=agent.tier,
        max_output_tokens=agent.max_output_tokens,
        grows=True,
    )
    taken = {name: getattr(decided, name) for name in ("action", "tool", "args", "reasoning")}
    match decided.action:
        case "tool_call" if agent.delegate and decided.tool == DELEGATE:
            try:
                return hand_over(taken, *agent.delegate(decided.args))
            except ToolError as error:
                return _on(taken, f"error: {error}", agent)
        case "tool_call":
            times = 1 + sum((step.tool, step.args) == (decided.tool, decided.args) for step in state.steps)
            line = f"agent {state.id} wanted {decided.tool} with the same arguments {times} times; fork it earlier"
            return await _call(ctx, state, taken, agent) if times < agent.max_repeats else Dead("agent_loop", line)
        case "done":
            try:
                result = agent.output.model_validate(decided.args).model_dump(mode="json")
            except ValidationError as error:
                return _on(taken, f"error: args do not fit what the goal asks for: {error}", agent)
            return Succeed({"agent": "done", "step": taken, "result": result})
        case "escalate" if agent.escalate_to:
            body = {"agent": str(state.id), "input": value.model_dump(mode="json"), "reasoning": decided.reasoning}
            return Escalate(agent.escalate_to, body, {"step": taken})
        case "escalate":
            return Dead("agent_escalated", f"agent {state.id} asks for a person: {decided.reasoning}")
    return _on(taken, "noted", agent)


async def transcript(ctx: Context, value: BaseModel, steps: Sequence[Step], most: int) -> str:
    """The prompt of the next step; it begins with the whole one of the step before, which vendors cache."""
    parts = [f"<input>\n{data(value.model_dump_json())}\n</input>"]
    for step in steps:
        seen = step.observation or cut(shown(await read_page(ctx, step, 1)), most)
        taken = {"action": step.action, "tool": step.tool, "args": step.args, "reasoning": step.reasoning}
        parts.append(told(step.number, taken, seen))
    return "\n\n".join(parts)


def told(number: int, taken: dict[str, Any], seen: str) -> str:
    """A step and what came of it, as the prompt of the next has it."""
    step = f'<step number="{number}">\n{data(shown(taken))}\n</step>'
    return f"{step}\n\n<observation>\n{data(seen)}\n</observation>"


async def read_page(ctx: Context, step: Step, page: int) -> dict[str, Any]:
    """How children of a step ended, so many a page, the first being 1."""
    results = await record.children(ctx.env.db, step.task_id, (page - 1) * PAGE, PAGE)
    return {"children": results[0]["total"] if results else 0, "page": page, "results": results}


def hand_over(taken: dict[str, Any], made: Sequence[Child], tolerated: int) -> Outcome:
    """The end of a step whose agent goes on when these have ended, of which so many may fail."""
    waits = {"agent": "waiting" if made else "thinking", "step": taken, "tolerated": tolerated}
    return FanOut(made, waits) if made else Succeed(waits)


async def _call(ctx: Context, state: State, taken: dict[str, Any], agent: Agent) -> Outcome:
    args = taken["args"] or {}
    reads = agent.delegate and taken["tool"] == READ
    act = _read(ctx, state, args.get("page")) if reads else call_tool(ctx, "tool", taken["tool"], args)
    output, seen = await observe(ctx, taken["tool"], act)
    return _on(taken | {"output": output if len(shown(output)) <= KEPT else None}, seen, agent)


async def observe(ctx: Context, tool: str, act: Awaitable[Any]) -> tuple[Any, str]:
    """What a tool answered, and what a model is told of it.

    One that fails ends the attempt while attempts are left; then the model hears of it.
    """
    try:
        output = await act
        return output, shown(output) or "(empty)"
    except ToolError as error:
        return None, f"error: {error}"
    except Exception as error:
        seen = f"error: {type(error).__name__}: {error}"
        if ctx.task.attempts < ctx.task.max_attempts:
            again = Retry("tool_failed", f"{tool}: {seen}", backoff(ctx.task.attempts, ctx.env.rng))
            raise Interrupt(again) from error
        return None, seen


async def _read(ctx: Context, state: State, page: Any) -> Any:
    last = next((step for step in reversed(state.steps) if step.tool == DELEGATE and step.observation is None), None)
    found = await read_page(ctx, last, page) if last and isinstance(page, int) and page > 0 else {}
    if not found.get("results"):
        raise ToolError(f"there is no page {page} of results")
    return found


def _on(taken: dict[str, Any], seen: str, agent: Agent) -> Succeed:
    return Succeed({"agent": "thinking", "step": taken | {"observation": cut(seen, agent.max_observation)}})


def cut(text: str, most: int) -> str:
    """The beginning and the end of what is too long, with a line between that says so."""
    head, tail = most * 3 // 4, most // 4
    left = len(text) - head - tail
    return text if left <= 0 else f"{text[:head]}\n… {left} characters are left out here …\n{text[-tail:]}"


def shown(value: Any) -> str:
    """What a model is told of a value: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


def data(text: str) -> str:
    """Nothing that is told can end the element it is told in."""
    return text.replace("</", "<\\/")
