"""What ticks do with schedules and selectors; what people do is in `backbeat.operate.schedules`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from shared.db.pool import CONNECT_TIMEOUT, Database, translate
from shared.db.queries import load
from shared.errors import BackbeatError, InputError

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


async def due(db: Database, loaded: Sequence[str]) -> list[Schedule]:
    """Those to look at now, the most overdue first; with a selector only if their definition is among the loaded."""
    return [from_row(row) for row in await db.rows(_SQL["due"], {"loaded": list(loaded)})]


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
        return await select_on(connection, schedule, watermark)


async def select_on(
    connection: psycopg.AsyncConnection[DictRow], schedule: Schedule, watermark: datetime
) -> list[Any] | None:
    """The same within a transaction of the caller's."""
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


def from_row(row: DictRow) -> Schedule:
    """A row of the table, with `now`."""
    return Schedule(class_=row.pop("class"), **row)
