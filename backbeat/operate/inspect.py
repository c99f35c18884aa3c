"""What people ask of the tables; nothing here changes a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import NotFoundError

_SQL = load("inspect", "backbeat.operate")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks: created within `since`, and equal to whatever is not None."""

    since: timedelta
    statuses: Sequence[str] | None = None
    workflow: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """A task with everything that was done for it. `attempts` are those that ended, oldest first."""

    task: Row
    attempts: list[Row]
    calls: list[Row]
    effects: list[Row]
    orchestration: Row | None


async def tasks(db: Database, which: Filter, limit: int) -> list[Row]:
    """The newest tasks first."""
    return await db.rows(_SQL["tasks"], {**_params(which), "limit": limit})


async def counts(db: Database, which: Filter) -> dict[str, int]:
    """How many tasks are in each state, whatever `statuses` says."""
    return {row["status"]: row["tasks"] for row in await db.rows(_SQL["counts"], _params(which))}


async def story(db: Database, task: UUID) -> Story:
    """Everything about one task. Raises NotFoundError."""
    rows = await db.rows(_SQL["task"], {"id": task})
    if not rows:
        raise NotFoundError(f"there is no task {task}", fix="`backbeat task list` names them")
    found = rows[0]
    attempts, escalated = found.pop("history"), found["workflow_id"]
    orchestration = await db.rows(_SQL["orchestration"], {"id": escalated}) if escalated else []
    return Story(
        task=found,
        attempts=attempts,
        calls=await db.rows(_SQL["calls"], {"owner": task}),
        effects=await db.rows(_SQL["effects"], {"owners": [task, *([escalated] if escalated else [])]}),
        orchestration=orchestration[0] if orchestration else None,
    )


async def ids(db: Database, kind: str, prefix: str) -> list[str]:
    """The first few ids of a kind (task, request, token) that begin with these hexadecimal digits."""
    bounds = {"low": str(UUID(prefix.ljust(32, "0"))), "high": str(UUID(prefix.ljust(32, "f")))}
    return [row["id"] for row in await db.rows(_SQL[f"ids_of_{kind}"], bounds)]


async def effect(db: Database, key: str) -> Row:
    """One effect. `busy_seconds` is how long its writer may still be at it. Raises NotFoundError."""
    rows = await db.rows(_SQL["effect"], {"key": key})
    if not rows:
        raise NotFoundError(f"there is no effect {key!r}", fix="`backbeat effect list` names them")
    return rows[0]


async def budgets(db: Database, day: date | None = None, scope: str | None = None) -> list[Row]:
    """Every cap, and what went against it on a UTC day (None: today); each task's and agent's own only when asked for.

    `forecast_…` is what is spent and presumed, and the rate of the last three hours until the day ends.
    """
    day = day or (await db.row(_SQL["today"]))["day"]
    return await db.rows(_SQL["budgets"], {"day": day, "scope": scope})


async def lost_calls(db: Database) -> list[Row]:
    """The calls whose end nobody knows, oldest first."""
    return await db.rows(_SQL["lost_calls"])


async def cap(db: Database, scope: str, key: str) -> Row:
    """The caps in force from now on: usd, tokens, soft; and what the definition grants where none is set."""
    return await db.row(_SQL["cap"], {"scope": scope, "key": key})


async def known(db: Database, scope: str, key: str) -> bool:
    """Whether such a workflow or tenant has ever been heard of."""
    return bool((await db.row(_SQL["known"], {"scope": scope, "key": key}))["known"])


def _params(which: Filter) -> Row:
    statuses = list(which.statuses) if which.statuses else None
    return {"since": which.since, "statuses": statuses, "workflow": which.workflow, "tenant": which.tenant}


async def effects(db: Database, status: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """The newest effects, of one status or of all."""
    return await db.rows(_SQL["newest_effects"], {"status": status, "limit": limit})
