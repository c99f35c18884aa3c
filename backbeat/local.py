"""One attempt of one task in this process, with memory where a database would be.

The execution layer is the real one: prompts, routes, structured output with its second try, classification, prices.
What Postgres would answer for is missing: law 1 and 3 (no claim, no lease), law 4 (no budget: nothing is reserved, no
cap holds) and the record of law 2 (a run that dies is forgotten, a second run pays again). So no effect is made: the
run ends where it would write to the outside. A Release or Retry is shown, not waited for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from shared import clock
from shared.config import Config
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.queue import Task
from shared.definitions import Definition, Registry
from shared.domain.outcome import Hold, Outcome
from shared.errors import InputError
from shared.execution.attempt import attempt
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.execution.payloads import checked
from shared.ids import SpanRef, span_id, trace_id
from shared.llm.routes import load_routes
from shared.telemetry.spans import NullTelemetry

_CALLS, _EFFECTS, _RATES = load("calls"), load("effects"), load("rates")


class Memory(Database):
    """What a run would have left in Postgres: `calls` in the order they opened, `effects` that were wanted.

    `outcomes` answers effects by kind: with an outcome, or an exception to raise. Without one the run ends there.
    """

    def __init__(self, outcomes: Mapping[str, Any] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.calls: list[dict[str, Any]] = []
        self.effects: list[dict[str, Any]] = []

    async def rows(self, query: LiteralString, params: Mapping[str, Any] | None = None) -> list[DictRow]:
        """Answer what the execution layer asks; whatever else there is to ask, nothing is known."""
        given = params or {}
        if query == _CALLS["open_calls"]:
            return [self._open(n, call) for n, call in enumerate(_plain(given["calls"]), 1)]
        if query == _CALLS["close_calls"]:
            return [{"n": n} for n, end in enumerate(_plain(given["ends"]), 1) if self._close(end)]
        if query == _EFFECTS["begin_effect"]:
            return [self._effect(given)]
        if query == _RATES["block"]:
            return [{"first": True}]
        if query == _RATES["admit"]:
            return [
                {"n": n, "verdict": "go", "wait": 0.0, "charged": []} for n, _ in enumerate(_plain(given["asks"]), 1)
            ]
        return []

    def _open(self, n: int, call: dict[str, Any]) -> DictRow:
        asked = [one for one in self.calls if one["call_key"] == call["call_key"]]
        answered = [one for one in asked if one.get("response") and one["request_hash"] == call["request_hash"]]
        if answered:
            return _verdict(n, "memo", answered[-1]["seq"], answered[-1]["response"])
        seq = 1 + len(asked)
        self.calls.append({**call, "seq": seq, "status": "open"})
        return _verdict(n, "open", seq, None)

    def _close(self, end: dict[str, Any]) -> bool:
        for call in self.calls:
            if (call["call_key"], call["seq"], call["status"]) == (end["call_key"], end["seq"], "open"):
                call.update(end)
                return True
        return False

    def _effect(self, wanted: Mapping[str, Any]) -> DictRow:
        kind, request = wanted["kind"], _plain(wanted["request"])
        self.effects.append({"key": wanted["key"].partition(":")[2], "kind": kind, "request": request})
        if kind not in self.outcomes:
            raise Interrupt(Hold("effect", f"{kind}: not made here"))
        outcome = self.outcomes[kind]
        if isinstance(outcome, BaseException):
            raise outcome
        return {"verdict": "done", "token": None, "outcome": outcome, "wait_seconds": None, "detail": None}


@dataclass(frozen=True, slots=True)
class Run:
    """How it ended. `usd` is None where a price is unknown; `simulated` names providers whose answers are made up."""

    outcome: Outcome | None
    calls: list[dict[str, Any]]
    effects: list[dict[str, Any]]
    tokens: dict[str, int]
    usd: Decimal | None
    simulated: list[str]


def environment(
    config: Config, registry: Registry, memory: Memory, kind: type[Environment] = Environment
) -> Environment:
    """The surroundings of a run without a database."""
    routes = load_routes(config.routes_file)
    return kind(config=config, db=memory, registry=registry, routes=routes, telemetry=NullTelemetry(), runtime="local")


def claimed(definition: Definition, value: Any) -> Task:
    """The row that a claim would have given. Raises InputError for what lives in more rows than one."""
    if stepwise(definition):
        raise InputError(f"{definition.full_name} goes on in steps, which are rows", fix="Enqueue it, and run ticks")
    if definition.bulk is not None:
        raise InputError(f"{definition.full_name} takes its rows by the hundred", fix="Enqueue them, and run a tick")
    task, now = uuid4(), clock.wall()
    return Task(
        id=task,
        tenant="default",
        workflow=definition.name,
        version=definition.version,
        tier=definition.tier,
        class_="normal",
        payload=value,
        attempts=1,
        max_attempts=definition.attempts,
        alone=False,
        lease=1,
        worker="local",
        started_at=now,
        origin_id=task,
        first_id=task,
        idempotency_key=None,
        traceparent=_trace(task),
        created_at=now,
        source_at=None,
    )


def stepwise(definition: Definition) -> bool:
    """Whether it is an agent or an orchestrator of agents."""
    return str(getattr(definition.run, "__module__", "")).endswith("authoring_agents")


async def run(config: Config, registry: Registry, definition: Definition, payload: Any) -> Run:
    """Run one attempt. Raises InputError for a payload that does not fit, ConfigError for a tier nobody serves."""
    task = claimed(definition, checked(definition, payload))
    memory = Memory()
    env = environment(config, registry, memory)
    try:
        outcome = await attempt(env, task)
    finally:
        await env.aclose()
    return summary(env, memory, outcome)


def summary(env: Environment, memory: Memory, outcome: Outcome | None) -> Run:
    """Add up what was called."""
    parts = ("uncached", "cache_read", "cache_write", "output", "reasoning")
    tokens = {part: sum(call.get(part) or 0 for call in memory.calls) for part in parts}
    billed = [call.get("cost_usd") for call in memory.calls if call["status"] == "done"]
    usd = None if None in billed else sum((Decimal(one) for one in billed if one is not None), Decimal(0))
    made_up = sorted({call["provider"] for call in memory.calls if env.simulated(call["provider"])})
    return Run(outcome, memory.calls, memory.effects, tokens, usd, made_up)


def _trace(task: UUID) -> str:
    return SpanRef(trace_id("task", task), span_id("enqueue", task)).traceparent


def _verdict(n: int, verdict: str, seq: int, response: Any) -> DictRow:
    return {"n": n, "verdict": verdict, "seq": seq, "response": response, "detail": None, "until": None}


def _plain(value: Any) -> Any:
    return value.obj if isinstance(value, Jsonb) else value
