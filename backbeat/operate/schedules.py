"""Schedules as people see and change them. Adding, removing and turning takes the login that runs the migrations."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from shared.db import schedules
from shared.db.pool import CONNECT_TIMEOUT, Database, translate
from shared.db.queries import load
from shared.db.schedules import Schedule
from shared.errors import AuthError, BackbeatError, ConflictError, NotFoundError

_SQL = load("schedules", "backbeat.operate")


async def now(db: Database) -> datetime:
    """Postgres' time."""
    moment: datetime = (await db.row(_SQL["now"]))["now"]
    return moment


async def find(db: Database) -> list[Schedule]:
    """All, by name."""
    return [schedules.from_row(row) for row in await db.rows(_SQL["list"], {"name": None})]


async def one(db: Database, name: str) -> Schedule:
    """The schedule of this name. Raises NotFoundError."""
    rows = await db.rows(_SQL["list"], {"name": name})
    if not rows:
        raise NotFoundError(f"there is no schedule {name!r}", fix="`backbeat schedule list` names them")
    return schedules.from_row(rows[0])


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
                yield await schedules.select_on(connection, schedule, schedule.watermark) or []
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


def _translate(error: psycopg.Error) -> BackbeatError:
    if error.sqlstate != "42501":
        return translate(error)
    what = "schedules are added, removed and turned with the login that runs the migrations"
    return AuthError(what, fix="Set BACKBEAT_DIRECT_URL to it")
