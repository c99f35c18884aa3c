"""Agents, as the step that runs sees them: what is on record of it, and what it handed over."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("agents", "backbeat.agents")


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was taken. `observation` is None where the step handed work over: then its children say it."""

    number: int
    task_id: UUID
    action: str
    tool: str | None
    args: Any
    reasoning: str
    observation: str | None


@dataclass(frozen=True, slots=True)
class State:
    """An agent between two steps. `failed` is a line when more children failed than the last step tolerated."""

    id: UUID
    max_steps: int | None
    failed: str | None
    steps: list[Step]


async def begin_step(db: Database, task: UUID, lease: int) -> State | None:
    """The agent whose step this task is, made if the task is its first; None when the lease is somebody else's."""
    rows = await db.rows(_SQL["begin_step"], {"task": task, "lease": lease})
    if not rows:
        return None
    steps = [Step(**row) for row in await db.rows(_SQL["steps"], {"agent": rows[0]["id"]})]
    return State(**rows[0], steps=steps)


async def children(db: Database, step: UUID, start: int, size: int) -> list[dict[str, Any]]:
    """A page of what a step (its task) handed over, in order: how each ended and what it answered; `total` of all."""
    return await db.rows(_SQL["children"], {"join": step, "start": start, "size": size})
