"""A worker in the test's process whose calls go to the simulated provider by batch, over the vendors' own SDKs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from shared.config import Config, ProviderConfig
from shared.db import queue
from shared.db.pool import Database as Connection
from shared.definitions import Definition, Registry
from shared.domain.outcome import Outcome
from shared.execution import batches
from shared.execution.attempt import attempt
from shared.execution.context import Context
from shared.execution.environment import Environment
from shared.llm.prices import Price
from shared.llm.routes import Route, Routes
from shared.telemetry.spans import NullTelemetry, SpanRecord
from tests.support import tasks
from tests.support.databases import Database
from tests.support.simulated import Service

ROUTES = {
    "anthropic": Route("haiku", "anthropic", "claude-haiku-4-5", 200_000, 8_000, True),
    "openai": Route("mini", "openai", "gpt-5.1", 200_000, 8_000, True),
    "compatible": Route(
        name="own",
        provider="compatible",
        model="gpt-5.1",
        window=200_000,
        max_output=8_000,
        bounded=True,
        price=Price(Decimal(3), Decimal(9)),
        capabilities=("json_schema", "usage", "batch"),
    ),
}
PATHS = {"anthropic": "/anthropic", "openai": "/openai/v1", "compatible": "/v1"}


class Item(BaseModel):
    n: int


class Answer(BaseModel):
    summary: str


class Spans(NullTelemetry):
    """Keeps the spans it is told of."""

    def __init__(self) -> None:
        self.kept: list[SpanRecord] = []

    def record(self, span: SpanRecord) -> None:
        self.kept.append(span)


@dataclass
class Worker:
    """What one process does, step by step."""

    db: Connection
    env: Environment
    database: Database
    spans: Spans

    async def run(self) -> list[Outcome | None]:
        """Claim what is ready, run it and settle it; the outcomes."""
        await queue.sweep(self.db)
        ended = [(task, await attempt(self.env, task)) for task in await tasks.take(self.db, loaded=["alpha@1"])]
        await queue.settle(self.db, [(task, outcome) for task, outcome in ended if outcome is not None])
        return [outcome for _, outcome in ended]

    async def add(self, count: int) -> list[UUID]:
        """Enqueue tasks and run each until it waits for its batch."""
        added = await tasks.add(self.db, count)
        await self.run()
        return added

    async def look(self) -> None:
        """Let a minute pass for calls that wait, let the next look at every batch come, and look."""
        self.database.sql("UPDATE backbeat.model_calls SET opened_at = opened_at - interval '61 s' WHERE batch = ''")
        self.database.sql("UPDATE backbeat.llm_batches SET next_at = backbeat.clock()")
        await batches.advance(self.env)

    def calls(self) -> list[tuple[Any, ...]]:
        """(seq, status, error class, whether by batch) of every call."""
        query = "SELECT seq, status, error_class, batch IS NOT NULL FROM backbeat.model_calls"
        return self.database.sql(f"{query} ORDER BY owner, call_key, seq")

    def batches(self) -> list[tuple[Any, ...]]:
        """(status, calls, note) of every batch."""
        return self.database.sql("SELECT status, calls, note FROM backbeat.llm_batches ORDER BY intended_at")


async def ask(ctx: Context, item: Item) -> Answer:
    return await ctx.llm("answer", output=Answer, prompt=f"Sum up {item.n}", tier="small", max_output_tokens=80)


@asynccontextmanager
async def worker(
    database: Database,
    provider: Service,
    vendor: str = "anthropic",
    *,
    run: Any = ask,
    wished: bool = True,
    **route: Any,
) -> AsyncIterator[Worker]:
    """A worker with one definition, `alpha`, whose calls go by batch, and one route, of which it changes `route`."""
    kind = "compatible" if vendor == "compatible" else ""
    known = ProviderConfig(vendor, provider.url + PATHS[vendor], "key", kind=kind, simulated=True)
    definition = Definition(name="alpha", version=1, input=Item, output=Answer, tier="small", run=run, batch=wished)
    routes = Routes({"small": (replace(ROUTES[vendor], **route),)}, "a test")
    spans = Spans()
    async with tasks.worker(database) as db:
        env = Environment(Config(providers={vendor: known}), db, Registry({"alpha@1": definition}, {}), routes, spans)
        try:
            yield Worker(db, env, database, spans)
        finally:
            await env.aclose()
