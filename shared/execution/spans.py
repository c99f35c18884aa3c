"""The spans of the execution layer: which row each one describes, and where it hangs in the trace.

Ids follow from the rows (see `shared.ids`), so every span that must exist can be counted from Postgres.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from shared import clock
from shared.db.approvals import Request
from shared.db.calls import Closing
from shared.db.effects import Intent
from shared.db.outbox import Workflow
from shared.db.queue import Task
from shared.definitions import Definition
from shared.domain.outcome import Dead, Outcome, Retry
from shared.domain.usage import Usage
from shared.execution.environment import Environment
from shared.ids import SpanRef, parse_traceparent, span_id, trace_id
from shared.llm.routes import Route
from shared.security.redact import redacted
from shared.telemetry.spans import Kind, SpanRecord

Payer = Task | Workflow  # whose model call it is


def enqueue_span(
    definition: Definition, task_id: UUID, origin: UUID | None, tenant: str, caller: str | None, started: int
) -> SpanRecord:
    """The producer's span; the row's `traceparent` names it."""
    parent = parse_traceparent(caller) if caller else None
    trace = parent.trace_id if parent else trace_id("task", task_id)
    about = _who(definition.name, definition.version, tenant, task_id, origin or task_id)
    about["backbeat.tier"] = definition.tier
    ids = SpanRef(trace, span_id("enqueue", task_id))
    return _span("producer", f"enqueue {definition.name}", ids, parent and parent.span_id, started, about)


def retold_enqueue_span(task: Any) -> SpanRecord:
    """The same span as the row tells it (its columns as attributes): whoever enqueued it may have died since.

    It knows the fan-out that made it, or whom it goes on for, but no caller; of two the producer's own is shown.
    """
    named = parse_traceparent(task.traceparent)
    at, ids = _ns(task.created_at), SpanRef(named.trace_id, span_id("enqueue", task.id))
    about = _who(task.workflow, task.version, task.tenant, task.id, task.origin_id) | {"backbeat.tier": task.tier}
    about["backbeat.source_at"] = task.source_at and task.source_at.timestamp()
    made = span_id("fan_out", task.parent_id) if task.parent_id else None
    parent = named.span_id if named.span_id != ids.span_id else made
    return _span("producer", f"enqueue {task.workflow}", ids, parent, at, about, ended=at)


def fan_out_span(env: Environment, maker: Payer, parent: UUID, started: int) -> SpanRecord:
    """What the tasks hang under that a task, or a workflow's step, makes; `parent` is what they call their parent."""
    above = process_ref(maker.traceparent, maker.id, maker.lease)
    return _child("producer", "fan_out", above, ("fan_out", parent), started, _task(env, maker))


def process_ref(traceparent: str, task_id: UUID, lease: int | None) -> SpanRef:
    """The span of one attempt, or of the start of an orchestration: the parent of its calls and effects."""
    if lease is None:
        return parse_traceparent(traceparent)
    return SpanRef(parse_traceparent(traceparent).trace_id, span_id("process", task_id, lease))


def process_span(env: Environment, task: Task, started: int, outcome: Outcome | None) -> SpanRecord:
    """One attempt, from claim to outcome."""
    about = _task(env, task)
    about["backbeat.outcome"] = type(outcome).__name__.lower() if outcome else "fenced"
    about["backbeat.queue_wait_ms"] = round((task.started_at - task.created_at).total_seconds() * 1000)
    about["backbeat.class"] = task.class_
    error = f"{outcome.error_class}: {outcome.error}" if isinstance(outcome, Retry | Dead) else None
    return _process(task.traceparent, task.workflow, task.id, task.lease, started, about, error)


def batch_span(definition: Definition, ends: Sequence[tuple[Task, Outcome | None]], started: int) -> SpanRecord:
    """The attempts of many rows in one call of their handler; a trace of its own, found by the batch's first row."""
    first = ends[0][0]
    counts = Counter(type(outcome).__name__.lower() if outcome else "fenced" for _, outcome in ends)
    about: dict[str, Any] = {f"backbeat.outcomes.{name}": count for name, count in sorted(counts.items())}
    about |= _who(definition.name, definition.version, first.tenant, first.id, None)
    about |= {"backbeat.origin_id": None, "backbeat.tier": definition.tier, "messaging.batch.message_count": len(ends)}
    return _span("consumer", f"process {definition.name}", _own("batch", first.id, first.lease), None, started, about)


def lost_process_span(env: Environment, run: Mapping[str, Any]) -> SpanRecord:
    """An attempt whose worker did not come back, told by whoever found its row."""
    about = _run(env, run) | {"backbeat.tier": run["tier"], "backbeat.outcome": "lost"}
    error = f"worker {run['worker']} stopped renewing its lease"
    started = _ns(run["started_at"])
    return _process(run["traceparent"], run["workflow"], run["id"], run["lease"], started, about, error)


