"""A worker in the test's process, on the simulated provider's rules: it claims, attempts and settles."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from backbeat.embedded.simulated import rules, schema
from backbeat.producer.submit import submit
from shared.config import Config, ProviderConfig
from shared.db import queue
from shared.db.pool import Database as Connection
from shared.definitions import load_definitions
from shared.domain.usage import Usage
from shared.execution.attempt import attempt
from shared.execution.environment import Environment
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Route, Routes
from shared.telemetry.spans import NullTelemetry, SpanRecord
from tests.support import tasks
from tests.support.databases import Database

ROUTE = Route("haiku", "anthropic", "claude-haiku-4-5", 200_000, 8_000, True)
WORK = "tests.support.agent_definitions"


class Vendor:
    """The simulated provider's rules without its wire; `prompts` is what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def send(self, request: Request) -> Reply:
        self.prompts.append(request.prompt)
        text = json.dumps(schema.build(dict(request.schema or {}), rules.read(request.prompt)))
        usage = Usage(uncached=len(request.prompt) // 4, output=len(text) // 4)
        return Reply(text, usage, "end", request.model, f"sim_{len(self.prompts)}")

    async def aclose(self) -> None:
        pass


class Notes(NullTelemetry):
    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    def record(self, span: SpanRecord) -> None:
        self.spans.append(span)


class Desk:
    """A worker in this process: it claims, attempts and settles until nothing is ready."""

    def __init__(self, db: Connection, env: Environment, vendor: Vendor, notes: Notes, database: Database) -> None:
        self.db, self.env, self.vendor, self.notes, self.database = db, env, vendor, notes, database

    async def add(self, name: str, payload: dict[str, Any]) -> UUID:
        """Enqueue a task; its id."""
        definition = self.env.registry.newest(name)
        (one,) = await submit(self.db, NullTelemetry(), definition, [payload])
        return one.task_id

    async def turn(self) -> int:
        """Sweep, claim, attempt and settle once; how many were claimed."""
        await queue.sweep(self.db)
        claimed = await queue.claim(self.db, "desk", list(self.env.registry.tasks), 20, 60.0)
        outcomes = await asyncio.gather(*(attempt(self.env, task) for task in claimed))
        await queue.settle(self.db, [(t, end) for t, end in zip(claimed, outcomes, strict=True) if end])
        return len(claimed)

    async def drain(self) -> None:
        """Until no task is live."""
        while await self.turn() or self.database.value("SELECT count(*) FROM backbeat.simple_tasks"):
            # Retries wait for their backoff; nobody here does.
            self.database.sql("UPDATE backbeat.simple_tasks SET run_after = '2020-01-01' WHERE status = 'delayed'")

    def agent(self, one: UUID) -> dict[str, Any]:
        """The row of an agent."""
        found: dict[str, Any] = self.database.value("SELECT to_jsonb(a) FROM backbeat.agents a WHERE id = %s", [one])
        return found

    def steps(self, one: UUID) -> list[dict[str, Any]]:
        """The rows of its steps."""
        rows = self.database.sql(
            "SELECT to_jsonb(s) FROM backbeat.agent_steps s WHERE agent_id = %s ORDER BY number", [one]
        )
        return [row for (row,) in rows]


@asynccontextmanager
async def desk(database: Database, *modules: str, prompt_tools: Sequence[str] = ()) -> AsyncIterator[Desk]:
    config = Config(providers={"anthropic": ProviderConfig("anthropic", api_key="k", base_url="", simulated=True)})
    registry, vendor, notes = load_definitions(modules or [WORK], prompt_tools), Vendor(), Notes()
    async with tasks.worker(database) as db:
        env = Environment(config, db, registry, Routes({"small": (ROUTE,), "medium": (ROUTE,)}, "a test"), notes)
        env._providers["anthropic"] = vendor
        await queue.register_definitions(db, "cron", registry.rows())
        await queue.register(db, "desk", "cron", registry.rows())
        yield Desk(db, env, vendor, notes, database)
