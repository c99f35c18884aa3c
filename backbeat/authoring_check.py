"""Everything that is wrong with the definition modules, not only what a worker would stop at."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from backbeat import authoring
from shared.definitions import Definition, Orchestration, load_definitions
from shared.errors import ConfigError, DefinitionError
from shared.llm.routes import Routes
from shared.llm.structured import json_schema

_CONSTRUCTORS = ("single_shot", "bounded_loop", "bulk", "effect", "orchestration", "agent")
_PLACE = re.compile(
    r"(?:(?P<module>[\w.]+) does not import: )?(?P<file>[^:\n]+):(?P<line>\d+): (?P<what>.*)", re.DOTALL
)
_NAMED = re.compile(r"'(\w+)': ")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, with which definition, and what to do."""

    module: str
    file: str | None
    line: int | None
    definition: str | None
    problem: str
    fix: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a module declares, and all problems."""

    declared: list[str]
    problems: list[Problem]


def check(modules: Iterable[str], routes: Routes) -> Checked:
    """Import each module and look at all it declares. Nothing is raised for what is wrong in one.

    Modules must not have been imported before: a mistake in a declaration is met once, at import.
    """
    declared: list[str] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    built_in = load_definitions([]).tasks
    for module in modules:
        with _collecting(module, problems):
            try:
                registry = load_definitions([module])
            except DefinitionError as error:
                problems.append(_problem(module, error))
                continue
        own = {name: one for name, one in registry.tasks.items() if one is not built_in.get(name)}
        ones: list[Definition | Orchestration] = [*own.values(), *registry.orchestrations.values()]
        for one in ones:
            problems += _flaws(module, one, routes)
        kinds = [f"effect {kind}" for kind in registry.effects]
        for name in [*own, *registry.orchestrations, *kinds]:
            if name in seen and seen[name] != module:
                fix = "Give one a new version, or rename it"
                problems.append(Problem(module, None, None, name, f"is defined in {seen[name]} too", fix))
            seen.setdefault(name, module)
            declared.append(name)
    return Checked(declared, problems)


def _flaws(module: str, one: Definition | Orchestration, routes: Routes) -> Iterator[Problem]:
    file, line = None, None
    if isinstance(one, Orchestration):
        try:
            one.load()
        except DefinitionError as error:
            yield Problem(module, file, line, one.full_name, error.what, error.fix)
        return
    code = getattr(one.run, "__code__", None)
    if code is not None and code.co_filename != authoring.__file__:
        file, line = code.co_filename, code.co_firstlineno
    if one.bulk is not None:
        return
    try:
        routes.for_tier(one.tier)
    except ConfigError as error:
        yield Problem(module, file, line, one.full_name, error.what, f"{error.fix}; or name another tier")
    try:
        # Of a handler's own calls nothing is known before they are made; of a single shot, this is the schema sent.
        if code is not None and code.co_filename == authoring.__file__:
            json_schema(one.output)
    except DefinitionError as error:
        yield Problem(module, file, line, one.full_name, f"no vendor can answer by its output: {error.what}", error.fix)


def _problem(module: str, error: DefinitionError) -> Problem:
    place = _PLACE.fullmatch(error.what)
    if place is None:
        return Problem(module, None, None, None, error.what, error.fix)
    named = _NAMED.match(place["what"])
    what = place["what"][named.end() :] if named else place["what"]
    return Problem(module, place["file"], int(place["line"]), named[1] if named else None, what, error.fix)


@contextmanager
def _collecting(module: str, problems: list[Problem]) -> Iterator[None]:
    """Constructors that note a mistake and go on, so that the import meets the next one too."""
    kept = {name: getattr(authoring, name) for name in _CONSTRUCTORS if hasattr(authoring, name)}

    def lenient(make: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(make)
        def made(*given: Any, **named: Any) -> Any:
            try:
                return make(*given, **named)
            except DefinitionError as error:
                problems.append(_problem(module, error))
                return None

        return made

    try:
        for name, make in kept.items():
            setattr(authoring, name, lenient(make))
        yield
    finally:
        for name, make in kept.items():
            setattr(authoring, name, make)
