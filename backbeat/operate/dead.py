"""Dead letters: which there are, and what a person does with them, in batches of bounded size."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean
from shared.errors import ConflictError, NotFoundError

_SQL = load("dead", "backbeat.operate")
BATCH = 5000  # letters a statement, and a transaction
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters: equal to whatever is not None. `text` is a part of the error, in any case of letters."""

    ids: Sequence[UUID] | None = None
    workflow: str | None = None
    version: int | None = None
    tenant: str | None = None
    error_class: str | None = None
    text: str | None = None
    older: timedelta | None = None
    newer: timedelta | None = None
    state: str | None = "open"
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who resolves letters, and why."""

    by: str
    reason: str


async def letters(db: Database, which: Filter, limit: int) -> list[Row]:
    """The newest letters first."""
    return await db.rows(
        _SQL["letters"] + "\n" + _SQL["matching"] + "\n" + _SQL["newest"], {**_params(which), "limit": limit}
    )


async def counts(db: Database, which: Filter) -> list[Row]:
    """How many there are of each workflow and error class, the most first; `at` is the moment of this look."""
    return await db.rows(_SQL["counts"] + "\n" + _SQL["matching"] + "\n" + _SQL["largest"], _params(which))


async def letter(db: Database, task: UUID) -> Row:
    """Everything about one. Raises NotFoundError, ConflictError when the task is not dead."""
    rows = await db.rows(_SQL["letter"], {"id": task})
    if not rows:
        await need_open(db, [task])
    return rows[0]


async def need_open(db: Database, ids: Sequence[UUID]) -> None:
    """Raise NotFoundError or ConflictError for the first of these tasks that is no open dead letter."""
    for row in await db.rows(_SQL["named"], {"ids": list(ids)}):
        what = f"task {row['id']}"
        if row["open"]:
            continue
        if row["requeued_as"]:
            raise ConflictError(f"{what} was requeued by {row['resolved_by']}", fix=f"It is now {row['requeued_as']}")
        if row["resolved_by"]:
            raise ConflictError(f"{what} was discarded by {row['resolved_by']}", fix="Its payload is gone")
        if row["status"]:
            raise ConflictError(f"{what} is not dead: {row['status']}", fix="`backbeat task show` says more")
        raise NotFoundError(f"there is no task {row['id']}", fix="`backbeat dead list` names the dead ones")


async def requeue(
    db: Database, which: Filter, verdict: Verdict, *, newest: bool, per_minute: float | None, start: datetime
) -> AsyncIterator[tuple[int, int]]:
    """Make tasks of the open letters; after each batch, how many were looked at and how many became tasks.

    With `per_minute` they come due one after the other from `start`. Left out are those whose idempotency key has
    another task by now.
    """
    seconds = 60 / per_minute if per_minute else 0.0
    due = start

    async def put_back(ids: Sequence[UUID]) -> int:
        nonlocal due
        params = {"ids": ids, "newest": newest, "start": due, "seconds": seconds, **_told(verdict)}
        made = len(await db.rows(_SQL["requeue"], params))
        due += timedelta(seconds=made * seconds)
        return made

    async for progress in _in_batches(db, which, put_back):
        yield progress


async def discard(db: Database, which: Filter, verdict: Verdict) -> AsyncIterator[tuple[int, int]]:
    """Give the open letters up: their payload goes, the fact stays. Yields as `requeue` does."""

    async def give_up(ids: Sequence[UUID]) -> int:
        return len(await db.rows(_SQL["discard"], {"ids": ids, **_told(verdict)}))

    async for progress in _in_batches(db, which, give_up):
        yield progress


async def _in_batches(
    db: Database, which: Filter, act: Callable[[Sequence[UUID]], Awaitable[int]]
) -> AsyncIterator[tuple[int, int]]:
    params = {**_params(which), "after": UUID(int=0), "limit": BATCH}
    while rows := await db.rows(_SQL["ids"] + "\n" + _SQL["matching"] + "\n" + _SQL["next"], params):
        ids = [row["id"] for row in rows]
        params["after"] = ids[-1]
        yield len(ids), await act(ids)


def _params(which: Filter) -> Row:
    return {**asdict(which), "ids": None if which.ids is None else list(which.ids)}


def _told(verdict: Verdict) -> Row:
    return {"by": clean(verdict.by), "reason": clean(verdict.reason)}
