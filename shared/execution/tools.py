"""One call of a tool: arguments checked, time bounded, a span for each; a tool that writes goes through the ledger."""

import asyncio
import json
from typing import Any, Protocol

from pydantic import ValidationError

from shared import clock
from shared.db.queue import Task
from shared.definitions import Definition, Tool
from shared.domain.outcome import Release, Retry
from shared.errors import BackbeatError
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.execution.spans import tool_span


class ToolError(BackbeatError):
    """A tool refuses, or cannot do what is asked: whoever called it should hear why, and not try the same again."""


class Caller(Protocol):
    """Whose tool is called: a task's context, or what stands before one."""

    env: Environment
    task: Task
    definition: Definition

    async def effect(self, step: str, kind: str, request: dict[str, Any], /) -> Any: ...


async def call_tool(ctx: Caller, step: str, name: str, args: dict[str, Any]) -> Any:
    """The JSON a tool of this task's definition answers. Raises ToolError, TimeoutError, and what the tool raises."""
    tool = next((one for one in ctx.definition.tools if one.name == name), None)
    if tool is None:
        raise ToolError(f"{ctx.definition.full_name} may not call a tool {name!r}")
    if not ctx.env.deadline.allows(0.0):
        raise Interrupt(Release("out_of_time", after=5.0))
    started, problem = clock.wall_ns(), None
    try:
        return await _call(ctx, step, tool, args)
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
        raise
    finally:
        ctx.env.telemetry.record(tool_span(ctx.env, ctx.task, step, tool.name, started, problem))


async def _call(ctx: Caller, step: str, tool: Tool, args: dict[str, Any]) -> Any:
    try:
        value = tool.args.model_validate(args)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'args'}: {one['msg']}" for one in error.errors()[:5])
        raise ToolError(f"the arguments of {tool.name} do not fit: {found}") from error
    if tool.effect is not None:
        try:
            return await ctx.effect(step, tool.effect.kind, value.model_dump(mode="json"))
        except Interrupt as interrupt:
            if isinstance(interrupt.outcome, Retry):
                # The far side said no: it certainly did not happen.
                raise ToolError(interrupt.outcome.error) from interrupt
            raise
    if tool.call is None:
        raise ToolError(f"{tool.name} neither reads nor writes")
    # One that takes longer than a tick has counts as failed, or it would be begun for ever.
    patience = min(tool.timeout, max(ctx.env.deadline.left, 0.0))
    try:
        async with asyncio.timeout(patience):
            result = await tool.call(value)
    except TimeoutError as error:
        raise TimeoutError(f"{tool.name} did not answer within {patience:.3g} seconds") from error
    try:
        json.dumps(result, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ToolError(f"{tool.name} answered what is no JSON: {error}") from error
    return result