def call_span(
    env: Environment, task: Payer, key: str, tier: str, route: Route, seq: int, started: int, end: Closing, **said: str
) -> SpanRecord:
    """One model call that was sent, however it ended; what was `said` in it only where the settings want that."""
    parent = process_ref(task.traceparent, task.id, task.lease)
    about = _task(env, task) | _model(env, route.provider, route.model, tier, key) | _ending(end)
    definition = env.registry.tasks.get(f"{task.workflow}@{task.version}")
    about["backbeat.tools_offered"] = len(definition.tools) if definition else 0
    if env.config.capture == "redacted":
        about |= {f"gen_ai.{name}.messages": redacted(text) for name, text in said.items()}
    error = f"{end.error_class}: {end.error}" if end.error_class else None
    return _child("client", f"chat {route.model}", parent, ("call", task.id, key, seq), started, about, error)


def recovered_call_span(env: Environment, run: Mapping[str, Any], call: Mapping[str, Any]) -> SpanRecord:
    """A call of a run whose worker disappeared, as its row tells it; an open one was sent perhaps, billed perhaps."""
    still_open = call["status"] == "open"
    end = Closing(
        "lost" if still_open else call["status"],
        usage=Usage(**{part: call[part] for part in Usage().as_dict()}) if call["status"] == "done" else None,
        cost=call["cost_usd"],
        error_class="worker_lost" if still_open else call["error_class"],
        **{name: call[name] for name in ("valid", "stop", "model_answered", "response_id", "price_version", "error")},
    )
    about = _run(env, run) | _ending(end)
    about |= _model(env, call["provider"], call["model"], call["tier"], call["call_key"])
    ids = "call", run["id"], call["call_key"], call["seq"]
    parent, ended = process_ref(run["traceparent"], run["id"], run["lease"]), call["closed_at"] or run["seen_at"]
    started = _ns(call["opened_at"])
    return _child("client", f"chat {call['model']}", parent, ids, started, about, end.error_class, _ns(ended))


def effect_span(env: Environment, intent: Intent, started: int, status: str) -> SpanRecord:
    """One effect; repeated by everybody who learns its outcome, and still one span."""
    about = {
        "backbeat.effect_key": intent.key,
        "backbeat.effect_status": status,
        "backbeat.task_id": str(intent.owner),
        "backbeat.origin_id": str(intent.origin),
        "backbeat.runtime": env.runtime,
    }
    parent = parse_traceparent(intent.traceparent)
    return _child("client", f"effect {intent.kind}", parent, ("effect", intent.key), started, about)


