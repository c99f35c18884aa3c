"""What people ask of orchestrations' runs, and do to them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any
from uuid import UUID

from backbeat.operate import inspect
from backbeat.operate.actions import do
from shared.config import Config
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.queue import register_definitions
from shared.db.text import clean, storable
from shared.definitions import Orchestration, Registry
from shared.errors import ConfigError, ConflictError, DefinitionError, InputError, NotFoundError, UnavailableError
from shared.execution.payloads import PAYLOAD_CAP, checked

_SQL = load("runs", "backbeat.operate")
Row = dict[str, Any]
ANSWER_WITHIN = 5.0  # seconds for Temporal


@dataclass(frozen=True, slots=True)
class Story:
    """One run: its row, its steps, its bills and effects, and messages that Temporal has not had yet."""

    workflow: Row
    steps: list[Row]
    calls: list[Row]
    effects: list[Row]
    undelivered: list[Row]


def wanted(registry: Registry, name: str, version: int | None) -> Orchestration:
    """The orchestration of this name and version, the newest if None. Raises DefinitionError naming what is loaded."""
    newest = registry.newest_orchestration(name)
    found = newest if version is None else registry.orchestrations.get(f"{name}@{version}")
    if found is None:
        raise DefinitionError(f"no loaded module defines {name}@{version}", fix=f"Newest: {newest.full_name}")
    return found


@asynccontextmanager
async def refusals(db: Database, name: str, by: str) -> AsyncIterator[None]:
    """What refuses to start an orchestration inside is also written to the audit log."""
    try:
        yield
    except (DefinitionError, InputError, NotFoundError, ConflictError) as error:
        await db.row(_SQL["refuse_start"], {"workflow": clean(name), "by": by, "error": clean(str(error))})
        raise


async def start(
    db: Database, made: Orchestration, payload: Any, *, tenant: str, key: str | None, traceparent: str | None
) -> tuple[UUID, bool]:
    """Row and message in one transaction; the id, and whether it is new. A key starts once.

    Raises InputError naming the field that is wrong, ConflictError when the key stands for another input.
    """
    value = checked(made, payload)
    if (size := len(json.dumps(value).encode())) > PAYLOAD_CAP:
        raise InputError(f"{made.full_name}: its input has {size} bytes, more than {PAYLOAD_CAP}")
    await register_definitions(db, "temporal", [made.row])
    params = {"workflow": made.name, "version": made.version, "tenant": tenant, "key": key}
    row = await db.row(_SQL["start"], {**params, "input": storable(value), "traceparent": traceparent})
    if not row["same"]:
        raise ConflictError(
            f"key {key!r} started {made.name} {row['id']} with another input", fix="Give another key, or that input"
        )
    return row["id"], row["created"]


async def runs(
    db: Database,
    since: timedelta,
    *,
    statuses: Sequence[str] | None = None,
    workflow: str | None = None,
    tenant: str | None = None,
    limit: int = 30,
) -> list[Row]:
    """The newest first."""
    which = {"since": since, "statuses": list(statuses) if statuses else None, "workflow": workflow, "tenant": tenant}
    return await db.rows(_SQL["runs"], {**which, "limit": limit})


async def run(db: Database, workflow: UUID) -> Row:
    """One row. Raises NotFoundError."""
    rows = await db.rows(_SQL["run"], {"id": workflow})
    if not rows:
        raise NotFoundError(f"there is no workflow {workflow}", fix="`backbeat workflow list` names them")
    return rows[0]


async def steps(db: Database, workflow: UUID) -> list[Row]:
    """What a run told of its steps, in order; it tells at waits and at its end."""
    return await db.rows(_SQL["steps"], {"id": workflow})


async def story(db: Database, workflow: UUID) -> Story:
    """Everything about one run. Raises NotFoundError."""
    return Story(
        workflow=await run(db, workflow),
        steps=await steps(db, workflow),
        calls=await db.rows(inspect._SQL["calls"], {"owner": workflow}),  # noqa: SLF001
        effects=await db.rows(inspect._SQL["effects"], {"owners": [workflow]}),  # noqa: SLF001
        undelivered=await db.rows(_SQL["undelivered"], {"id": workflow}),
    )


def waits(found: Story, temporal: Row | None) -> list[Row]:
    """What a run waits for, and since when: as its steps say, or its row, and as Temporal does of what is under way."""
    told = [{"step": one["step"], "waits_for": one["waits_for"], "since": one["started_at"]} for one in found.steps]
    told = [one for one in told if one["waits_for"]]
    if not told and found.workflow["waiting_for"]:
        told = [{"step": None, "waits_for": found.workflow["waiting_for"], "since": found.workflow["updated_at"]}]
    for one in temporal["pending_activities"] if temporal else ():
        where = one["unclaimed_in"] and f"for a worker of task queue {one['unclaimed_in']}"
        why = one["error"] or where or "which is under way"
        told.append({"step": None, "waits_for": f"{one['activity']}, {why}", "since": one["since"]})
    return told


async def cancel(db: Database, workflow: UUID, reason: str) -> None:
    """Ask a run to end. Raises NotFoundError, ConflictError when it has ended."""
    if not await do(db, _SQL["cancel"], {"id": workflow, "reason": reason}):
        ended = await run(db, workflow)
        raise ConflictError(
            f"workflow {workflow} has already ended: {ended['status']}", fix="Nothing is left to cancel"
        )


async def retry(db: Database, workflow: UUID, by: str) -> None:
    """Run a failed or cancelled one again. Raises NotFoundError, ConflictError when it is neither, or was undone."""
    await run(db, workflow)
    against = await do(db, _SQL["retry"], {"id": workflow, "by": by})
    if against == "undone":
        fix = "What it undid would count as done: start another one"
        raise ConflictError(f"workflow {workflow} has compensated what it did", fix=fix)
    if against:
        fix = "`backbeat workflow cancel` ends one that runs; one that completed is done"
        raise ConflictError(f"workflow {workflow} is {against}, not failed or cancelled", fix=fix)


async def reconcile(db: Database, workflow: UUID) -> None:
    """Have the worker compare it with Temporal at its next beat. Raises NotFoundError, ConflictError when it ended."""
    if not await do(db, _SQL["recheck"], {"id": workflow}):
        ended = await run(db, workflow)
        raise ConflictError(f"workflow {workflow} has ended: {ended['status']}", fix="Only open ones are compared")


async def position(config: Config, temporal_id: str) -> Row:
    """Where Temporal says the run is. Raises UnavailableError, NotFoundError."""
    from temporalio.api.enums.v1 import PendingActivityState
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.client import Client
    from temporalio.service import RPCError, RPCStatusCode

    from shared.security.temporal import connection

    away = "Check temporal_address and that it runs"
    try:
        given = connection(config)
    except ConfigError as error:
        raise UnavailableError(error.what, fix=error.fix) from error
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            client = await Client.connect(**given)
            # One that is not there would make every workflow look forgotten.
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
            found = await client.get_workflow_handle(temporal_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and "amespace" not in str(error):
            raise NotFoundError(f"Temporal does not know {temporal_id}", fix="A worker starts it") from error
        raise UnavailableError(f"Temporal does not answer: {error}", fix=away) from error
    except (TimeoutError, RuntimeError) as error:
        raise UnavailableError(f"Temporal does not answer: {str(error)[:200] or 'too slow'}", fix=away) from error
    raw = found.raw_description
    activities = [
        {
            "activity": one.activity_type.name,
            "attempt": one.attempt,
            "error": one.last_failure.message or None,
            "since": one.scheduled_time.ToDatetime(UTC),
            "unclaimed_in": one.activity_options.task_queue.name
            if one.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
            else None,
        }
        for one in raw.pending_activities
    ]
    stuck = raw.pending_workflow_task.attempt if raw.HasField("pending_workflow_task") else 0
    return {
        "status": found.status.name.lower() if found.status is not None else None,
        "run_id": found.run_id,
        "task_queue": found.task_queue,
        "history_events": found.history_length,
        "pending_activities": activities,
        # Its code fails or nobody runs it: from the second attempt on that is worth knowing.
        "workflow_task_attempts": stuck,
    }
