"""Schedules and selectors. Adding, removing and turning them takes the login that runs the migrations."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from shared.db.pool import CONNECT_TIMEOUT, Database, translate
from shared.db.queries import load
from shared.errors import AuthError, BackbeatError, ConflictError, InputError, NotFoundError

MOST_ROWS = 10_000  # of a selector, a slot
_SQL = load("schedules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What comes when. Either `payload` or `selector`; `watermark` is the last slot that is dealt with.

    `now` is Postgres' time when the row was read.
    """

    name: str
    cron: str
    zone: str
    workflow: str
    version: int
    payload: Any = None
    selector: str | None = None
    selector_seconds: int = 10
    tenant: str = "default"
    class_: str = "normal"
    catch_up: str = "last"
    jitter_seconds: int = 0
    once: bool = False
    paused: bool = False
    watermark: datetime
    next_at: datetime
    note: str | None = None
    now: datetime

    @property
    def target(self) -> str:
        """The definition that its tasks are of."""
        return f"{self.workflow}@{self.version}"

    @property
    def row(self) -> dict[str, Any]:
        """Its columns, as JSON."""
        named = {name.rstrip("_"): getattr(self, name) for name in Schedule.__slots__ if name != "now"}
        return named | {"watermark": self.watermark.isoformat(), "next_at": self.next_at.isoformat()}


async def now(db: Database) -> datetime:
    """Postgres' time."""
    moment: datetime = (await db.row(_SQL["now"]))["now"]
    return moment


async def due(db: Database, loaded: Sequence[str]) -> list[Schedule]:
    """Those to look at now, the most overdue first; with a selector only if their definition is among the loaded."""
    return [_schedule(row) for row in await db.rows(_SQL["due"], {"loaded": list(loaded)})]


async def find(db: Database) -> list[Schedule]:
    """All, by name."""
    return [_schedule(row) for row in await db.rows(_SQL["list"], {"name": None})]


async def one(db: Database, name: str) -> Schedule:
    """The schedule of this name. Raises NotFoundError."""
    rows = await db.rows(_SQL["list"], {"name": name})
    if not rows:
        raise NotFoundError(f"there is no schedule {name!r}", fix="`backbeat schedule list` names them")
    return _schedule(rows[0])


async def fire(
    db: Database,
    schedule: Schedule,
    watermark: datetime,
    slot: datetime,
    next_at: datetime,
    *,
    rows: Sequence[tuple[bytes, bytes | None]] = (),
    run_after: datetime | None = None,
    note: str = "",
) -> list[UUID] | None:
    """Deal with one slot, if the watermark still stands there, and enqueue its payloads; the ids of new tasks.

    A row is a payload as JSON text and its key. None: the watermark is elsewhere, or the schedule is paused,
    and nothing changed. With `slot` = `watermark` only `next_at` and `note` are written.
    """
    params = {
        "name": schedule.name,
        "watermark": watermark,
        "slot": slot,
        "next_at": next_at,
        "payloads": [payload.decode() for payload, _ in rows],
        "keys": [key for _, key in rows],
        "run_after": run_after,
        "note": note[:1000] or None,
    }
    tasks: list[UUID] | None = (await db.row(_SQL["fire"], params))["tasks"]
    return tasks


async def select(db: Database, schedule: Schedule, watermark: datetime) -> list[Any] | None:
    """What its selector finds, at most one row more than MOST_ROWS; None when somebody else is at this slot.

    Raises InputError when it fails, writes, may not read something or runs too long.
    """
    pooled = db.pool.connection(timeout=CONNECT_TIMEOUT)
    async with pooled as connection, connection.transaction(force_rollback=True):
        await connection.execute("SET TRANSACTION READ ONLY")
        return await _select(connection, schedule, watermark)


