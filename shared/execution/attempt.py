"""One attempt of one task: payload in, outcome out. It never raises, except when it is cancelled."""

import asyncio
import json
from typing import Any

from pydantic import ValidationError

from shared import clock
from shared.db.queue import Task
from shared.definitions import Definition
from shared.domain.outcome import Dead, Escalate, FanOut, Hold, Outcome, Release, Retry, Snooze, Succeed
from shared.errors import ConfigError, UnavailableError
from shared.execution.context import Context
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.execution.spans import fan_out_span, process_span, retold_enqueue_span
from shared.llm.classify import backoff
from shared.llm.structured import OutputInvalidError, parse

OUTCOMES = (Succeed, Retry, Release, Snooze, Hold, Dead, Escalate, FanOut)


async def attempt(env: Environment, task: Task) -> Outcome | None:
    """Run a claimed task and say how it ended; None when its lease was lost and nobody wants to know.

    The span of the attempt is recorded, not flushed; with the first attempt that of the enqueuer too, who may have
    died between its commit and its flush.
    """
    started = clock.wall_ns()
    if task.attempts == 1:
        env.telemetry.record(retold_enqueue_span(task))
    try:
        outcome = await _run(env, task, env.registry.tasks[task.name])
    except asyncio.CancelledError:
        env.telemetry.record(process_span(env, task, started, Release("cut_off")))
        raise
    env.telemetry.record(process_span(env, task, started, outcome))
    if isinstance(outcome, FanOut):
        env.telemetry.record(fan_out_span(env, task, task.id, started))
    return outcome


async def _run(env: Environment, task: Task, definition: Definition) -> Outcome | None:
    try:
        value = definition.input.model_validate(task.payload)
    except ValidationError as error:
        return invalid(error)
    context = Context(env, task)
    try:
        return outcome_of(definition, await definition.run(context, value))
    except asyncio.CancelledError as error:
        await context.drain()
        running = asyncio.current_task()
        if running is not None and running.cancelling():
            raise
        # Nobody cancelled the attempt: the author awaited something of his own that was.
        return Retry(type(error).__name__, "something the task awaited was cancelled", backoff(task.attempts, env.rng))
    except BaseException as error:
        # SystemExit from a library, or an Interrupt inside a task group: one row must not take the tick with it.
        await context.drain()
        return ended_by(error, backoff(task.attempts, env.rng))


def ended_by(error: BaseException, after: float) -> Outcome | None:
    """How an attempt ends whose coroutine raised `error`; a new one starts after `after` seconds."""
    interrupt = error if isinstance(error, Interrupt) else _interrupt(error)
    if interrupt is not None:
        return interrupt.outcome
    if isinstance(error, UnavailableError | ConfigError):
        return Release(str(error), after=after)
    return Retry(type(error).__name__, str(error), after=after)


def _interrupt(error: BaseException) -> Interrupt | None:
    """The refusal that a task group wrapped up."""
    found: BaseException | None = error.subgroup(Interrupt) if isinstance(error, BaseExceptionGroup) else None
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, Interrupt) else None


def outcome_of(definition: Definition, result: Any) -> Outcome:
    """What a coroutine's answer means."""
    if isinstance(result, OUTCOMES):
        return result
    wanted = definition.output
    if isinstance(wanted, type):
        if isinstance(result, wanted):
            return Succeed(result.model_dump(mode="json"))
        what = f"{type(result).__name__}, not {wanted.__name__} or an outcome"
    else:
        try:
            return Succeed(parse(wanted, json.dumps(result)))
        except (TypeError, ValueError, OutputInvalidError) as error:
            what = f"something else than its schema says: {error}"
    return Dead("wrong_result", f"{definition.full_name} returned {what}")


def invalid(error: ValidationError) -> Dead:
    """The end of a task whose payload is not what its definition takes."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "payload"
    return Dead("invalid_payload", f"{where}: {problem['msg']} ({error.error_count()} problem(s))")
