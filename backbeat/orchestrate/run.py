"""What Backbeat keeps of an orchestration while it runs: which row it is, its steps, and who told what to Postgres.

Steps are told at waits and at the end only, together with what the run waits for: an activity a step would halve the
rate. Pokes say "look"; what counts is what an activity then reads.
"""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, is_cancelled_exception

from shared.orchestration.messages import Report, Step

T = TypeVar("T")
SPAN = 1_000_000  # states of one generation; a restarted run begins beyond those of the run before it
QUICK = timedelta(seconds=10)  # for activities on Postgres, which take milliseconds
LOOK_AGAIN = timedelta(minutes=10)  # a wait looks for itself, should a restore have lost its poke
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))
LONGEST_TEXT = 500
REGION: ContextVar[str] = ContextVar("backbeat_region", default="")


class Note:
    """The record of one step, while it runs."""

    def __init__(self, run: "Run", step: Step) -> None:
        self._run, self._step = run, step

    def set(self, **changed: Any) -> None:
        """Change what people will see."""
        self._step = dataclasses.replace(self._step, **changed)
        self._run.steps[self._step.seq] = self._step
        self._run.news[self._step.seq] = self._step

    def add(self, **detail: Any) -> None:
        """Add to its detail: small facts, no contents."""
        self.set(detail={**self._step.detail, **detail})

    def end(self, status: str, error: str | None = None) -> None:
        """Say how it ended."""
        if error:
            self.add(error=error)
        self.set(status=status, waits_for=None, ended_at=workflow.now().isoformat())


class Run:
    """One run of one orchestration; `current` finds it."""

    def __init__(self) -> None:
        name, _, generation = workflow.info().workflow_id.partition("/")[2].partition("~r")
        self.id = name
        self._seq = (int(generation or 1) - 1) * SPAN
        self.steps: dict[int, Step] = {}
        self.news: dict[int, Step] = {}
        self._pokes = 0
        self._telling = asyncio.Lock()
        self._told: str | None = None
        workflow.set_signal_handler("poke", self._poke)

    def _poke(self, *_: Any) -> None:
        self._pokes += 1

    @contextlib.contextmanager
    def step(self, name: str, kind: str, **detail: Any) -> Iterator[Note]:
        """Record a step for as long as the block lasts."""
        now = workflow.now().isoformat()
        region = {"region": REGION.get()} if REGION.get() else {}
        note = Note(self, Step(len(self.steps) + 1, name[:LONGEST_TEXT], kind, "running", now, detail=detail | region))
        note.set()
        try:
            yield note
        except GeneratorExit:
            # The worker ended and this run was collected with it, anywhere and outside of any workflow: nothing
            # happened to the step, and another worker goes on with it.
            raise
        except BaseException as problem:
            status = "cancelled" if is_cancelled_exception(problem) else "failed"
            error = None if status == "cancelled" else reason(problem)
            note.end(status, error)
            raise
        note.end("done")

    async def wait(self, note: Note, look: Callable[[], Awaitable[T]], missing: Callable[[T], str | None]) -> T:
        """Until `missing` says that nothing is, of what `look` finds; looks again after each poke."""
        while True:
            seen = self._pokes
            found = await look()
            lacking = missing(found)
            if lacking is None:
                note.set(status="running", waits_for=None)
                return found
            await self.pause(note, lacking, LOOK_AGAIN, seen)

    async def pause(self, note: Note, waits_for: str, limit: timedelta, seen: int | None = None) -> None:
        """Say what is waited for, then wait for a poke since `seen`, or the limit."""
        since = self._pokes if seen is None else seen
        note.set(status="waiting", waits_for=waits_for[:LONGEST_TEXT])
        await self._tell()
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._pokes > since, timeout=limit, timeout_summary=waits_for[:LONGEST_TEXT]
            )

    async def _tell(self) -> None:
        async with self._telling:
            waits = "; ".join(step.waits_for for step in self.steps.values() if step.waits_for)
            # Who waits for the same as before has nothing new to say.
            if waits and waits != self._told:
                await self._project("waiting", waiting_for=waits[: 2 * LONGEST_TEXT])
                self._told = waits

    async def end(self, error: BaseException | None, result: Any = None) -> None:
        """Tell how it ended, and every step not yet told of."""
        async with self._telling:
            if error is None:
                data = workflow.payload_converter().to_payload(result).data
                await self._project("completed", result=json.loads(data) if data and data != b"null" else {})
            elif is_cancelled_exception(error):
                await self._project("cancelled")
            else:
                await self._project("failed", error=reason(error))

    async def _project(self, status: str, **fields: Any) -> None:
        self._seq += 1
        news, self.news = self.news, {}
        try:
            report = Report(self.id, self._seq, status, steps=list(news.values()), **fields)
            await quick("project_run", report, bool)
        except BaseException:
            self.news = {**news, **self.news}
            raise


def current() -> Run:
    """The run of the workflow that calls."""
    instance = workflow.instance()
    found: Run | None = getattr(instance, "_backbeat_run", None)
    if found is None:
        found = instance._backbeat_run = Run()  # noqa: SLF001
    return found


async def quick(activity: str, argument: Any, result: type[T]) -> T:
    """An activity on Postgres: milliseconds, tried again until Postgres answers."""
    return await call(activity, argument, result, limit=QUICK)


async def call(
    activity: str, argument: Any, result: type[T], *, limit: timedelta, heartbeat: timedelta | None = None
) -> T:
    """An activity of this program, where `in_region` says, tried again until it says that it cannot be done."""
    queue = f"{workflow.info().task_queue}-{REGION.get()}" if REGION.get() and limit > QUICK else None
    answer: T = await workflow.execute_activity(
        activity,
        argument,
        result_type=result,
        start_to_close_timeout=limit,
        heartbeat_timeout=heartbeat,
        retry_policy=RETRY,
        task_queue=queue,
    )
    return answer


def reason(error: BaseException) -> str:
    """One line for people: what the activity, or the author, said first."""
    while error.__cause__ is not None and not isinstance(error, ApplicationError):
        error = error.__cause__
    text = error.message if isinstance(error, ApplicationError) else str(error)
    return " ".join(text.split())[:2000] or type(error).__name__
