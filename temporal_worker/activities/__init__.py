"""All input and output of the workflows. Each activity may run twice; Postgres makes the second time harmless."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError

from shared import clock
from shared.errors import AuthError, BackbeatError, ConflictError, InputError, NotFoundError
from shared.execution.effects import EffectOutcome
from temporal_worker.constants import EFFECT_HEARTBEAT

# Trying again cannot help; anything else (Postgres away, a migration or a definition missing) a person or time mends.
_PERMANENT = (AuthError, ConflictError, InputError, NotFoundError)
BUG_ATTEMPTS = 10  # half a minute; then the run fails where people see it, and `workflow retry` goes on after the fix


@contextmanager
def temporal_errors() -> Iterator[None]:
    """Speak of errors in Temporal's terms: the text for people, and whether to try again. A bug is not, for ever."""
    try:
        yield
    except (FailureError, OSError):
        raise
    except BackbeatError as error:
        permanent = isinstance(error, _PERMANENT)
        raise ApplicationError(str(error), type=type(error).__name__, non_retryable=permanent) from error
    except Exception as error:
        last = activity.info().attempt >= BUG_ATTEMPTS
        raise ApplicationError(f"{type(error).__name__}: {error}", type="bug", non_retryable=last) from error


def known(result: EffectOutcome) -> EffectOutcome:
    """One that is done, or unknown. Raises ApplicationError: what waits is tried again, what was refused is not."""
    match result.status:
        case "done" | "unknown":
            return result
        case "wait" | "stopped":
            raise ApplicationError(
                f"the effect waits: {result.detail or 'another writer may be at it'}",
                type=result.status,
                next_retry_delay=timedelta(seconds=result.wait_seconds + 0.1),
                category=ApplicationErrorCategory.BENIGN,
            )
        case _:
            what = result.detail or "this run has ended"
            raise ApplicationError(f"the effect was refused: {what}", type=result.status, non_retryable=True)


@asynccontextmanager
async def heartbeat() -> AsyncIterator[None]:
    """Tell Temporal that this worker lives, so that it need not wait for the limit when it does not."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await clock.sleep(EFFECT_HEARTBEAT.total_seconds() / 3)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
