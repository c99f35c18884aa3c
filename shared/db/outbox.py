"""Between Postgres and Temporal: messages out, states back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean, storable
from shared.errors import NotFoundError

_SQL = load("outbox")


@dataclass(frozen=True, slots=True)
class Message:
    """One leased row of the outbox: start, poke, wake or cancel this workflow. `attempts` counts this delivery."""

    stream: UUID
    seq: int
    kind: str
    lease: int
    attempts: int
    workflow: str
    version: int
    temporal_id: str
    status: str
    state_seq: int


@dataclass(frozen=True, slots=True)
class Workflow:
    """The row of an orchestrated workflow, as its activities need it; the parent is the attempt that escalated.

    What follows that makes it one who may call a model, as a task does: it has no lease, Temporal sees to that.
    """

    id: UUID
    workflow: str
    version: int
    tenant: str
    input: dict[str, Any]
    status: str
    temporal_id: str
    origin_id: UUID
    traceparent: str
    created_at: datetime
    parent_task: UUID | None
    parent_lease: int | None
    parent_workflow: UUID | None = None
    lease: None = None
    attempts: int = 1
    tier: str = "-"


@dataclass(frozen=True, slots=True)
class State:
    """What a workflow says of itself; written only where `seq` is newer than the row's."""

    seq: int
    status: str
    run_id: str | None
    waiting_for: str | None = None
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A workflow that has not ended as far as Postgres knows."""

    id: UUID
    temporal_id: str
    status: str
    state_seq: int


async def lease(
    db: Database, kinds: Sequence[str], limit: int, seconds: float, loaded: Sequence[str] | None = None
) -> list[Message]:
    """Take messages that are due, of each workflow the first only; of `loaded` workflows, or such that nobody has."""
    which = {"kinds": list(kinds), "loaded": None if loaded is None else list(loaded)}
    rows = await db.rows(_SQL["lease"], {**which, "limit": limit, "seconds": seconds})
    return [Message(**row) for row in rows]


async def settle(
    db: Database,
    message: Message,
    outcome: str,
    error: str | None = None,
    delay: float = 0.0,
    run_id: str | None = None,
) -> bool:
    """Record that it is delivered, dead, or to retry after `delay` seconds; False when somebody else has leased it."""
    params = {"stream": message.stream, "seq": message.seq, "lease": message.lease}
    rest = {"outcome": outcome, "error": error, "delay": delay, "run_id": run_id}
    return bool((await db.row(_SQL["settle"], params | rest))["settled"])


async def workflow(db: Database, workflow_id: UUID) -> Workflow:
    """One row. Raises NotFoundError."""
    rows = await db.rows(_SQL["workflow"], {"id": workflow_id})
    if not rows:
        raise NotFoundError(f"there is no workflow {workflow_id}", fix="Was Postgres restored to an older point?")
    return Workflow(**rows[0])


async def project(db: Database, workflow_id: UUID, state: State) -> bool:
    """Write a workflow's state where it is news; a terminal state also cancels its pending approval requests."""
    params = told(state) | {"workflow": workflow_id, "run_id": state.run_id}
    return bool((await db.row(_SQL["project"], params))["written"])


def told(state: Any) -> dict[str, Any]:
    """What a state, or a report of one, says, as Postgres can store it."""
    said = {"seq": state.seq, "status": state.status, "waiting_for": clean(state.waiting_for)}
    return said | {"result": None if state.result is None else storable(state.result), "error": clean(state.error)}


async def to_check(db: Database, limit: int, seconds: float) -> list[Open]:
    """Open workflows nobody compared with Temporal for so many seconds; this counts as a look."""
    return [Open(**row) for row in await db.rows(_SQL["to_check"], {"limit": limit, "seconds": seconds})]


async def restart(db: Database, row: Open) -> bool:
    """Put a new start into the outbox, unless one is under way or somebody restarted it already."""
    return bool((await db.row(_SQL["restart"], {"id": row.id, "temporal_id": row.temporal_id}))["restarted"])
