"""Everything that is wrong with the definition modules, not only what a worker would stop at."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from backbeat import authoring, authoring_agents
from backbeat.tools import function
from shared.definitions import Definition, Orchestration, load_definitions
from shared.errors import ConfigError, DefinitionError
from shared.llm.routes import Routes

_CONSTRUCTORS = {
    authoring: ("single_shot", "bounded_loop", "bulk", "effect", "orchestration"),
    authoring_agents: ("agent", "orchestrator"),
    function: ("tool", "writing_tool"),
}
_PLACE = re.compile(
    r"(?:(?P<module>[\w.]+) does not import: )?(?P<file>[^:\n]+):(?P<line>\d+): (?P<what>.*)", re.DOTALL
)
Place = tuple[str | None, int | None]  # a file and a line
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
    places: dict[int, Place] = {}
    built_in = load_definitions([]).tasks
    for module in modules:
        with _collecting(module, problems, places):
            try:
                registry = load_definitions([module])
            except DefinitionError as error:
                problems.append(_problem(module, error))
                continue
        own = {name: one for name, one in registry.tasks.items() if one is not built_in.get(name)}
        ones: list[Definition | Orchestration] = [*own.values(), *registry.orchestrations.values()]
        for one in ones:
            problems += _flaws(module, one, places.get(id(one), (None, None)), routes)
        kinds = [f"effect {kind}" for kind in registry.effects]
        for name in [*own, *registry.orchestrations, *kinds]:
            if name in seen and seen[name] != module:
                fix = "Give one a new version, or rename it"
                problems.append(Problem(module, None, None, name, f"is defined in {seen[name]} too", fix))
            seen.setdefault(name, module)
            declared.append(name)
    return Checked(declared, problems)


def _flaws(module: str, one: Definition | Orchestration, place: Place, routes: Routes) -> Iterator[Problem]:
    try:
        if isinstance(one, Orchestration):
            one.load()
        elif one.bulk is None:
            routes.for_tier(one.tier)
    except DefinitionError as error:
        yield Problem(module, *place, one.full_name, error.what, error.fix)
    except ConfigError as error:
        yield Problem(module, *place, one.full_name, error.what, f"{error.fix}; or name another tier")


def _problem(module: str, error: DefinitionError) -> Problem:
    place = _PLACE.fullmatch(error.what)
    if place is None:
        return Problem(module, None, None, None, error.what, error.fix)
    named = _NAMED.match(place["what"])
    what = place["what"][named.end() :] if named else place["what"]
    return Problem(module, place["file"], int(place["line"]), named[1] if named else None, what, error.fix)


@contextmanager
def _collecting(module: str, problems: list[Problem], places: dict[int, Place]) -> Iterator[None]:
    """Constructors that note a mistake and go on, so that the import meets the next one too."""
    kept = [(home, name, getattr(home, name)) for home, names in _CONSTRUCTORS.items() for name in names]

    def lenient(make: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(make)
        def made(*given: Any, **named: Any) -> Any:
            frame = sys._getframe(1)  # noqa: SLF001
            place = frame.f_code.co_filename, frame.f_lineno
            try:
                one = make(*given, **{name: _there(value) for name, value in named.items()})
            except DefinitionError as error:
                problems.append(_problem(module, error))
                return None
            except (TypeError, ValueError) as error:
                name = next((value for value in given if isinstance(value, str)), None)
                problems.append(Problem(module, *place, name, str(error), "Correct the definition"))
                return None
            places[id(one)] = place
            return one

        return made

    try:
        for home, name, make in kept:
            setattr(home, name, lenient(make))
        yield
    finally:
        for home, name, make in kept:
            setattr(home, name, make)


def _there(value: Any) -> Any:
    """Without the tools and definitions that could not be made, which are problems of their own."""
    return [one for one in value if one is not None] if isinstance(value, list | tuple) else value