@asynccontextmanager
async def adding(db: Database, schedule: Schedule) -> AsyncIterator[list[Any]]:
    """Add a schedule, and with a selector give what that finds now; an exception in the block adds nothing.

    Raises ConflictError when the name is taken, NotFoundError for an unknown tenant, InputError as `select` does.
    """
    params = {"schedule": Jsonb(schedule.row)}
    try:
        async with db.pool.connection(timeout=CONNECT_TIMEOUT) as connection, connection.transaction():
            # Tried in vain first: with the schedule comes an entry in the audit log, for which others should not wait.
            async with connection.transaction(force_rollback=True):
                await connection.execute(_SQL["draft"], params)
                yield await _select(connection, schedule, schedule.watermark) or []
            await connection.execute(_SQL["add"], params)
    except psycopg.errors.UniqueViolation as error:
        fix = f"`backbeat schedule remove {schedule.name}` first, or take another name"
        raise ConflictError(f"there is a schedule {schedule.name!r} already", fix=fix) from error
    except psycopg.Error as error:
        raise _translate(error) from error


async def remove(db: Database, name: str) -> None:
    """Forget a schedule; what it enqueued stays. Raises NotFoundError."""
    if await _change(db, "remove", {"name": name}) is None:
        await one(db, name)


async def pause(db: Database, name: str) -> None:
    """Let no slot come until it is resumed. Raises NotFoundError, ConflictError when it is paused."""
    if await _change(db, "turn", {"name": name, "from": None, "next_at": None}) is None:
        raise ConflictError(f"schedule {(await one(db, name)).name!r} is paused already", fix="Nothing is left to do")


async def resume(db: Database, schedule: Schedule, next_at: datetime) -> None:
    """Let a paused schedule go on from `schedule.now`; slots until then do not come. Raises ConflictError."""
    params = {"name": schedule.name, "from": schedule.now, "next_at": next_at}
    if await _change(db, "turn", params) is None:
        raise ConflictError(f"schedule {schedule.name!r} is not paused", fix="Nothing is left to do")


async def _change(db: Database, query: str, params: dict[str, Any]) -> int | None:
    try:
        async with db.pool.connection(timeout=CONNECT_TIMEOUT) as connection:
            row = await (await connection.execute(_SQL[query], params)).fetchone()
    except psycopg.Error as error:
        raise _translate(error) from error
    return row["done"] if row else None


async def _select(
    connection: psycopg.AsyncConnection[DictRow], schedule: Schedule, watermark: datetime
) -> list[Any] | None:
    if schedule.selector is None:
        return []
    params = {"name": schedule.name, "watermark": watermark, "limit": MOST_ROWS + 1}
    try:
        await connection.execute(_SQL["limit"], {"milliseconds": schedule.selector_seconds * 1000})
        return [row["payload"] for row in await (await connection.execute(_SQL["select"], params)).fetchall()]
    except psycopg.Error as error:
        if error.sqlstate == "BB007":
            return None
        raise _refusal(schedule, error) from error


def _refusal(schedule: Schedule, error: psycopg.Error) -> BackbeatError:
    """What a selector's failure says to a person. A connection's failures have no code, or one of these classes."""
    said = " ".join((error.diag.message_primary or str(error)).split())
    what = f"the selector of {schedule.name!r}"
    match error.sqlstate:
        case "57014":
            fix = "Make it faster, or give it longer with --timeout"
            return InputError(f"{what} ran longer than {schedule.selector_seconds} s", fix=fix)
        case "42501":
            return InputError(f"{what} may not: {said}", fix="Grant what it reads to the role backbeat_selector")
        case str(code) if code[:2] not in ("08", "53", "57"):
            return InputError(f"{what} fails: {said}", fix="It must be one SELECT that only reads")
    return translate(error)


def _translate(error: psycopg.Error) -> BackbeatError:
    if error.sqlstate != "42501":
        return translate(error)
    what = "schedules are added, removed and turned with the login that runs the migrations"
    return AuthError(what, fix="Set BACKBEAT_DIRECT_URL to it")


def _schedule(row: DictRow) -> Schedule:
    return Schedule(class_=row.pop("class"), **row)
