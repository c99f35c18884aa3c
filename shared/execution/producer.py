"""Adding tasks: payloads checked against their definition, keyed, enqueued, and each one's trace begun."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from shared import clock
from shared.db.pool import Database
from shared.db.queue import Enqueued, Submission, enqueue, register_definitions
from shared.definitions import Definition
from shared.errors import InputError, NotFoundError
from shared.execution.spans import enqueue_span
from shared.ids import idempotency_key, parse_traceparent
from shared.telemetry.spans import Telemetry


def checked(definition: Definition, payload: Any) -> dict[str, Any]:
    """The payload as the definition will read it. Raises InputError naming the field that is wrong."""
    try:
        value: dict[str, Any] = definition.input.model_validate(payload).model_dump(mode="json")
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the payload"
        raise InputError(f"{definition.full_name}: {where}: {problem['msg']}", fix="Correct the payload") from error
    return value


def _key(definition: Definition, value: dict[str, Any], salt: str) -> bytes:
    try:
        return idempotency_key(definition.name, definition.version, value, salt)
    except ValueError as error:
        what = f"{definition.full_name}: the payload has no canonical form: {error}"
        raise InputError(what, fix="Write NaN and numbers beyond 2**53 as strings") from error


async def submit(
    db: Database,
    telemetry: Telemetry,
    definition: Definition,
    payloads: Sequence[Any],
    *,
    salt: str = "",
    idempotent: bool = True,
    tenant: str = "default",
    class_: str = "normal",
    run_after: datetime | None = None,
    expires_at: datetime | None = None,
    source_at: Sequence[datetime | None] | None = None,
    traceparent: str | None = None,
    origin: UUID | None = None,
) -> list[Enqueued]:
    """Enqueue one task a payload, in one transaction; equal payloads are one task, unless `salt` differs.

    Raises InputError for a payload that fails its model: then nothing is enqueued.
    """
    started = clock.wall_ns()
    values = [checked(definition, payload) for payload in payloads]
    if traceparent is not None:
        parse_traceparent(traceparent)
    name, version = definition.name, definition.version
    batch = Submission(
        workflow=name,
        version=version,
        payloads=values,
        keys=[_key(definition, value, salt) if idempotent else None for value in values],
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
