"""How tasks come in: a few with their answers, or many through COPY. Postgres decides what is new."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from shared.db.pool import Database, translate
from shared.db.queries import load
from shared.db.text import storable

_SQL = load("producers")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of one payload: the task that answers it, and whether this call made it."""

    task_id: UUID
    created: bool
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all tasks of one call have in common: their definition, for whom, and when."""

    workflow: str
    version: int
    tenant: str = "default"
    class_: str = "normal"
    run_after: datetime | None = None
    expires_at: datetime | None = None
    traceparent: str | None = None
    origin: UUID | None = None
    parent: UUID | None = None

    @property
    def params(self) -> dict[str, Any]:
        """As the queries name them."""
        return {
            "workflow": self.workflow,
            "version": self.version,
            "tenant": self.tenant,
            "class": self.class_,
            "run_after": self.run_after,
            "expires_at": self.expires_at,
            "traceparent": self.traceparent,
            "origin": self.origin,
            "parent": self.parent,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission(Terms):
    """Payloads of one definition, added in one transaction. `keys` are idempotency keys (None: none)."""

    payloads: Sequence[Any]
    keys: Sequence[bytes | None]
    source_at: Sequence[datetime | None] | None = None


async def enqueue(db: Database, batch: Submission) -> list[Enqueued]:
    """Add tasks; answers come in the order of the payloads. Raises NotFoundError for an unknown workflow or tenant."""
    given = {
        "payloads": [Jsonb(payload) for payload in batch.payloads],
        "keys": list(batch.keys),
        "source_at": None if batch.source_at is None else list(batch.source_at),
    }
    rows = await db.rows(_SQL["enqueue"], batch.params | given)
    return [Enqueued(row["task_id"], row["created"], row["status"]) for row in rows]


async def enqueue_many(
    connection: psycopg.AsyncConnection[Any], terms: Terms, rows: Iterable[tuple[bytes, bytes | None]]
) -> list[UUID]:
    """Add thousands of tasks through COPY, in the caller's transaction or one of its own; the ids of new ones.

    A row is a payload as JSON text and its idempotency key. Raises like `enqueue`.
    """
    lines = b"".join(
        b"%b\t%b\n" % (payload.replace(b"\\", b"\\\\"), b"\\N" if key is None else b"\\\\x" + key.hex().encode())
        for payload, key in rows
    )
    if not lines:
        return []
    try:
        async with connection.transaction(), connection.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute(_SQL["make_stage"])
            async with cursor.copy(_SQL["fill_stage"]) as copy:
                await copy.write(lines)
            await cursor.execute(_SQL["enqueue_stage"], terms.params)
            created: list[UUID] = await cursor.fetchall()
            await cursor.execute(_SQL["drop_stage"])
    except psycopg.Error as error:
        raise translate(error) from error
    return created


async def register_definitions(db: Database, runtime: str, definitions: Sequence[Mapping[str, Any]]) -> None:
    """Make definitions known, so that tasks of them can be enqueued before any worker came."""
    await db.rows(_SQL["register_definitions"], {"runtime": runtime, "definitions": storable(list(definitions))})


async def tenants(db: Database) -> list[dict[str, Any]]:
    """Every tenant with its weight, cap and pause, and what it has in the windows and running."""
    return await db.rows(_SQL["tenants"])


async def set_tenant(db: Database, tenant: str, weight: float | None, max_running: int | None, by: str) -> None:
    """Make a tenant, or change what is not None; a cap of 0 lifts it. Of `*`: make unknown tenants like this."""
    await db.rows(_SQL["set_tenant"], {"tenant": tenant, "weight": weight, "max_running": max_running, "by": by})


async def refuse_unknown_tenants(db: Database, by: str) -> None:
    """Undo `*`: only tenants that somebody made may have tasks."""
    await db.rows(_SQL["refuse_unknown_tenants"], {"by": by})


async def workflows(db: Database) -> list[dict[str, Any]]:
    """Every definition that was ever registered, when a worker last had it loaded, its pause and its live tasks."""
    return await db.rows(_SQL["workflows"])


async def pause(db: Database, scope: str, key: str, reason: str, by: str) -> int:
    """Let no task of a `tenant` or `workflow` start any more; how many left the windows. Raises NotFoundError."""
    return int((await db.row(_SQL["pause"], {"scope": scope, "key": key, "reason": reason, "by": by}))["waiting"])


async def resume(db: Database, scope: str, key: str, by: str) -> bool:
    """Undo that; False when it was not paused."""
    return bool((await db.row(_SQL["resume"], {"scope": scope, "key": key, "by": by}))["resumed"])
