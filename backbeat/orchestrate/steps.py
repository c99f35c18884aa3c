"""Single steps: a model call, a write to the world, an activity of the author's own, a decision of people."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from backbeat.orchestrate.run import REGION, RETRY, Note, call, current, quick
from shared.orchestration.messages import PROCEED, Question, Standing, Subworkflow, Write, Written

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Schema = Mapping[str, Any] | None

CALL_LIMIT = timedelta(minutes=15)  # one attempt at a model call, its re-ask included
WRITE_LIMIT = timedelta(minutes=10)
HEARTBEAT = timedelta(seconds=5)  # a worker that is silent for so long has died
RECHECK_FIRST, RECHECK_LONGEST = timedelta(minutes=1), timedelta(hours=1)


class Options(TypedDict, total=False):
    """What a call may say beside its question; `system` is the stable prefix that vendors cache."""

    system: str
    max_output_tokens: int


@dataclass(frozen=True)
class Approval:
    """What people decided: approved, rejected or expired; and what came of the effect they approved."""

    decision: str
    outcome: Any = None

    @property
    def approved(self) -> bool:
        """Whether they said yes."""
        return self.decision == "approved"


@overload
async def llm(key: str, *, output: type[M], prompt: str, tier: str, **options: Unpack[Options]) -> M: ...
@overload
async def llm(key: str, *, output: Schema, prompt: str, tier: str, **options: Unpack[Options]) -> Any: ...
async def llm(key: str, *, output: Any, prompt: str, tier: str, **options: Unpack[Options]) -> Any:
    """One model call whose answer is an `output`: a Pydantic model, a JSON Schema, or None for text.

    It is under the same budgets and prices as a task's.

    Answered from the record where key and request are the same: no retry, restart or reset pays twice. Raises
    ActivityError when no answer can be had: over the run's cap, invalid after five attempts, refused. A budget that is
    used up for the day is waited for.
    """
    run = current()
    model = output if isinstance(output, type) else None
    place = f"{model.__module__}:{model.__qualname__}" if model else ""
    schema = None if model or output is None else dict(output)
    with run.step(key, "llm", tier=tier):
        asked = Question(run.id, key, prompt, place, tier, schema=schema, **options)
        answer = await call("model_call", asked, object, limit=CALL_LIMIT, heartbeat=HEARTBEAT)
        return output.model_validate(answer) if model else answer


async def effect(key: str, kind: str, request: Mapping[str, Any]) -> Any:
    """Make an effect happen once for this run and key; returns its outcome.

    Once begun it is brought to a known end, even when the workflow is cancelled meanwhile. Raises ActivityError, caused
    by an ApplicationError of type EffectRefused, when the far side has said no five times. One that nobody can know
    about waits for a person.
    """
    run = current()
    with run.step(key, "effect", effect=kind) as note:
        written = await to_the_end(write(note, Write(run.id, key, kind, dict(request))))
        return written.outcome


async def write(note: Note, asked: Write) -> Written:
    """The far write, and waiting while nobody knows of it."""
    pause = RECHECK_FIRST
    while True:
        written = await call("write", asked, Written, limit=WRITE_LIMIT, heartbeat=HEARTBEAT)
        if written.status != "unknown":
            return written
        await current().pause(note, f"the outcome of {asked.key!r} is unknown: {written.detail}", pause)
        pause = min(pause * 2, RECHECK_LONGEST)


async def approve(
    key: str,
    *,
    title: str,
    request: Mapping[str, Any],
    policy: Mapping[str, Any],
    deadline: timedelta,
    effect: str = PROCEED,
    requested_by: str | None = None,
) -> Approval:
    """Ask people, and wait until they have decided or the deadline passed; what they approve is then done, once.

    They are shown title, effect and request, and sign exactly those. Without `effect` the workflow just goes on.
    `requested_by` is the user for whom it asks: a policy with `four_eyes` needs one. Raises ApplicationError when the
    request itself is refused.
    """
    run = current()
    body = {"title": title, "effect": effect, "request": dict(request), "policy": dict(policy)}
    rest = {"requested_by": requested_by, "deadline_seconds": deadline.total_seconds()}
    asked = Subworkflow(run.id, key, "approve_effect", body | rest)
    with run.step(key, "approval", title=title) as note:

        def missing(found: Standing) -> str | None:
            ended = found.status in ("completed", "failed", "cancelled")
            return None if ended else f"the decision on {title!r} (workflow {found.id})"

        found = await run.wait(note, lambda: quick("subworkflow", asked, Standing), missing)
        note.add(workflow=found.id)
        if found.status != "completed":
            raise ApplicationError(f"{key}: {found.error or 'the request was cancelled'}", type="ApprovalFailed")
        note.add(decision=found.result["decision"])
        return Approval(found.result["decision"], found.result.get("effect"))


async def tool(
    key: str,
    activity: Callable[..., Any],
    *arguments: Any,
    limit: timedelta = timedelta(minutes=1),
    attempts: int = 5,
) -> Any:
    """Run an activity of the author's own as a step: something that reads. What writes belongs into an effect."""
    with current().step(key, "tool"):
        region = REGION.get()
        return await workflow.execute_activity(
            activity,
            args=list(arguments),
            start_to_close_timeout=limit,
            retry_policy=RetryPolicy(initial_interval=RETRY.initial_interval, maximum_attempts=attempts),
            task_queue=f"{workflow.info().task_queue}-{region}" if region else None,
        )


async def wait_until(key: str, moment: datetime) -> None:
    """Wait until a moment, hours or weeks ahead."""
    run = current()
    with run.step(key, "timer") as note:
        while (left := moment - workflow.now()) > timedelta(0):
            await run.pause(note, f"{moment:%Y-%m-%d %H:%M:%S %Z}", left)


async def barrier(key: str, *steps: Awaitable[T]) -> list[T]:
    """Run steps side by side and go on when all have ended; the results in order.

    Where some failed, the first of them is raised after the last has ended: nothing is left running.
    """
    with current().step(key, "barrier", steps=len(steps)):
        running = [asyncio.ensure_future(step) for step in steps]
        try:
            ended = await asyncio.gather(*running, return_exceptions=True)
        except asyncio.CancelledError:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        for result in ended:
            if isinstance(result, BaseException):
                raise result
        return [one.result() for one in running]


@contextlib.contextmanager
def in_region(name: str) -> Iterator[None]:
    """Calls and writes inside the block run on workers of that region (`temporal-worker run --region NAME`) only."""
    token = REGION.set(name)
    try:
        yield
    except GeneratorExit:
        raise  # a run that is collected with its worker is closed in no context of its own
    except BaseException:
        REGION.reset(token)
        raise
    REGION.reset(token)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What was begun is finished, even when the workflow is cancelled meanwhile; the cancellation follows."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A failure of the step is less than the cancellation that follows.
        await asyncio.wait([task])
        raise
