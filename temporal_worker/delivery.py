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
from temporal_worker.constants import BATCH, LEASE, RPC_TIMEOUT
from temporal_worker.loops import describe, pause

Send = Callable[[Message], Awaitable[str | None]]


class RefusedError(Exception):
    """What is to be started cannot be, by anybody: a person reads why."""


async def drain(db: Database, kinds: Sequence[str], send: Send, loaded: Sequence[str] | None = None) -> bool:
    """Deliver one batch; True when there may be more. Raises UnavailableError."""
    messages = await outbox.lease(db, kinds, BATCH, LEASE, loaded)
    await deliver(db, messages, send)
    return len(messages) == BATCH


async def deliver(db: Database, messages: Sequence[Message], send: Send) -> None:
    """Send each message and record how that went. `send` returns the run's id, if it started one.

    Raises UnavailableError, after all are recorded, when Temporal did not answer for one of them.
    """
    errors = await asyncio.gather(*(_deliver(db, message, send) for message in messages))
    for error in filter(None, errors):
        raise away(error)


def away(error: BaseException) -> UnavailableError:
    """What to tell people when a call to Temporal failed."""
    return UnavailableError(
        f"Temporal does not answer: {describe(error)}", fix="Check temporal_address and that it runs"
    )


async def _deliver(db: Database, message: Message, send: Send) -> BaseException | None:
    """Returns the error that says Temporal is away, if it was."""
    try:
        run_id = await asyncio.wait_for(send(message), RPC_TIMEOUT)
    except RefusedError as error:
        await outbox.settle(db, message, "dead", str(error))
    except (RPCError, TimeoutError) as error:
        outcome = _outcome(message, error)
        await outbox.settle(db, message, outcome, describe(error), pause(message.attempts, 0.1))
        return error if outcome == "retry" else None
    else:
        await outbox.settle(db, message, "delivered", run_id=run_id)
    return None


def _outcome(message: Message, error: RPCError | TimeoutError) -> str:
    if isinstance(error, RPCError) and not_found(error) and message.kind != "start":
        # The workflow has ended, or Temporal lost it; the reconciler finds out which.
        return "delivered"
    if isinstance(error, RPCError) and error.status is RPCStatusCode.INVALID_ARGUMENT:
        return "dead"
    return "retry"


def not_found(error: RPCError) -> bool:
    """Whether Temporal does not know the workflow, as opposed to the namespace."""
    if error.status is not RPCStatusCode.NOT_FOUND:
        return False
    details = error.grpc_status.details
    return not any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in details)
