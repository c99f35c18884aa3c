"""What people ask of agents, and do to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from backbeat.operate.actions import do
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean
from shared.errors import ConflictError, NotFoundError

_SQL = load("agents", "backbeat.operate")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Transcript:
    """An agent and its steps, in order."""

    agent: Row
    steps: list[Row]


async def agents(
    db: Database, since: timedelta, statuses: Sequence[str] = (), workflow: str | None = None, limit: int = 30
) -> list[Row]:
    """The newest first, with what they used and may use."""
    which = {"since": since, "statuses": list(statuses) or None, "workflow": workflow, "limit": limit}
    return await db.rows(_SQL["agents"], which)


async def transcript(db: Database, agent: UUID) -> Transcript:
    """Everything about one agent. Raises NotFoundError."""
    rows = await db.rows(_SQL["agent"], {"id": agent})
    if not rows:
        raise NotFoundError(f"there is no agent {agent}", fix="`backbeat agent list` names them")
    return Transcript(rows[0], await db.rows(_SQL["steps"], {"id": agent}))


async def cancel(db: Database, agent: UUID, reason: str, by: str) -> int:
    """End an agent and all below it; how many tasks that were. Raises NotFoundError, ConflictError."""
    ended = int(await do(db, _SQL["cancel"], {"id": agent, "reason": clean(reason), "by": by}))
    if not ended:
        status = (await transcript(db, agent)).agent["status"]
        raise ConflictError(f"agent {agent} has already ended: {status}", fix="Nothing is left to cancel")
    return ended


async def resume(
    db: Database, agent: UUID, *, tokens: int | None, usd: Decimal | None, steps: int | None, by: str, reason: str
) -> str:
    """Let a dead agent go on, under raised caps; the task of its step. Raises NotFoundError, ConflictError."""
    status = (await transcript(db, agent)).agent["status"]
    if status != "dead":
        raise ConflictError(f"agent {agent} is {status}", fix="Only a dead one is resumed; fork one that has ended")
    given = {"tokens": tokens, "usd": usd, "steps": steps, "by": by, "reason": clean(reason)}
    task = await do(db, _SQL["resume"], {"id": agent, **given})
    if task is None:
        raise ConflictError(f"the dead letter of agent {agent} was discarded", fix="Fork it: backbeat agent fork")
    return str(task)


async def fork(db: Database, agent: UUID, steps: int, by: str) -> str:
    """A new agent that begins after so many steps of this one; its id. Raises NotFoundError, ConflictError."""
    made = await do(db, _SQL["fork"], {"id": agent, "steps": steps, "by": by})
    if made is None:
        taken = (await transcript(db, agent)).agent["steps"]
        raise ConflictError(f"agent {agent} has no step {steps} on record", fix=f"It has taken {taken}")
    return str(made)
