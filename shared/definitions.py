"""What a team declares: tasks, effects and orchestrations, found in the modules it names.

A definition module is plain Python. Loading imports it and collects the `Definition`, `Effect` and `Orchestration`
objects it holds; there is no registry to mutate, so importing a module twice or in a test changes nothing.
"""

import importlib
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from shared.errors import DefinitionError

if TYPE_CHECKING:
    from decimal import Decimal

    from pydantic import BaseModel

_MOST_PROBLEMS = 20
BUILT_IN = "backbeat.prompt"  # whose task is known without being named, unless a team has one of that name
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
D = TypeVar("D", "Definition", "Orchestration")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What a definition's code or model may call. `description` and the fields of `args` are what a model is told.

    `call(args)` answers JSON within `timeout` seconds, may be asked again after a crash, and raises ToolError for what
    its caller should hear. A tool that writes has an `effect` instead, whose request is its arguments.
    """

    name: str
    description: str
    args: "type[BaseModel]"
    call: Callable[[Any], Awaitable[Any]] | None = field(default=None, repr=False)
    effect: "Effect | None" = None
    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What tasks and orchestrations have in common."""

    name: str
    version: int
    input: "type[BaseModel]"
    max_usd: "Decimal | None" = None
    max_tokens: int | None = None

    @property
    def full_name(self) -> str:
        """`name@version`, as rows pin it."""
        return f"{self.name}@{self.version}"

    def _row(self, **more: Any) -> dict[str, Any]:
        usd = None if self.max_usd is None else str(self.max_usd)
        return {"name": self.name, "version": self.version, "max_usd": usd, "max_tokens": self.max_tokens, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition(Declared):
    """A task that can be enqueued: what goes in, what comes out, and the coroutine between.

    `run(context, input)` returns an instance of `output`, JSON that fits it where it is a schema, or an outcome. `tier`
    names the routes of its main calls and the queue lane. `attempts` bounds runs that count. `bulk` is how many rows a
    `run` takes (None: one, and not in a list). `history` is what a finished row keeps of its attempts: full, failures
    or none. `trace` is a span a task or a span a batch. Without `idempotency` equal payloads are different tasks.
    `max_usd` and `max_tokens` cap what one task, or agent, may spend. By `batch` its calls wait for a day, at half the
    price. `tools` are all that its code or model may call.
    """

    output: "type[BaseModel] | Mapping[str, Any]"
    tier: str
    attempts: int = 3
    bulk: int | None = None
    history: str = "full"
    trace: str = "task"
    idempotency: bool = True
    batch: bool = False
    tools: tuple[Tool, ...] = ()
    run: Callable[[Any, Any], Awaitable[Any]] = field(repr=False)

    @property
    def row(self) -> dict[str, Any]:
        """What Postgres knows of it."""
        kept = {option: getattr(self, option) for option in ("tier", "bulk", "history", "trace", "idempotency")}
        return self._row(max_attempts=self.attempts, **kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A write to the world outside that must happen once.

    `perform(request, mark)` makes it and returns its outcome, leaving `mark` on the far side: a text that is random and
    the same however often this effect is tried. `read_back(request, mark)` looks whether the far side has it where
    `perform` puts it: its outcome, or None when it certainly has not. Without one, an unknown effect waits for a
    person. `timeout` bounds `perform`, in seconds; `settle` is how long the far side may take after that until a
    look proves anything.

    `request` is the model its requests must fit; without one, a request that waits for approval cannot be edited.
    `revise(request, comment)` answers a person who requested changes with the next request, or raises.
    """

    kind: str
    perform: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]] = field(repr=False)
    read_back: Callable[[dict[str, Any], str], Awaitable[dict[str, Any] | None]] | None = field(repr=False)
    timeout: float = 10.0
    settle: float = 30.0
    request: "type[BaseModel] | None" = None
    revise: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]] | None = field(default=None, repr=False)

    def problem(self, request: Any) -> str | None:
        """What its model has against a request, field by field; None when nothing."""
        return None if self.request is None else problems(self.request, request, "request")


def problems(model: "type[BaseModel]", value: Any, *where: str) -> str | None:
    """What a model has against a value, field by field; None when nothing."""
    from pydantic import ValidationError

    try:
        model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:_MOST_PROBLEMS]
        return "; ".join(f"{'.'.join((*where, *map(str, one['loc'])))}: {one['msg']}" for one in found)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Orchestration(Declared):
    """A workflow in plain Temporal Python that waits hours or days; a row of `orchestrated_workflows` is one run of it.

    `workflow` is the class, or its place as "module:Class", which spares ticks the import of Temporal; `input` is what
    its run method takes. `activities` are functions of the author's own, or their places. `max_usd` and `max_tokens`
    cap what one run may spend, with the tasks it fans out. `around` is the place of an Interceptor that sees it end.
    """

    workflow: type | str
    activities: "tuple[Callable[..., Any] | str, ...]" = ()
    around: str = ""

    @property
    def row(self) -> dict[str, Any]:
        """What Postgres knows of it."""
        return self._row(tier="-", max_attempts=1)

    def load(self) -> tuple[type, list[Callable[..., Any]], Any]:
        """The class, the activities, and what stands around. Raises DefinitionError naming what is not there."""
        places = self.workflow, *self.activities
        found: list[Any] = [_at(place) if isinstance(place, str) else place for place in places]
        return found[0], found[1:], _at(self.around) if self.around else None


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything the named modules declare: tasks and orchestrations by `name@version`, effects by kind."""

    tasks: Mapping[str, Definition]
    effects: Mapping[str, Effect]
    orchestrations: Mapping[str, Orchestration] = field(default_factory=dict)

    def newest(self, name: str) -> Definition:
        """The highest version of a task. Raises DefinitionError naming what is loaded."""
        return _newest(self.tasks.values(), "task", name)

    def newest_orchestration(self, name: str) -> Orchestration:
        """The highest version of an orchestration. Raises DefinitionError naming what is loaded."""
        return _newest(self.orchestrations.values(), "orchestration", name)

    def rows(self) -> list[dict[str, Any]]:
        """What `backbeat.register_worker` wants to know."""
        return [definition.row for definition in self.tasks.values()]


def load_definitions(modules: Iterable[str], prompt_tools: Iterable[str] = ()) -> Registry:
    """What modules declare, `prompt` with `prompt_tools` (module:name). Raises DefinitionError with file and line."""
    built_in: Definition = _import(BUILT_IN).with_tools(prompt_tools)
    tasks: dict[str, Definition] = {}
    effects = {tool.effect.kind: tool.effect for tool in built_in.tools if tool.effect}
    orchestrations: dict[str, Orchestration] = {}
    for name in modules:
        found: list[Any] = list(vars(_import(name)).values())
        found += [tool.effect for one in found if isinstance(one, Definition) for tool in one.tools]
        for value in found:
            if isinstance(value, Definition | Orchestration):
                kept: dict[str, Any] = tasks if isinstance(value, Definition) else orchestrations
                if kept.setdefault(value.full_name, value) is not value:
                    raise DefinitionError(f"{name}: {value.full_name} is defined twice", fix="Give one a new version")
            elif isinstance(value, Effect) and effects.setdefault(value.kind, value) is not value:
                raise DefinitionError(f"{name}: the effect {value.kind!r} is defined twice", fix="Rename one")
    return Registry({built_in.full_name: built_in} | tasks, effects, orchestrations)


def _newest(defined: "Iterable[D]", kind: str, name: str) -> "D":
    known = list(defined)
    versions = [one for one in known if one.name == name]
    if not versions:
        loaded = ", ".join(sorted({one.name for one in known})) or "none"
        raise DefinitionError(f"no loaded module defines the {kind} {name!r}", fix=f"Loaded: {loaded}")
    return max(versions, key=lambda one: one.version)


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    found = getattr(_import(module), name, None)
    if found is None:
        raise DefinitionError(f"{module} has no {name!r}", fix="Correct the orchestration, whose parts are module:name")
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except DefinitionError:
        raise
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            fix = "Check BACKBEAT_DEFINITIONS, and that its directory is on PYTHONPATH"
            raise DefinitionError(f"there is no definition module {name!r}", fix=fix) from error
        raise DefinitionError(_where(name, error), fix="Correct the module") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # SystemExit too: a worker that ends in silence looks like one that found nothing to do.
        raise DefinitionError(_where(name, error), fix="Correct the module") from error


def _where(name: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{name} does not import: {error.filename}:{error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    ours = tuple(f"{Path(__file__).parents[1] / part}/" for part in ("backbeat", "shared"))
    last = ([f for f in frames if not f.filename.startswith(ours)] or frames)[-1]
    return f"{name} does not import: {Path(last.filename)}:{last.lineno}: {type(error).__name__}: {error}"
