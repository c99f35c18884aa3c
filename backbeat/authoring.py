"""How an author declares work: `single_shot`, `bounded_loop`, `bulk`, `effect`, `orchestration`.

A mistake in a declaration is a DefinitionError that names the file and line it stands on.
"""

import json
import re
import string
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, TypedDict, Unpack

from pydantic import BaseModel

from backbeat.pieces import in_pieces
from shared.definitions import NAME_PATTERN, Definition, Effect, Orchestration, Tool
from shared.errors import DefinitionError
from shared.execution.batch import BatchContext
from shared.execution.context import Context
from shared.llm.structured import json_schema, validator

Output = type[BaseModel] | Mapping[str, Any]  # a Pydantic model or a JSON Schema


class Options(TypedDict, total=False):
    """What every definition may say beside its work; see `shared.definitions.Definition`."""

    history: str
    trace: str
    idempotency: bool
    max_usd: Decimal | None
    max_tokens: int | None
    batch: bool


def single_shot(
    name: str,
    *,
    version: int,
    input: type[BaseModel],  # noqa: A002
    output: Output,
    tier: str,
    prompt: str,
    system: str = "",
    max_output_tokens: int = 1024,
    overflow: Literal["dead", "chunk"] = "dead",
    attempts: int = 3,
    **options: Unpack[Options],
) -> Definition:
    """A task that is one model call: `prompt` is filled from the fields of `input`, the answer is an `output`.

    `overflow="chunk"` answers a prompt that is longer than every window in pieces; see `in_pieces`.
    Raises DefinitionError when the prompt asks for a field that `input` lacks.
    """
    try:
        unknown = {path for path in _placeholders(prompt) if _lacks(input, path)}
    except ValueError as error:
        raise _mistake(name, f"its prompt is no valid template: {error}") from error
    if unknown:
        raise _mistake(name, f"its prompt asks for {min(unknown)!r}, which {input.__name__} has not")
    if max_output_tokens < 1:
        raise _mistake(name, "max_output_tokens must be at least 1")

    async def run(ctx: Context, value: BaseModel) -> Any:
        filled = prompt.format(**{field: getattr(value, field) for field in type(value).model_fields})
        asked: Any = {"prompt": filled, "system": system, "tier": tier, "max_output_tokens": max_output_tokens}
        if overflow == "chunk":
            return await in_pieces(ctx, "answer", output=output, **asked)
        return await ctx.llm("answer", output=output, **asked)

    made = _definition(name, version, input, output, tier, attempts, run, **options)
    if not isinstance(output, Mapping):
        _check_schema(name, output)
    return made


def bounded_loop(
    name: str,
    *,
    version: int,
    input: type[BaseModel],  # noqa: A002
    output: Output,
    tier: str,
    run: Callable[[Context, Any], Awaitable[Any]],
    tools: Sequence[Tool] = (),
    attempts: int = 3,
    **options: Unpack[Options],
) -> Definition:
    """A task of a few model calls whose order the code decides.

    `run(ctx, input)` returns an `output` or an outcome. After a crash it runs again from the top; the calls
    it already made answer from the record, so its keys must not depend on time or chance. `tools` are what
    `ctx.tool` may call.
    """
    return _definition(name, version, input, output, tier, attempts, run, tools=tuple(tools), **options)


def bulk(
    name: str,
    *,
    version: int,
    input: type[BaseModel],  # noqa: A002
    output: Output,
    run: Callable[[BatchContext, Any], Awaitable[Sequence[Any]]],
    rows: int = 500,
    tier: str = "rules",
    attempts: int = 3,
    **options: Unpack[Options],
) -> Definition:
    """A task that is cheap and comes by the thousand: `run(ctx, inputs)` takes up to `rows` of them, of one tenant.

    It answers a list as long as its inputs, of `output` instances and outcomes. Answer a row that wants a model call or
    an effect of its own with `ctx.fan_out`. Unless the options say otherwise, a finished row keeps the history of its
    failures only, and a batch is one span.
    """
    if not 1 <= rows <= 10_000:
        raise _mistake(name, "a batch has 1 to 10,000 rows")
    chosen: Options = {"history": "failures", "trace": "batch", **options}
    return _definition(name, version, input, output, tier, attempts, run, bulk=rows, **chosen)


def effect(
    kind: str,
    *,
    perform: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]],
    read_back: Callable[[dict[str, Any], str], Awaitable[dict[str, Any] | None]] | None = None,
    timeout: float = 10.0,
    settle: float = 30.0,
    request: type[BaseModel] | None = None,
    revise: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]] | None = None,
) -> Effect:
    """A write to the outside that happens once; see `shared.definitions.Effect` for the contract of its functions."""
    if not re.match(NAME_PATTERN, kind):
        raise _mistake(kind, "an effect's kind is lower case letters, digits and underscores")
    return Effect(
        kind=kind, perform=perform, read_back=read_back, timeout=timeout, settle=settle, request=request, revise=revise
    )


