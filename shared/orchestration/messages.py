"""What crosses between an orchestration's helpers and the activities behind them.

Recorded histories contain these shapes, so fields are only ever added, with defaults. `run` is the row's id, `step` and
`key` what the author calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

KNOWN_WORKFLOWS = {"approve_effect": 1}  # Backbeat's own: name -> the highest version this program runs
PROCEED = "proceed"  # the effect of an approval after which a workflow just goes on


@dataclass(frozen=True)
class Step:
    """One step as people see it; moments are ISO 8601."""

    seq: int
    name: str
    kind: str
    status: str
    started_at: str
    ended_at: str | None = None
    waits_for: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a run says of itself and of the steps that moved; kept where `seq` is newer than the row's."""

    run: str
    seq: int
    status: str
    waiting_for: str | None = None
    result: Any = None
    error: str | None = None
    steps: Sequence[Step] = ()


@dataclass(frozen=True)
class Question:
    """A model call; `output` is the place of a Pydantic model, module:Class; empty: what `schema` says, or text."""

    run: str
    key: str
    prompt: str
    output: str
    tier: str
    system: str = ""
    max_output_tokens: int = 1024
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Write:
    """An effect. `undoes`: the step it compensates; where that certainly wrote nothing, nor does this.

    `wrote`: the run itself saw that step done, whatever the ledger remembers of it.
    """

    run: str
    key: str
    kind: str
    request: dict[str, Any]
    undoes: str | None = None
    wrote: bool = False


@dataclass(frozen=True)
class Written:
    """How an effect stands: done, absent (there was nothing to undo), or unknown until somebody says."""

    status: str
    outcome: Any = None
    detail: str = ""


@dataclass(frozen=True)
class Subworkflow:
    """Another workflow that a step waits for; asked again it answers how that stands."""

    run: str
    step: str
    workflow: str
    input: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """How another workflow stands."""

    id: str
    status: str
    waiting_for: str | None = None
    result: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Children of one definition (`version` None: the newest loaded); `start` is how many there are already."""

    run: str
    step: str
    start: int
    name: str
    version: int | None
    payloads: Sequence[Any]
    tolerated: int | None = 0
    seal: bool = True


@dataclass(frozen=True)
class Join:
    """How a fan-out stands. Not `known`: Postgres came back as it was before all of its children were made."""

    children: int
    left: int
    failed: int
    tolerated: int | None
    known: bool = True

    @property
    def broken(self) -> bool:
        """More children failed than may."""
        return self.tolerated is not None and self.failed > self.tolerated


@dataclass(frozen=True)
class Page:
    """Some children's results, or with no `limit` only how the fan-out stands."""

    run: str
    step: str
    start: int = 0
    limit: int = 0


@dataclass(frozen=True)
class Child:
    """How one child of a fan-out ended: succeeded, escalated, dead, cancelled or expired."""

    n: int
    task_id: str
    status: str
    result: Any = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it did what it should."""
        return self.status in ("succeeded", "escalated")
