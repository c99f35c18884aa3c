"""Adding tasks: payloads checked against their definition, keyed, enqueued, and each one's trace begun."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from backbeat.producer.rows import Enqueued, Submission, Terms, enqueue, enqueue_many
from shared import clock
from shared.db.pool import Database, translate
from shared.db.queue import register_definitions
from shared.definitions import Definition
from shared.errors import NotFoundError
from shared.execution.payloads import Row, canonical_text, checked
from shared.execution.spans import enqueue_span
from shared.ids import key_of, parse_traceparent
from shared.telemetry.spans import Telemetry

PART = 5000  # rows a transaction
ABREAST = 4  # transactions; they meet at their flow alone, at the end
PART_BYTES = 16 * 1_048_576


def _key(definition: Definition, value: dict[str, Any], salt: str) -> bytes:
    return key_of(definition.name, definition.version, canonical_text(definition, value), salt)


async def submit(
    db: Database,
    telemetry: Telemetry,
    definition: Definition,
    payloads: Sequence[Any],
    *,
    salt: str = "",
    tenant: str = "default",
    class_: str = "normal",
    run_after: datetime | None = None,
    expires_at: datetime | None = None,
    source_at: Sequence[datetime | None] | None = None,
    traceparent: str | None = None,
    origin: UUID | None = None,
) -> list[Enqueued]:
    """Enqueue one task a payload, in one transaction.

    Equal payloads are one task, unless `salt` differs or the definition says otherwise. Raises InputError for a
    payload that fails its model: then nothing is enqueued.
    """
    started = clock.wall_ns()
    values = [checked(definition, payload) for payload in payloads]
    keys = [_key(definition, value, salt) for value in values]
    if traceparent is not None:
        parse_traceparent(traceparent)
    name, version = definition.name, definition.version
    batch = Submission(
        workflow=name,
        version=version,
        payloads=values,
        keys=keys if definition.idempotency else [None] * len(keys),
        tenant=tenant,
        class_=class_,
        run_after=run_after,
        expires_at=expires_at,
        source_at=source_at,
        traceparent=traceparent,
        origin=origin,
    )
    try:
        added = await enqueue(db, batch)
    except NotFoundError:
        await register_definitions(db, "cron", [definition.row])
        added = await enqueue(db, batch)
    for answer in added:
        if answer.created:
            telemetry.record(enqueue_span(definition, answer.task_id, origin, tenant, traceparent, started))
    telemetry.flush()
    return added


async def submit_many(
    db: Database, telemetry: Telemetry, definition: Definition, terms: Terms, rows: Iterable[Row]
) -> AsyncIterator[tuple[int, int]]:
    """Enqueue any number of `prepared` payloads, some thousand a transaction; yields how many, and how many are new.

    While some parts are on their way, one a connection of the pool, the next is drawn from `rows`, in a thread. Where
    a connection breaks, the parts yielded are in; sent again, keyed rows are added once. Raises like `submit`.
    """
    await register_definitions(db, "cron", [definition.row])
    parts, under_way = _parts(rows), deque[tuple[int, asyncio.Task[int]]]()
    try:
        while part := await asyncio.to_thread(next, parts, None):
            under_way.append((len(part), asyncio.create_task(_submit_part(db, telemetry, definition, terms, part))))
            if len(under_way) == min(ABREAST, db.pool.max_size):
                yield under_way[0][0], await under_way[0][1]
                under_way.popleft()
        while under_way:
            yield under_way[0][0], await under_way[0][1]
            under_way.popleft()
    finally:
        await asyncio.gather(*(sending for _, sending in under_way), return_exceptions=True)


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row[0])
        if len(part) == PART or size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


async def _submit_part(
    db: Database, telemetry: Telemetry, definition: Definition, terms: Terms, rows: Sequence[Row]
) -> int:
    started = clock.wall_ns()
    try:
        async with db.pool.connection() as connection:
            created = await enqueue_many(connection, terms, rows)
    except psycopg.OperationalError as error:
        raise translate(error) from error
    for task in created if definition.trace == "task" else ():
        telemetry.record(enqueue_span(definition, task, terms.origin, terms.tenant, terms.traceparent, started))
    telemetry.flush()
    return len(created)
