"""A tool from a function: its signature types the arguments, its docstring's first paragraph describes it."""

import asyncio
import inspect
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from shared.definitions import NAME_PATTERN, Effect, Tool


def tool(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None, timeout: float = 30.0
) -> Tool:
    """A tool that reads: `function` (async or not) takes typed keyword arguments and answers JSON or Pydantic models.

    It may be called again after a crash. Raise ToolError for what the caller should hear; anything else counts as a
    failure that may pass. Raises ValueError for a signature without types.
    """
    named = _name(name or function.__name__)
    told = description or _first_paragraph(function)
    if not told:
        raise ValueError(f"the tool {named!r} has no docstring to describe it by")
    args = _model(named, function)

    async def call(value: BaseModel) -> Any:
        given = {name: getattr(value, name) for name in args.model_fields}
        if inspect.iscoroutinefunction(function):
            return plain(await function(**given))
        return plain(await in_thread(lambda: function(**given)))

    return Tool(name=named, description=told, args=args, call=call, timeout=seconds(timeout))


def writing_tool(
    name: str,
    *,
    description: str,
    args: type[BaseModel],
    perform: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]],
    read_back: Callable[[dict[str, Any], str], Awaitable[dict[str, Any] | None]] | None = None,
    timeout: float = 10.0,
    settle: float = 30.0,
) -> Tool:
    """A tool that writes, once for its step: `perform` and `read_back` are those of `backbeat.effect`.

    Its arguments are the effect's request, and its kind is the tool's name.
    """
    kind = _name(name)
    made = Effect(kind=kind, perform=perform, read_back=read_back, timeout=timeout, settle=settle, request=args)
    return Tool(name=kind, description=description, args=args, effect=made, timeout=seconds(timeout))


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run what blocks; whoever is cancelled meanwhile leaves the thread behind, and the process may end without it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if not answer.done():
            answer.set_exception(error) if error else answer.set_result(result)

    def run() -> None:
        result: Any = None
        problem: BaseException | None = None
        try:
            result = work()
        except StopIteration as error:
            problem = RuntimeError(f"StopIteration: {error}")
        except BaseException as error:
            problem = error
        try:
            loop.call_soon_threadsafe(tell, result, problem)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=run, daemon=True).start()
    return await answer


def _name(name: str) -> str:
    if not re.match(NAME_PATTERN, name):
        raise ValueError(f"a tool's name is lower case letters, digits and underscores, not {name!r}")
    return name


def seconds(timeout: float) -> float:
    """A tool's time, checked."""
    if not 0 < timeout <= 600:
        raise ValueError(f"a tool's timeout is above 0 and at most 600 seconds, not {timeout}")
    return timeout


def _first_paragraph(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def _model(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for one in inspect.signature(function).parameters.values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY) or one.name not in hints:
            raise ValueError(f"the argument {one.name!r} of the tool {name!r} needs a name and a type")
        fields[one.name] = (hints[one.name], ... if one.default is one.empty else one.default)
    return create_model(f"{name}_args", __config__=ConfigDict(extra="forbid"), **fields)


def plain(value: Any) -> Any:
    """JSON of a value that holds Pydantic models."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
