"""One attempt of many rows: a handler that takes rows of one tenant and definition at once, and answers each."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar, Unpack

from pydantic import BaseModel, ValidationError

from shared import clock
from shared.db.queue import Task
from shared.definitions import Definition
from shared.domain.outcome import Escalate, FanOut, Outcome
from shared.execution.attempt import ended_by, invalid, outcome_of
from shared.execution.context import Context, Options
from shared.execution.environment import Environment
from shared.execution.spans import batch_span, fan_out_span, process_span, retold_enqueue_span
from shared.llm.classify import backoff

T = TypeVar("T", bound=BaseModel)
Ends = list[tuple[Task, Outcome]]


class BatchContext:
    """What a handler of many rows may do: ask a model about all of them in one call.

    The call is booked on the batch's first task. `tasks` are the rows, in the order of the inputs. A row that has an
    effect to make, or more to ask, goes on as a task of its own: answer it with `FanOut`.
    """

    def __init__(self, env: Environment, tasks: Sequence[Task]) -> None:
        self._context = Context(env, tasks[0])
        self.drain = self._context.drain
        self.tasks = tuple(tasks)
        self.asked = False

    async def llm(self, key: str, *, output: type[T], prompt: str, tier: str, **options: Unpack[Options]) -> T:
        """One model call for the batch; see `Context.llm`. A batch that is put together anew asks anew."""
        self.asked = True
        return await self._context.llm(key, output=output, prompt=prompt, tier=tier, **options)

    fan_out = staticmethod(Context.fan_out)


async def run_batch(env: Environment, tasks: Sequence[Task]) -> Ends:
    """Run claimed rows of one tenant and definition; how each ended, without those that are nobody's business any more.

    A handler that raises before it asked a model is tried again with halves of the rows, so that one bad row ends
    alone. The span is recorded, not flushed.
    """
    started = clock.wall_ns()
    definition = env.registry.tasks[tasks[0].name]
    given: list[tuple[Task, Any]] = []
    ends: Ends = []
    for task in tasks:
        try:
            given.append((task, definition.input.model_validate(task.payload)))
        except ValidationError as error:
            ends.append((task, invalid(error)))
    asked: list[Task] = []
    if given:
        ends += await _handled(env, definition, given, asked)
    if definition.trace == "batch":
        told: list[tuple[Task, Outcome | None]] = [*ends] or [(tasks[0], None)]
        env.telemetry.record(batch_span(definition, told, started))
    for task, outcome in ends:
        alone = task in asked or isinstance(outcome, FanOut | Escalate)
        if alone:  # what hangs under it must find it
            env.telemetry.record(retold_enqueue_span(task))
        if definition.trace == "task" or alone:
            env.telemetry.record(process_span(env, task, started, outcome))
        if isinstance(outcome, FanOut):
            env.telemetry.record(fan_out_span(env, task, task.id, started))
    return ends


async def _handled(env: Environment, definition: Definition, given: list[tuple[Task, Any]], asked: list[Task]) -> Ends:
    context = BatchContext(env, [task for task, _ in given])
    try:
        answers = await definition.run(context, [value for _, value in given])
        if not isinstance(answers, Sequence) or len(answers) != len(given):
            made = len(answers) if isinstance(answers, Sequence) else type(answers).__name__
            raise ValueError(f"{definition.full_name} was given {len(given)} rows and answered {made}")
        return [(task, outcome_of(definition, answer)) for (task, _), answer in zip(given, answers, strict=True)]
    except BaseException as error:
        await context.drain()
        running = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and running is not None and running.cancelling():
            raise
        if len(given) > 1 and isinstance(error, Exception) and not context.asked:
            middle = len(given) // 2
            first = await _handled(env, definition, given[:middle], asked)
            return first + await _handled(env, definition, given[middle:], asked)
        outcome = ended_by(error, backoff(given[0][0].attempts, env.rng))
        return [] if outcome is None else [(task, outcome) for task, _ in given]
    finally:
        if context.asked:
            asked.append(given[0][0])
