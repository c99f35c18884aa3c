"""What a task's coroutine may do: ask a model, call another definition, act on the world, hand over."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel

from shared import clock
from shared.db.effects import Intent
from shared.db.queue import Task
from shared.definitions import Definition
from shared.domain.outcome import Child, Dead, Escalate, FanOut, Hold, Release, Retry, Snooze
from shared.errors import ConflictError
from shared.execution.ask import Ask
from shared.execution.call import model_call
from shared.execution.effects import EffectRefusedError, perform_effect
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.execution.tools import call_tool
from shared.ids import SpanRef, parse_traceparent, payload_hash, span_id
from shared.llm.classify import backoff

T = TypeVar("T", bound=BaseModel)
Schema = Mapping[str, Any] | None


class Options(TypedDict, total=False):
    """What a call may say beside its question.

    `system` is the stable prefix that vendors cache; a prompt that `grows` begins with the whole one of a call before.
    `escalate=False`: what is invalid twice is not asked a tier up. `batch` is its definition's, unless the call says.
    """

    system: str
    grows: bool
    max_output_tokens: int
    escalate: bool
    batch: bool | None


class Context:
    """Bound to one attempt of one task. Its methods may be awaited concurrently."""

    def __init__(self, env: Environment, task: Task, prefix: str = "", definition: Definition | None = None) -> None:
        self.env = self._env = env
        self._prefix = prefix
        self.definition = definition or env.registry.tasks[task.name]
        self._running: set[asyncio.Future[Any]] = set()
        self.task = task

    @overload
    async def llm(self, key: str, *, output: type[T], prompt: str, tier: str, **options: Unpack[Options]) -> T: ...
    @overload
    async def llm(self, key: str, *, output: Schema, prompt: str, tier: str, **options: Unpack[Options]) -> Any: ...
    async def llm(self, key: str, *, output: Any, prompt: str, tier: str, **options: Unpack[Options]) -> Any:
        """One model call whose answer is an `output`: a Pydantic model, a JSON Schema, or None for text.

        `key` names the call within the task: give it explicitly. A repeated run of the task is answered from the record
        where key and request are the same.
        """
        options["batch"] = False if self.definition.bulk else options.get("batch", self.definition.batch or None)
        ask = Ask(key=self._prefix + key, output=output, prompt=prompt, tier=tier, **options)
        call = asyncio.ensure_future(model_call(self._env, self.task, ask))
        self._running.add(call)
        call.add_done_callback(self._running.discard)
        return await asyncio.shield(call)

    async def run(self, definition: Definition, value: BaseModel) -> Any:
        """Run another definition inside this task; its calls are recorded under `<its name>/<their key>`."""
        inner = Context(self._env, self.task, f"{self._prefix}{definition.name}/", definition)
        inner._running = self._running
        return await definition.run(inner, value)

    async def tool(self, step: str, name: str, **args: Any) -> Any:
        """Call one of the definition's tools; a tool that writes does so once for this task and step.

        Raises ToolError when the tool refuses, and what else it raises: then the attempt is tried again later.
        """
        return await call_tool(self, step, name, args)

    async def effect(self, step: str, kind: str, request: dict[str, Any]) -> Any:
        """Make an effect happen once for this task and step; returns its outcome.

        Unwinds the attempt when it cannot be known yet (the task looks again later), or when a person must say.
        """
        task = self.task
        parent = parse_traceparent(task.traceparent)
        process = SpanRef(parent.trace_id, span_id("process", task.id, task.lease))
        intent = Intent(
            key=f"{task.effect_scope}:{self._prefix}{step}",
            kind=kind,
            request=request,
            request_hash=payload_hash(request),
            owner_kind="task",
            owner=task.id,
            lease=task.lease,
            origin=task.origin_id,
            traceparent=process.traceparent,
        )
        effect = self._env.registry.effects.get(kind)
        if effect and self._env.deadline.left < effect.timeout:
            raise Interrupt(Release("out_of_time", after=5.0))
        try:
            result = await perform_effect(self._env, intent)
        except ConflictError as error:
            raise Interrupt(Dead("effect_conflict", str(error))) from error
        except EffectRefusedError as error:
            raise Interrupt(Retry("effect_refused", str(error), backoff(task.attempts, self._env.rng))) from error
        match result.status:
            case "done":
                return result.outcome
            case "wait" | "stopped":
                raise Interrupt(Snooze(clock.wall() + timedelta(seconds=result.wait_seconds)))
            case "unknown":
                raise Interrupt(Hold("effect", intent.key))
            case "fenced":
                raise Interrupt(None)
            case _:
                raise Interrupt(Release(f"{result.status}: {result.detail}", after=result.wait_seconds))

    @staticmethod
    def fan_out(children: Iterable[tuple[Definition, BaseModel]], *, result: BaseModel | None = None) -> FanOut:
        """The outcome that ends this task and makes others, in one transaction; return it from the coroutine."""
        return FanOut(
            [Child(made.name, made.version, value.model_dump(mode="json")) for made, value in children],
            None if result is None else result.model_dump(mode="json"),
        )

    def escalate(self, workflow: str, body: dict[str, Any], *, result: BaseModel | None = None) -> Escalate:
        """The outcome that continues as an orchestrated workflow; return it from the task's coroutine."""
        return Escalate(workflow, body, None if result is None else result.model_dump(mode="json"))

    async def drain(self) -> None:
        """Let calls that are under way end and be billed, even when their answers are nobody's any more."""
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
