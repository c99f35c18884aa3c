"""Heals what an outage, a lost message or a restore left apart: compares open rows with Temporal, a few at a time."""

import asyncio
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from shared.db import effects, orchestrations, outbox
from shared.db.outbox import Open, State
from shared.db.pool import Database
from temporal_worker.constants import RECONCILE_AFTER, RECONCILE_BATCH, RPC_TIMEOUT
from temporal_worker.delivery import away, not_found
from temporal_worker.loops import describe, log


class Reconciler:
    """A row that Temporal does not know is started again; an end that nobody heard of is copied, to children too."""

    def __init__(self, db: Database, client: Client, after: float = RECONCILE_AFTER) -> None:
        self._db = db
        self._client = client
        self._after = after

    async def beat(self) -> bool:
        """Check the open rows nobody heard of lately; True when there may be more. Raises UnavailableError."""
        rows = await outbox.to_check(self._db, RECONCILE_BATCH, self._after)
        for row in rows:
            try:
                await self._check(row)
            except (RPCError, TimeoutError) as error:
                raise away(error) from error
        await orchestrations.cancel_orphans(self._db)
        return len(rows) == RECONCILE_BATCH

    async def _check(self, row: Open) -> None:
        handle: WorkflowHandle[Any, Any] = self._client.get_workflow_handle(row.temporal_id)
        try:
            found = await asyncio.wait_for(handle.describe(), RPC_TIMEOUT)
        except RPCError as error:
            if not not_found(error):
                raise
            if await outbox.restart(self._db, row):
                log.warning("%s: Temporal does not know it; started again", row.temporal_id)
            return
        if found.status in (None, WorkflowExecutionStatus.RUNNING):
            return
        state = await asyncio.wait_for(_end(handle, row.state_seq + 1, found.run_id), RPC_TIMEOUT)
        # A run completes after its row has said so: only a database that came back as it was before does not know.
        why = f"Temporal saw {row.temporal_id} complete, Postgres did not"
        if state.status == "completed" and await effects.note_restore(self._db, row.id, "(reconciler)", why):
            log.warning("Postgres was restored to an older point: effects since then are unknown")
        if await outbox.project(self._db, row.id, state):
            log.warning("%s: it ended unheard as %s", row.temporal_id, state.status)


async def _end(handle: WorkflowHandle[Any, Any], seq: int, run_id: str) -> State:
    try:
        return State(seq, "completed", run_id, result=await handle.result() or {})
    except WorkflowFailureError as error:
        cause = error.cause
        if type(cause).__name__ == "CancelledError":
            return State(seq, "cancelled", run_id)
        return State(seq, "failed", run_id, error=describe(cause.__cause__ or cause))
