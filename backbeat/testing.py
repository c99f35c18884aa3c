"""For authors' tests: a definition's handler against answers that the test writes. No model, database or network.

    with canned({"answer": {"category": "billing", "urgent": False}}) as models:
        end = models.run(triage, {"subject": "Invoice", "body": "You charged me twice."})
    assert end.result.category == "billing"

All between is real: the payload is checked, the prompt filled, each answer validated, an invalid one sent back once.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel

from backbeat.local import Memory, claimed, environment
from shared.config import Config, ProviderConfig
from shared.definitions import Definition, Registry
from shared.domain.outcome import Escalate, FanOut, Outcome, Succeed
from shared.domain.usage import Usage
from shared.execution.attempt import attempt
from shared.execution.environment import Environment
from shared.execution.payloads import checked
from shared.llm.protocol import Provider, Reply, Request

Answer = BaseModel | Mapping[str, Any] | str | BaseException
Answers = Answer | list[Answer] | Callable[["Call"], Answer]


@dataclass(frozen=True, slots=True)
class Call:
    """What a model was asked. `key` is the author's; a second asking after an invalid answer has the same."""

    key: str
    model: str
    system: str
    prompt: str
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class End:
    """How the attempt ended. `result` is an instance of the definition's output, where there is one."""

    outcome: Outcome | None
    result: Any


class Canned:
    """Models and a far side that say what the test wrote; made by `canned`.

    `calls` are the model calls in order, `effects` what the handler wrote (`key`, `kind`, `request`), `escalations`
    and `children` what it handed over.
    """

    def __init__(self, answers: Mapping[str, Answers], effects: Mapping[str, Any]) -> None:
        self._answers = {key: list(one) if isinstance(one, list) else one for key, one in answers.items()}
        self._unasked = set(answers)
        self._outcomes = effects
        self._problem: AssertionError | None = None
        self.calls: list[Call] = []
        self.effects: list[dict[str, Any]] = []
        self.escalations: list[Escalate] = []
        self.children: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        left = sorted(self._unasked | {key for key, one in self._answers.items() if isinstance(one, list) and one})
        if kind is None and left:
            raise AssertionError(f"canned, and never asked for: {', '.join(left)}")

    def run(self, definition: Definition, payload: Any) -> End:
        """Run one attempt. Raises AssertionError for a call without an answer, InputError for a bad payload."""
        return asyncio.run(self.run_async(definition, payload))

    async def run_async(self, definition: Definition, payload: Any) -> End:
        """The same, in a test that is a coroutine."""
        given = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload
        task = claimed(definition, checked(definition, given))
        memory = Memory(self._outcomes)
        providers = {name: ProviderConfig(name, None, "canned", simulated=True) for name in ("anthropic", "openai")}
        registry = Registry({definition.full_name: definition}, {})
        env = environment(Config(providers=providers), registry, memory, _at(self))
        outcome = await attempt(env, task)
        if self._problem:
            raise self._problem
        self.effects += memory.effects
        match outcome:
            case Escalate():
                self.escalations.append(outcome)
            case FanOut():
                self.children += outcome.children
        made = outcome.result if isinstance(outcome, Succeed | Escalate | FanOut) else None
        read = getattr(definition.output, "model_validate", None)
        return End(outcome, read(made) if read and made is not None else made)

    async def send(self, request: Request) -> Reply:
        """Answer as a provider does."""
        key = request.metadata["key"].partition("#")[0]
        call = Call(key, request.model, request.system, request.prompt, request.max_output_tokens)
        self.calls.append(call)
        self._unasked.discard(key)
        answer = self._next(call)
        if isinstance(answer, BaseException):
            raise answer
        usage = Usage(uncached=len(request.prompt) // 4, output=len(answer) // 4)
        return Reply(text=answer, usage=usage, stop="end", model=request.model, response_id="canned")

    async def aclose(self) -> None:
        """Nothing to close."""

    def _next(self, call: Call) -> str | BaseException:
        answer: Any = self._answers.get(call.key)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        elif callable(answer):
            answer = answer(call)
        if answer is None:
            self._problem = AssertionError(f"no answer is canned for call {call.key!r}: {call.prompt[:80]!r}")
            return self._problem
        if isinstance(answer, BaseModel):
            return answer.model_dump_json()
        return answer if isinstance(answer, str | BaseException) else json.dumps(answer)


def canned(answers: Mapping[str, Answers] | None = None, *, effects: Mapping[str, Any] | None = None) -> Canned:
    """A context with answers by call key (of a `single_shot`: "answer"), and outcomes of effects by kind.

    An answer is a model, a mapping, a text (as the vendor sends it, valid or not), or an exception to raise; a list is
    one a call; a function is asked with the Call. An effect without an outcome ends the run there. At its end, what was
    canned and not asked for is an AssertionError.
    """
    return Canned(answers or {}, effects or {})


def _at(stage: Canned) -> type[Environment]:
    class Stage(Environment):
        async def provider(self, name: str) -> Provider:  # noqa: ARG002
            return stage

    return Stage
