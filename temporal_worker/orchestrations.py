"""The orchestrations that authors declared, as the Temporal worker runs them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from temporalio.worker import Interceptor
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from shared.definitions import Effect, Orchestration, Registry
from shared.errors import DefinitionError
from shared.orchestration.messages import KNOWN_WORKFLOWS, PROCEED

# What a workflow may import without a copy of its own: our helpers, which do no I/O, and models.
PASSED = ("backbeat", "shared", "pydantic", "pydantic_core", "annotated_types")


class Loaded(NamedTuple):
    """What a worker runs of authors': classes, activities, and the interceptors around them, each once."""

    workflows: list[type]
    activities: list[Callable[..., Any]]
    interceptors: list[Interceptor]


NOTHING = Loaded([], [], [])


async def _proceed(_request: dict[str, Any], _mark: str) -> dict[str, Any]:
    return {}


def with_proceed(registry: Registry) -> Registry:
    """The effect of an approval after which a workflow just goes on."""
    proceed = Effect(kind=PROCEED, perform=_proceed, read_back=_proceed, timeout=1.0, settle=0.0)
    return replace(registry, effects={PROCEED: proceed, **registry.effects})


def runner() -> SandboxedWorkflowRunner:
    """The sandbox in which authors' workflows run."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED))


def type_name(made: Orchestration) -> str:
    """What Temporal calls its class. Raises DefinitionError when that is no workflow."""
    workflow = made.load()[0]
    known = getattr(workflow, "__temporal_workflow_definition", None)
    if known is None or not known.name:
        fix = "Put @workflow.defn and @workflow.run on it"
        raise DefinitionError(f"{made.full_name}: {workflow!r} is no workflow of Temporal's", fix=fix)
    name: str = known.name
    return name


def load(declared: Iterable[Orchestration]) -> Loaded:
    """All that they name. Raises DefinitionError before a worker would."""
    classes: dict[str, tuple[str, type]] = {}
    activities: dict[str, Callable[..., Any]] = {}
    around: set[Any] = set()
    for made in declared:
        workflow, own, outer = made.load()
        name = type_name(made)
        if name in KNOWN_WORKFLOWS or made.name in KNOWN_WORKFLOWS:
            raise DefinitionError(f"{made.full_name}: its name is a workflow of Backbeat's", fix="Give it another")
        if classes.setdefault(name, (made.full_name, workflow))[1] is not workflow:
            fix = "Name each version's class in @workflow.defn(name=…)"
            raise DefinitionError(f"{made.full_name} and {classes[name][0]}: both are the type {name!r}", fix=fix)
        activities |= {function.__qualname__: function for function in own}
        around |= {outer} - {None}
    return Loaded([kind for _, kind in classes.values()], list(activities.values()), [kind() for kind in around])
