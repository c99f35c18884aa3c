"""What an orchestration does: ask a model, write to the world; through the same execution layer as a task."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from shared import clock
from shared.db import orchestrations, outbox
from shared.db.effects import Intent
from shared.definitions import Orchestration
from shared.domain.outcome import Dead, Hold, Outcome, Release, Retry, Snooze
from shared.errors import DefinitionError
from shared.execution.ask import Ask
from shared.execution.call import model_call
from shared.execution.effects import EffectRefusedError, perform_effect
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.ids import payload_hash
from shared.orchestration.messages import Question, Write, Written
from temporal_worker.activities import heartbeat, known, temporal_errors

ATTEMPTS = 5  # of a call whose answers are invalid, or of a write that its far side refuses; then the author decides
LONGEST_WAIT = timedelta(minutes=1)  # until a held call is tried again: somebody may have raised the budget


class Calls:
    """The activities that cost money or change the world."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    @activity.defn(name="model_call")
    async def model_call(self, asked: Question) -> Any:
        """The answer, on record before it is returned: an attempt after this one does not pay again."""
        with temporal_errors():
            row = await outbox.workflow(self._env.db, UUID(asked.run))
            loaded = self._env.registry.orchestrations.values()
            output = _model(asked.output, loaded) if asked.output else asked.schema
            same = {name: getattr(asked, name) for name in ("key", "prompt", "system", "tier", "max_output_tokens")}
            ask = Ask(output=output, **same)
            async with _told(self._env):
                try:
                    answer = await model_call(self._env, replace(row, attempts=activity.info().attempt), ask)
                except Interrupt as interrupt:
                    raise _error(interrupt.outcome) from interrupt
        return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer

    @activity.defn(name="write")
    async def write(self, asked: Write) -> Written:
        """Make an effect happen once for this run and step, or learn that it did."""
        with temporal_errors():
            row = await outbox.workflow(self._env.db, UUID(asked.run))
            undone = f"{row.id}:{asked.undoes}" if asked.undoes and not asked.wrote else None
            if undone and await orchestrations.wrote_nothing(self._env.db, undone):
                return Written("absent")
            intent = Intent(
                key=f"{row.id}:{asked.key}",
                kind=asked.kind,
                request=asked.request,
                request_hash=payload_hash(asked.request),
                owner_kind="workflow",
                owner=row.id,
                lease=None,
                origin=row.origin_id,
                traceparent=row.traceparent,
            )
            async with _told(self._env):
                try:
                    found = known(await perform_effect(self._env, intent))
                    return Written(found.status, found.outcome, found.detail)
                except EffectRefusedError as error:
                    attempt = activity.info().attempt
                    last = attempt >= ATTEMPTS and not asked.undoes
                    delay = timedelta(seconds=2.0 ** min(attempt - 2, 8))
                    raise ApplicationError(
                        str(error), type="EffectRefused", non_retryable=last, next_retry_delay=delay
                    ) from error


@contextlib.asynccontextmanager
async def _told(env: Environment) -> AsyncIterator[None]:
    async with heartbeat():
        try:
            yield
        finally:
            env.telemetry.flush()


def _model(place: str, declared: Iterable[Orchestration]) -> type[BaseModel]:
    """A model of an orchestration's package, or that its module imports: a payload names nothing else."""
    module, _, name = place.partition(":")
    found: Any = sys.modules.get(module)
    path = [found, *(found := getattr(found, part, None) for part in name.split("."))]
    homes = [sys.modules[made.load()[0].__module__] for made in declared]
    near = any(
        home.__name__.partition(".")[0] == module.partition(".")[0]
        or any(value is one for value in vars(home).values() for one in path[:2])
        for home in homes
    )
    if not (near and isinstance(found, type) and issubclass(found, BaseModel)):
        fix = "Put it at the top of a module of the orchestration's package, or import it where its class stands"
        raise DefinitionError(f"{place} is no Pydantic model that an orchestration knows", fix=fix)
    return found


def _error(outcome: Outcome | None) -> ApplicationError:
    """Why there is no answer now, in Temporal's terms."""
    match outcome:
        case Retry():
            last = activity.info().attempt >= ATTEMPTS
            delay = timedelta(seconds=max(outcome.after, 0.05))
            return ApplicationError(outcome.error, type=outcome.error_class, non_retryable=last, next_retry_delay=delay)
        case Dead():
            return ApplicationError(outcome.error, type=outcome.error_class, non_retryable=True)
        case Release():
            what, wait = outcome.reason, timedelta(seconds=max(outcome.after, 0.5))
        case Hold():
            what, wait = f"held for {outcome.reason} {outcome.key}", LONGEST_WAIT
        case Snooze():
            what, wait = "it must wait", max(outcome.until - clock.wall(), timedelta(seconds=0.5))
        case _:
            return ApplicationError("this run has ended", type="fenced", non_retryable=True)
    delay = min(wait, LONGEST_WAIT)
    return ApplicationError(what, type="waits", next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN)