def tool_span(env: Environment, task: Task, step: str, tool: str, started: int, error: str | None) -> SpanRecord:
    """One call of a tool in one attempt."""
    about = _task(env, task) | {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
    parent = process_ref(task.traceparent, task.id, task.lease)
    ids = "tool", task.id, task.lease, step
    return _child("internal", f"execute_tool {tool}", parent, ids, started, about, error)


def escalate_span(env: Environment, row: Workflow) -> SpanRecord:
    """The hand-over from a task to a workflow: a child of the attempt that escalated, parent of all that follows."""
    parent = span_id("escalate", row.parent_workflow) if row.parent_workflow else None
    parent = span_id("process", row.parent_task, row.parent_lease) if row.parent_task else parent
    about = _who(row.workflow, row.version, row.tenant, row.id, row.origin_id) | {"backbeat.runtime": env.runtime}
    at, ids = _ns(row.created_at), parse_traceparent(row.traceparent)
    return _span("producer", f"escalate {row.workflow}", ids, parent, at, about, ended=at)


def approval_span(
    env: Environment, request: Request, event: str, at: datetime, row: UUID, **told: str | None
) -> SpanRecord:
    """What happened to a request, linked to its question. Id and time are a row's: told twice it is still one span."""
    about = _who(request.workflow, 1, request.tenant, request.workflow_id, request.origin_id)
    about |= {
        "backbeat.runtime": env.runtime,
        "backbeat.approval_id": str(request.id),
        "backbeat.approval_hash": request.hash,
        "backbeat.approval_state": "pending",
        "backbeat.approval_wait_ms": round((at - request.requested_at).total_seconds() * 1000),
        "backbeat.effect_kind": request.payload["effect"],
        **{f"backbeat.approval_{name}": value for name, value in told.items()},
    }
    parent, name, moment = parse_traceparent(request.traceparent), f"approval.{event}", _ns(at)
    ids, asked = (SpanRef(parent.trace_id, span_id(*of)) for of in ((name, row), ("approval.requested", request.id)))
    return _span("internal", name, ids, parent.span_id, moment, about, None, moment, (asked,) if ids != asked else ())


def tick_span(
    env: Environment, tick_id: UUID, worker: str, started: int, tasks: Sequence[Task], told: Mapping[str, Any]
) -> SpanRecord:
    """One tick that had something to do, in a trace of its own, linked to what it claimed. Waits are of first runs."""
    waits = [(task.started_at - task.created_at).total_seconds() for task in tasks if task.attempts == 1]
    about = {
        "backbeat.worker": worker,
        "backbeat.runtime": env.runtime,
        "backbeat.tick_id": str(tick_id),
        "messaging.batch.message_count": told["claimed"],
        "backbeat.oldest_wait_ms": round(max(waits) * 1000) if waits else None,
        **{f"backbeat.{name}": value for name, value in told.items()},
    }
    links = tuple(process_ref(task.traceparent, task.id, task.lease) for task in tasks)
    return _span("internal", "tick", _own("tick", tick_id), None, started, about, links=links)


def _who(workflow: str, version: int, tenant: str, owner: UUID, origin: UUID | None) -> dict[str, Any]:
    return {
        "backbeat.workflow": workflow,
        "backbeat.version": version,
        "backbeat.tenant": tenant,
        "backbeat.task_id": str(owner),
        "backbeat.origin_id": str(origin),
    }


def _task(env: Environment, task: Payer) -> dict[str, Any]:
    run = {name: getattr(task, name) for name in ("workflow", "version", "tenant", "id", "origin_id", "attempts")}
    return _run(env, run) | {"backbeat.tier": task.tier}


def _run(env: Environment, run: Mapping[str, Any]) -> dict[str, Any]:
    about = _who(run["workflow"], run["version"], run["tenant"], run["id"], run["origin_id"])
    about |= {"gen_ai.workflow.name": run["workflow"], "backbeat.attempt": run["attempts"]}
    return about | {"backbeat.runtime": env.runtime}


def _model(env: Environment, provider: str, model: str, tier: str, key: str) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "backbeat.tier": tier,
        "backbeat.call_key": key,
        "backbeat.tools_offered": 0,
        "backbeat.provider_simulated": env.simulated(provider),
    }


def _ending(end: Closing) -> dict[str, Any]:
    """How a call ended: its status, its bill and what was answered, as far as they are known."""
    told: dict[str, Any] = {
        "backbeat.cost_usd": None if end.cost is None else f"{end.cost:f}",
        "backbeat.price_version": end.price_version,
        "gen_ai.response.model": end.model_answered,
        "gen_ai.response.id": end.response_id,
        "gen_ai.response.finish_reasons": [end.stop] if end.stop else None,
        "error.type": end.error_class,
    }
    if end.usage:
        told |= {
            "gen_ai.usage.input_tokens": end.usage.input,
            "gen_ai.usage.output_tokens": end.usage.output,
            "gen_ai.usage.cache_read.input_tokens": end.usage.cache_read,
            "gen_ai.usage.cache_write.input_tokens": end.usage.cache_write,
            "gen_ai.usage.reasoning.output_tokens": end.usage.reasoning,
        }
        if end.usage.cache_ratio is not None:
            told["backbeat.cache_ratio"] = round(end.usage.cache_ratio, 4)
    validation = {True: "passed", False: "failed", None: "none"}[end.valid]
    known = {name: value for name, value in told.items() if value is not None}
    known["backbeat.tools_called"] = end.tools_called
    return known | {"backbeat.call_status": end.status, "backbeat.validation": validation}


def _process(
    traceparent: str, workflow: str, task: UUID, lease: int, started: int, about: dict[str, Any], error: str | None
) -> SpanRecord:
    parent = parse_traceparent(traceparent)
    return _child("consumer", f"process {workflow}", parent, ("process", task, lease), started, about, error)


def _own(*parts: Any) -> SpanRef:
    """A trace of its own."""
    return SpanRef(trace_id(*parts), span_id(*parts))


def _child(kind: Kind, name: str, parent: SpanRef, parts: tuple[Any, ...], *rest: Any) -> SpanRecord:
    """`rest` is what `_span` takes after the parent."""
    return _span(kind, name, SpanRef(parent.trace_id, span_id(*parts)), parent.span_id, *rest)


def _span(
    kind: Kind,
    name: str,
    ids: SpanRef,
    parent: str | None,
    started: int,
    about: Mapping[str, Any],
    error: str | None = None,
    ended: int | None = None,
    links: tuple[SpanRef, ...] = (),
) -> SpanRecord:
    end, told = clock.wall_ns() if ended is None else ended, error and redacted(error)
    return SpanRecord(name, kind, ids.trace_id, ids.span_id, parent, started, end, about, told, links)


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000_000)
