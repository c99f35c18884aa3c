"""One origin from its enqueuer to its last effect, through both runtimes: one trace, and no span without its parent."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from backbeat.producer.submit import submit
from backbeat.reports.trace import trace_spans, trace_tree
from shared import clock
from shared.db import queue
from shared.definitions import load_definitions
from shared.execution.attempt import attempt
from shared.execution.environment import Environment
from shared.ids import span_id
from shared.telemetry.recorder import SpoolTelemetry
from shared.telemetry.shipper import ship_once
from tests.integration.test_orchestrated_calls import Shelves, asking
from tests.integration.test_orchestrations import connected
from tests.support.approvals import decide, token
from tests.support.clickhouse import ask
from tests.support.command import command
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, environment, eventually, finished, working

MODULE = "tests.support.errands"
CALLER = f"00-{'ab' * 16}-{'cd' * 8}-01"
PENDING = "SELECT id, hash FROM backbeat.approval_requests WHERE state = 'pending'"


async def _enqueue_and_attempt(env: Environment, source: datetime) -> UUID:
    """What a producer and the first tick do; the id of the workflow it escalates to."""
    env = replace(env, runtime="cron")
    env._providers["anthropic"] = Shelves()
    begin = env.registry.tasks["begin@1"]
    given = {"customer": "acme", "weight": 2}
    await submit(env.db, env.telemetry, begin, [given], traceparent=CALLER, source_at=[source])
    (task,) = await queue.claim(env.db, "ticks", ["begin@1"], 1, 60.0)
    outcome = await attempt(env, task)
    assert outcome is not None
    env.telemetry.flush()
    assert not await queue.settle(env.db, [(task, outcome)])
    return task.id


async def test_one_origin_is_one_trace(
    database: Database, temporal_server: Server, clickhouse: str, tmp_path: Path
) -> None:
    spool, source = tmp_path / "spool", clock.wall() - timedelta(minutes=3)
    telemetry = SpoolTelemetry(spool, "temporal-worker")
    tick = {"BACKBEAT_DEFINITIONS": MODULE, "BACKBEAT_TELEMETRY": "spool", "BACKBEAT_SPOOL_DIR": str(spool)}

    def ticked(workflow: str, count: int) -> bool:
        command("cron_worker", "tick", home=tmp_path, environ={**database.environ, **tick}).fine()
        return bool(
            database.value("SELECT count(*) = %s FROM backbeat.finished_tasks WHERE workflow = %s", [count, workflow])
        )

    client = await connected(temporal_server)
    async with environment(database, FarSide()) as bare:
        env = await asking(replace(bare, telemetry=telemetry), Shelves())
        registry = load_definitions([MODULE])
        env = replace(env, registry=replace(registry, effects=bare.registry.effects))
        env._providers["anthropic"] = Shelves()
        await queue.register(env.db, "ticks", "cron", registry.rows())
        async with working(env, client):
            task = await _enqueue_and_attempt(env, source)
            ((run,),) = database.sql("SELECT id FROM backbeat.orchestrated_workflows WHERE parent_task = %s", [task])
            ((request, shown),) = await eventually(lambda: database.sql(PENDING))
            for person in ("alice", "bob"):
                decide(database, token(database, person), request, "approve", shown)
            await eventually(lambda: database.value("SELECT count(*) FROM backbeat.simple_tasks"))
            await eventually(lambda: ticked("leaf", 4), within=60)
            done = await finished(database, run)
        telemetry.close()
    assert done["result"] == {"decision": "approved", "children": 2}, done
    assert ship_once(spool, clickhouse, 20).remaining == 0

    spans = trace_spans(clickhouse, "ab" * 16)
    every_span_has_its_place(spans)
    what_stands_beside_it_is_linked(clickhouse, spans, request)
    tree = trace_tree(clickhouse, "ab" * 16)
    assert tree.count("(its parent cdcdcdcdcdcdcdcd is not here)") == 1
    assert tree.splitlines()[0].startswith(f"trace {'ab' * 16}: {len(spans)} spans from ")
    facts_say_the_same(clickhouse, task, source)


def every_span_has_its_place(spans: list[dict[str, Any]]) -> None:
    known = {span["id"] for span in spans}
    orphans = [(span["name"], span["parent"]) for span in spans if span["parent"] not in known]
    assert orphans == [("enqueue begin", "cd" * 8)], "only the caller's own span is somebody else's"
    assert Counter(span["name"] for span in spans) == {
        "enqueue begin": 1, "process begin": 1, "chat claude-haiku-4-5": 2, "effect note": 3, "escalate errand": 1,
        "escalate approve_effect": 1, "approval.requested": 1, "approval.voted": 2, "approval.decided": 1, "fan_out": 3,
        "enqueue fork": 2, "process fork": 2, "enqueue leaf": 4, "process leaf": 4,
    }  # fmt: skip
    by_id = {span["id"]: span for span in spans}
    above = {(span["name"], by_id[span["parent"]]["name"]) for span in spans if span["parent"] in known}
    assert above >= {
        ("process begin", "enqueue begin"), ("escalate errand", "process begin"), ("fan_out", "escalate errand"),
        ("escalate approve_effect", "escalate errand"), ("approval.decided", "escalate approve_effect"),
        ("effect note", "escalate approve_effect"), ("enqueue fork", "fan_out"), ("fan_out", "process fork"),
        ("enqueue leaf", "fan_out"), ("effect note", "process begin"), ("effect note", "escalate errand"),
    }  # fmt: skip


def what_stands_beside_it_is_linked(clickhouse: str, spans: list[dict[str, Any]], request: UUID) -> None:
    others = "SELECT SpanName, uniqExact(TraceId) FROM v_spans WHERE TraceId != repeat('ab', 16) GROUP BY 1"
    assert [name for name, _ in ask(clickhouse, others)] == ["tick"], "whose traces are linked"
    linked = "SELECT DISTINCT arrayJoin(Links.SpanId) FROM v_spans WHERE SpanName = 'tick'"
    assert {one for (one,) in ask(clickhouse, linked)} == {
        s["id"] for s in spans if s["name"] in ("process fork", "process leaf")
    }
    waits = "SELECT DISTINCT Links.SpanId[1] FROM v_spans WHERE SpanName IN ('approval.voted', 'approval.decided')"
    assert ask(clickhouse, waits) == [(span_id("approval.requested", request),)]


def facts_say_the_same(clickhouse: str, task: UUID, source: datetime) -> None:
    origin = (
        "SELECT OriginId, Workflow, Runtime, Tenant, toUnixTimestamp64Micro(assumeNotNull(SourceAt)) FROM v_origins"
    )
    arose = round(source.timestamp() * 1e6)
    assert ask(clickhouse, origin) == [(str(task), "begin", "cron", "default", arose)]
    effects = "SELECT count(), uniqExact(OriginId), any(Status), uniqExact(Runtime) FROM v_effects"
    assert ask(clickhouse, effects) == [(3, 1, "done", 2)]
    decided = "SELECT State, Person, EffectKind, Timestamp > RequestedAt, WaitMs FROM v_approvals"
    (one,) = ask(clickhouse, decided)
    assert one[:4] == ("approved", "bob", "note", True)
    votes = "SELECT Person, Decision, WaitMs FROM v_approval_events WHERE Event = 'voted' ORDER BY Timestamp"
    said = ask(clickhouse, votes)
    assert [vote[:2] for vote in said] == [("alice", "approve"), ("bob", "approve")]
    assert said[0][2] <= said[1][2] == one[4]
    counts = (
        "SELECT sum(Claimed), sum(Settled), min(Slots), max(abs(ClockSkewMs)) < 60000, max(OldestWaitMs) > 0, sum(Shed)"
    )
    assert ask(clickhouse, f"{counts} FROM v_tick_runs") == [(6, 6, 16, True, True, 0)]