def orchestration(
    name: str,
    *,
    version: int,
    input: type[BaseModel],  # noqa: A002
    workflow: type | str,
    activities: Sequence[Callable[..., Any] | str] = (),
    max_usd: Decimal | None = None,
    max_tokens: int | None = None,
) -> Orchestration:
    """A workflow of `temporal-worker`: a class with `@workflow.defn`, best given as "module:Class".

    Its run method takes one `input`. See `shared.definitions.Orchestration` for the rest.
    """
    _check_name(name, version)
    if not (isinstance(input, type) and issubclass(input, BaseModel)):
        raise _mistake(name, "its input must be a Pydantic model")
    if isinstance(workflow, str) and not re.fullmatch(r"[\w.]+:\w+", workflow):
        raise _mistake(name, f"its workflow is a class or module:Class, not {workflow!r}")
    _check_caps(name, max_usd, max_tokens)
    return Orchestration(
        name=name,
        version=version,
        input=input,
        workflow=workflow,
        activities=tuple(activities),
        around="backbeat.orchestrate.ends:Ends",
        max_usd=max_usd,
        max_tokens=max_tokens,
    )


def _placeholders(template: str) -> set[str]:
    """The fields, and fields of fields, that a prompt asks for. Raises ValueError when it is no valid template."""
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if "" in names:
        raise ValueError("a placeholder has no name")
    return {name.split("[")[0] for name in names}


def _lacks(model: type[BaseModel], path: str) -> bool:
    """Whether it is certain that no value of the model has this field of a field."""
    kind: Any = model
    for name in path.split("."):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name in kind.model_fields:
            kind = kind.model_fields[name].annotation
        else:
            known = isinstance(kind, type) and (issubclass(kind, BaseModel) or kind.__module__ == "builtins")
            return known and (kind is model or not hasattr(kind, name))
    return False


def _check_schema(name: str, schema: Output) -> None:
    """What no vendor can decode by, or is no schema, would fail at every call."""
    try:
        if isinstance(schema, Mapping):
            validator(json.dumps(schema))
        json_schema(schema)
    except (DefinitionError, TypeError) as error:
        raise _mistake(name, f"its output: {getattr(error, 'what', error)}") from error


def _check_name(name: str, version: int) -> None:
    if not re.match(NAME_PATTERN, name):
        raise _mistake(name, "a name is lower case letters, digits and underscores, and starts with a letter")
    if version < 1:
        raise _mistake(name, "versions start at 1")


def _check_caps(name: str, *caps: Decimal | int | None) -> None:
    if any(cap is not None and cap <= 0 for cap in caps):
        raise _mistake(name, "a cap on what one task may spend must be above 0")


def _definition(
    name: str,
    version: int,
    given: Any,
    made: Any,
    tier: str,
    attempts: int,
    run: Callable[[Any, Any], Awaitable[Any]],
    *,
    bulk: int | None = None,
    tools: tuple[Tool, ...] = (),
    **options: Unpack[Options],
) -> Definition:
    _check_name(name, version)
    if unknown := options.keys() - Options.__annotations__.keys():
        raise _mistake(name, f"it has no option {min(unknown)!r}; there are {', '.join(Options.__annotations__)}")
    if not 1 <= attempts <= 100:
        raise _mistake(name, "attempts are 1 to 100")
    for role, model in (("input", given), ("output", made)):
        if role == "output" and isinstance(model, Mapping):
            _check_schema(name, model)
        elif not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise _mistake(name, f"its {role} must be a Pydantic model{' or a JSON Schema' * (role == 'output')}")
    if options.get("history", "full") not in ("full", "failures", "none"):
        raise _mistake(name, "history is 'full', 'failures' or 'none'")
    if options.get("trace", "task") not in ("task", "batch"):
        raise _mistake(name, "trace is 'task' or 'batch'")
    if bulk and options.get("batch"):
        raise _mistake(name, "rows that come by the hundred are asked about together, not by batch")
    _check_caps(name, options.get("max_usd"), options.get("max_tokens"))
    return Definition(
        name=name,
        version=version,
        input=given,
        output=made,
        tier=tier,
        attempts=attempts,
        run=run,
        bulk=bulk,
        tools=tools,
        **options,
    )


def _mistake(name: str, what: str) -> DefinitionError:
    frame = sys._getframe(1)  # noqa: SLF001
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(__name__):
        frame = frame.f_back
    return DefinitionError(
        f"{frame.f_code.co_filename}:{frame.f_lineno}: {name!r}: {what}", fix="Correct the definition"
    )
