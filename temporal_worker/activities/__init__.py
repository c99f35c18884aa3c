"""All input and output of the workflows. Each activity may run twice; Postgres makes the second time harmless."""

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.exceptions import ApplicationError

from shared.errors import AuthError, BackbeatError, ConflictError, InputError, NotFoundError

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
