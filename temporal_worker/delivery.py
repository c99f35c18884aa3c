"""Delivering leased messages: lease, commit, call Temporal, then mark. What went wrong decides what happens next.

A time-out is ambiguous, so the message is sent again: starting the same id twice starts it once, and a
second poke only makes the workflow look again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.service import RPCError, RPCStatusCode

from shared.db import outbox
from shared.db.outbox import Message
from shared.db.pool import Database
from shared.errors import UnavailableError
from temporal_worker.constants import RPC_TIMEOUT, UNKNOWN_WORKFLOW_ATTEMPTS, UNKNOWN_WORKFLOW_DELAY
from temporal_worker.loops import describe, pause

Send = Callable[[Message], Awaitable[str | None]]


class UnknownWorkflowError(Exception):
    """No workflow of this program has that name and version; a newer worker's may."""


async def deliver(db: Database, messages: Sequence[Message], send: Send) -> None:
    """Send each message and record how that went. `send` returns the run's id, if it started one.

    Raises UnavailableError, after all are recorded, when Temporal did not answer for one of them.
    """
    answers = await asyncio.gather(*(_deliver(db, message, send) for message in messages))
    for away in filter(None, answers):
        raise UnavailableError(f"Temporal does not answer: {away}", fix="Check temporal_address and that it runs")


async def _deliver(db: Database, message: Message, send: Send) -> str | None:
    try:
        run_id = await asyncio.wait_for(send(message), RPC_TIMEOUT)
    except UnknownWorkflowError as error:
        outcome = "retry" if message.attempts < UNKNOWN_WORKFLOW_ATTEMPTS else "dead"
        await outbox.settle(db, message, outcome, str(error), UNKNOWN_WORKFLOW_DELAY)
        return None
    except (RPCError, TimeoutError) as error:
        return await _failed(db, message, error)
    await outbox.settle(db, message, "delivered", run_id=run_id)
    return None


async def _failed(db: Database, message: Message, error: RPCError | TimeoutError) -> str | None:
    """Record a call that failed; returns why Temporal counts as away, if it does."""
    text = describe(error)
    if isinstance(error, RPCError) and not_found(error) and message.kind != "start":
        # The workflow has ended, or Temporal lost it; the reconciler knows which.
        await outbox.settle(db, message, "delivered", text)
        return None
    if isinstance(error, RPCError) and error.status is RPCStatusCode.INVALID_ARGUMENT:
        await outbox.settle(db, message, "dead", text)
        return None
    await outbox.settle(db, message, "retry", text, pause(message.attempts, 0.1))
    return text


def not_found(error: RPCError) -> bool:
    """Whether Temporal does not know the workflow, as opposed to the namespace."""
    if error.status is not RPCStatusCode.NOT_FOUND:
        return False
    details = error.grpc_status.details
    return not any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in details)
