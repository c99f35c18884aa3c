"""What benchmarks/temporal.py runs, twice: with Backbeat's helpers, and on the bare SDK with the same durable steps."""

import time
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from temporalio import activity, workflow

from backbeat import orchestrate as bb

STEPS = 5
LOOKS = 2  # of an agent, so it asks a model three times
begun: dict[str, float] = {}  # when the first step of a run began, by its id


class Job(BaseModel):
    n: int


class Part(BaseModel):
    n: int


class Thought(BaseModel):
    text: str


@activity.defn
async def step(n: int) -> int:
    """Durable, and nothing else."""
    begun.setdefault(activity.info().workflow_id or "", time.monotonic())
    return n + 1


@workflow.defn(name="bench_backbeat")
class Backbeat:
    """Steps that people see, in a row that people ask for."""

    @workflow.run
    async def run(self, job: Job) -> int:
        n = job.n
        for number in range(STEPS):
            n = await bb.tool(f"step {number}", step, n)
        return n


@workflow.defn(name="bench_bare")
class Bare:
    """The same steps, and one that writes the result to Postgres, as anybody does who must show it."""

    @workflow.run
    async def run(self, job: Job) -> int:
        n = job.n
        for _ in range(STEPS):
            n = await workflow.execute_activity(step, n, start_to_close_timeout=timedelta(minutes=1))
        told: Any = {"id": workflow.info().workflow_id, "result": n}
        await workflow.execute_activity("tell", told, start_to_close_timeout=timedelta(minutes=1))
        return n


@workflow.defn(name="bench_spread")
class Spread:
    """A thousand tasks and back."""

    @workflow.run
    async def run(self, job: Job) -> int:
        joined = await bb.fan_out("parts", [("bench_part", {"n": n}) for n in range(job.n)])
        return sum([len(page) async for page in joined.pages()])


@workflow.defn(name="bench_agent")
class Agent:
    """Somebody waits for the answer: it thinks, looks something up, thinks, looks again, answers."""

    @workflow.run
    async def run(self, job: Job) -> int:
        for turn in range(LOOKS):
            await bb.llm(f"think {turn}", output=Thought, prompt=f"Turn {turn} of {job.n}: what next?", tier="small")
            await bb.tool(f"look {turn}", step, turn)
        await bb.llm("answer", output=Thought, prompt=f"Answer {job.n}.", tier="small")
        return LOOKS + 1
