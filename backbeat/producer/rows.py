"""How tasks come in: a few with their answers, or many through COPY. Postgres decides what is new."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from shared.db.pool import Database, translate
from shared.db.queries import load

_SQL = load("producers", "backbeat.producer")


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
        return {name.rstrip("_"): getattr(self, name) for name in Terms.__slots__}


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
