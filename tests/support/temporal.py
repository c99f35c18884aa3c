"""Real Temporal servers for tests, and this program's worker around a far side that is a list in memory (simulated)."""

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest
from psycopg.rows import DictRow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from backbeat.embedded import ports, temporal
from shared.config import Config
from shared.db.pool import Database as Pool
from shared.db.pool import open_pool
from shared.definitions import Effect, Registry
from shared.execution.effects import EffectRefusedError
from shared.execution.environment import Environment
from shared.llm.routes import load_routes
from shared.telemetry.spans import SpanRecord
from temporal_worker.worker import Options, serve
from tests.support.databases import Database


@dataclass
class Server:
    """A dev server with a database file: kill it, start it again, its workflows are still there."""

    home: Path
    port: int = field(default_factory=ports.find)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        log = (self.home / "temporal.log").open("ab")
        command = temporal.command(self.home, self.port)
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.home)
        log.close()
        until = time.monotonic() + 90.0
        while said := temporal.probe(self.port):
            assert time.monotonic() < until, said

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class FarSide:
    """Somebody else's system (simulated): it keeps what it was sent, by our key.

    `troubles` of the next writes: refuse, lose request, lose answer. `gate` holds writes back; `asked` says one came.
    """

    posted: dict[str, list[Any]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    can_look: bool = True
    patience: float = 0.5  # seconds in which a write has happened
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def writes(self) -> int:
        return sum(len(requests) for requests in self.posted.values())

    async def perform(self, request: dict[str, Any], key: str) -> dict[str, Any]:
        self.asked.set()
        await self.gate.wait()
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "refuse":
            raise EffectRefusedError("the far side said no")
        if trouble != "lose request":
            self.posted.setdefault(key, []).append(request)
        if trouble:
            raise ConnectionResetError(trouble)
        return {"id": len(self.posted)}

    async def read_back(self, request: dict[str, Any], key: str) -> dict[str, Any] | None:
        return {"id": 0} if key in self.posted else None

    @property
    def effect(self) -> Effect:
        look = self.read_back if self.can_look else None
        return Effect(kind="note", perform=self.perform, read_back=look, timeout=self.patience, settle=0.5)


class Spans:
    """Telemetry that keeps spans for assertions."""

    shed = untold = 0

    def __init__(self) -> None:
        self.records: list[SpanRecord] = []

    def record(self, span: SpanRecord) -> None:
        self.records.append(span)

    def flush(self) -> None: ...

    def close(self) -> None: ...


@contextlib.asynccontextmanager
async def environment(database: Database, far: FarSide, spans: Spans | None = None) -> AsyncIterator[Environment]:
    """What activities have around them."""
    async with open_pool(database.worker_url, 10) as pool:
        registry = Registry({}, {"note": far.effect})
        yield Environment(Config(), Pool(pool, 4.0), registry, load_routes(), spans or Spans(), runtime="temporal")


@contextlib.asynccontextmanager
async def working(env: Environment, client: Client, options: Options | None = None) -> AsyncIterator[Options]:
    """This program's worker, loops and all, on a task queue of its own."""
    stop = asyncio.Event()
    cached = 0 if os.environ.get("BACKBEAT_TEST_UNCACHED") == "1" else 1000
    options = replace(options or Options(task_queue=f"test-{uuid4()}"), cached=cached)
    served = asyncio.create_task(serve(env, client, options, stop))
    try:
        yield options
    finally:
        stop.set()
        await served


class Clocked(Pool):
    """A database whose test clock follows another clock, such as that of a time-skipping server."""

    def __init__(self, pool: Pool, database: Database, seconds_ahead: Callable[[], Any]) -> None:
        super().__init__(pool.pool, 4.0)
        self._database = database
        self._seconds_ahead = seconds_ahead

    async def rows(self, query: LiteralString, params: Mapping[str, Any] | None = None) -> list[DictRow]:
        shift = await self._seconds_ahead()
        call = "UPDATE backbeat.test_clock SET shift = make_interval(secs => %s)"
        await asyncio.to_thread(self._database.sql, call, [shift])
        return await super().rows(query, params)


def row(database: Database, workflow: UUID) -> dict[str, Any]:
    """The workflow's row."""
    names = ("status", "state_seq", "waiting_for", "result", "error", "generation", "temporal_id", "run_id")
    query = f"SELECT {', '.join(names)} FROM backbeat.orchestrated_workflows WHERE id = %s"
    (values,) = database.sql(query, [workflow])
    return dict(zip(names, values, strict=True))


async def eventually(probe: Callable[[], Any], *, within: float = 60.0) -> Any:
    """Poll until `probe` answers with something true, and return that."""
    until = time.monotonic() + within
    while not (found := await asyncio.to_thread(probe)):
        assert time.monotonic() < until, f"not within {within:.0f} s"
        await asyncio.sleep(0.02)
    return found


async def finished(database: Database, workflow: UUID, *, within: float = 20.0) -> dict[str, Any]:
    """The workflow's row once it has ended."""

    def ended() -> dict[str, Any] | None:
        found = row(database, workflow)
        return found if found["status"] in ("completed", "failed", "cancelled") else None

    found: dict[str, Any] = await eventually(ended, within=within)
    return found


async def asked(database: Database, workflow: UUID) -> tuple[UUID, str]:
    """The id and hash of a workflow's approval request, once it waits for a decision."""
    await eventually(lambda: row(database, workflow)["status"] == "waiting")
    found = request_of(database, workflow)
    assert found
    return found


def request_of(database: Database, workflow: UUID) -> tuple[UUID, str] | None:
    """The id and hash of a workflow's approval request, once it has been made."""
    query = "SELECT id, hash FROM backbeat.approval_requests WHERE workflow_id = %s"
    found = database.sql(query, [workflow])
    return (found[0][0], found[0][1]) if found else None


async def forget(client: Client, name: str) -> None:
    """Temporal's retention is over for this one."""
    execution = WorkflowExecution(workflow_id=name)
    request = DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
    await client.workflow_service.delete_workflow_execution(request)
    with contextlib.suppress(RPCError):
        while await client.get_workflow_handle(name).describe():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shared by a test process: do not stop it. Workflow ids, and task queues with workers, are unique to a test."""
    server = Server(tmp_path_factory.mktemp("temporal"))
    server.start()
    yield server
    server.kill()
