"""All input and output of the workflows. Each activity may run twice; Postgres makes the second time harmless."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from temporalio import activity
from temporalio.exceptions import ApplicationError

from shared import clock
from shared.errors import AuthError, BackbeatError, ConflictError, InputError, NotFoundError
from temporal_worker.constants import EFFECT_HEARTBEAT

# Trying again cannot help; anything else (Postgres away, a migration or a definition missing) a person or time mends.
_PERMANENT = (AuthError, ConflictError, InputError, NotFoundError)


@contextmanager
def temporal_errors() -> Iterator[None]:
    """Speak of Backbeat's errors in Temporal's terms: the text for people, and whether to try again."""
    try:
        yield
    except BackbeatError as error:
        permanent = isinstance(error, _PERMANENT)
        raise ApplicationError(str(error), type=type(error).__name__, non_retryable=permanent) from error


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
