"""One model call as a task makes it, with a vendor that is simulated in the test."""

import asyncio
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from backbeat.operate import actions
from shared.config import Config, ProviderConfig
from shared.db.pool import Database as Connection
from shared.definitions import Definition, Registry
from shared.domain.outcome import Dead, Succeed
from shared.domain.usage import Usage
from shared.execution.attempt import attempt
from shared.execution.context import Context
from shared.execution.environment import Environment
from shared.ids import span_id
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Route, Routes
from shared.telemetry.spans import NullTelemetry, SpanRecord
from tests.support import tasks
from tests.support.databases import Database

ROUTE = Route("haiku", "anthropic", "claude-haiku-4-5", 200_000, 8_000, True)


class Answer(BaseModel):
    n: int


class Vendor:
    """Answers {"n": 1}, {"n": 2}, … a moment after it is asked."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, request: Request) -> Reply:
        self.sent += 1
        n = self.sent
        await asyncio.sleep(0.02)
        return Reply(f'{{"n": {n}}}', Usage(uncached=len(request.prompt), output=10), "end", request.model, f"sim_{n}")

    async def aclose(self) -> None:
        pass


class Notes(NullTelemetry):
    """Keeps the spans it is told of."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    def record(self, span: SpanRecord) -> None:
        self.spans.append(span)


async def _attempt(db: Connection, vendor: Vendor, run: Any, telemetry: NullTelemetry | None = None) -> Any:
    definition = Definition(name="alpha", version=1, input=Answer, output=Answer, tier="small", run=run)
    config = Config(providers={"anthropic": ProviderConfig("anthropic", api_key="k", base_url="", simulated=True)})
    env = Environment(
        config,
        db,
        Registry({"alpha@1": definition}, {}),
        Routes({"small": (ROUTE,)}, "a test"),
        telemetry or NullTelemetry(),
    )
    env._providers["anthropic"] = vendor
    await tasks.add(db)
    return await attempt(env, await tasks.take_one(db))


async def test_a_tier_that_is_not_there_is_a_dead_letter(database: Database) -> None:
    async def run(ctx: Context, _value: Answer) -> Answer:
        return await ctx.llm("key", output=Answer, prompt="say", tier="huge")

    vendor = Vendor()
    async with tasks.worker(database) as db:
        line = "no tier is called 'huge': use one of small"
        assert await _attempt(db, vendor, run) == Dead("unknown_tier", line)
    assert vendor.sent == 0


async def test_a_call_that_is_under_way_is_waited_for(database: Database) -> None:
    async def run(ctx: Context, _value: Answer) -> Answer:
        async def ask(prompt: str = "same") -> Answer:
            return await ctx.llm("key", output=Answer, prompt=prompt, tier="small", max_output_tokens=20)

        answers = await asyncio.gather(*(ask() for _ in range(5)))
        assert [one.n for one in answers] == [1] * 5
        return await ask("another")

    vendor = Vendor()
    async with tasks.worker(database) as db:
        assert await _attempt(db, vendor, run) == Succeed({"n": 2})
    assert vendor.sent == 2
    assert database.sql("SELECT seq, status FROM backbeat.model_calls ORDER BY seq") == [(1, "done"), (2, "done")]


async def test_a_call_whose_leave_was_lost_on_its_way_is_in_the_trace(database: Database) -> None:
    """As when Postgres is killed between its commit and its answer, and is asked again."""

    async def run(ctx: Context, _value: Answer) -> Answer:
        await tasks.opened(db, ctx.task, "key")
        return await ctx.llm("key", output=Answer, prompt="once", tier="small", max_output_tokens=20)

    notes = Notes()
    async with tasks.worker(database) as db:
        assert await _attempt(db, Vendor(), run, notes) == Succeed({"n": 1})
    made = database.sql("SELECT owner, seq, status FROM backbeat.model_calls ORDER BY seq")
    assert [row[1:] for row in made] == [(1, "lost"), (2, "done")]
    assert {span_id("call", owner, "key", seq) for owner, seq, _ in made} <= {span.span_id for span in notes.spans}


async def test_a_loop_that_runs_away_dies_of_its_budget(database: Database) -> None:
    async def run(ctx: Context, _value: Answer) -> Answer:
        for n in range(100):
            await ctx.llm(str(n), output=Answer, prompt="again " * 8000, tier="small", max_output_tokens=20)
        raise AssertionError("it may not get here")

    vendor = Vendor()
    async with tasks.worker(database) as db:
        await actions.set_budget(tasks.Operator(database), "task", "alpha", Decimal("0.25"), None, "test")
        outcome = await _attempt(db, vendor, run)
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "over_task_budget"
    assert "may use 0.25 USD and any tokens; 0.19" in outcome.error
    assert vendor.sent == 4
