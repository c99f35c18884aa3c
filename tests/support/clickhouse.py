"""A real ClickHouse server process for tests, and spans to put into it."""

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from backbeat.clickhouse import session
from backbeat.migrate_clickhouse import clickhouse_up
from shared.ids import SpanRef, span_id, trace_id
from shared.telemetry.recorder import SpoolTelemetry
from shared.telemetry.shipper import ShipReport, ship_once
from shared.telemetry.spans import SpanRecord

PASSWORD = "open sesame/1"
ANALYST_PASSWORD = "look, do not touch"
START_NS = time.time_ns() - 60_000_000_000

# What the views say of all calls: in all, lost, failed, unpriced, money, tokens.
CALLS = """
SELECT count() - countIf(CallStatus = 'lost'), countIf(CallStatus = 'lost'),
    countIf(StatusCode = 'Error' AND CallStatus != 'lost'), countIf(CostUsd IS NULL AND CallStatus != 'lost'),
    sum(ifNull(CostUsd, 0)), sum(ifNull(InputTokens, 0)), sum(ifNull(OutputTokens, 0)), sum(ifNull(CacheReadTokens, 0)),
    sum(ifNull(CacheWriteTokens, 0)) FROM v_llm_calls
"""
HOURS = """
SELECT sum(Calls), sum(LostCalls), sum(Errors), sum(UnpricedCalls), sum(CostUsd), sum(InputTokens), sum(OutputTokens),
    sum(CacheReadTokens), sum(CacheWriteTokens) FROM v_llm_hourly
"""


class Server:
    """`python -m backbeat.embedded.clickhouse` over one directory; it keeps its port when started again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path, self.port = directory / "click house", 0
        self.more: list[str] = []
        self._log = directory / "log"
        self._password = directory / "password"
        self._password.write_text(PASSWORD)
        self._analyst = directory / "analyst"
        self._analyst.write_text(ANALYST_PASSWORD)

    def command(self, *, path: Path | None = None, port: int | None = None) -> list[str]:
        module = [sys.executable, "-m", "backbeat.embedded.clickhouse"]
        place = ["--path", str(path or self.path), "--port", str(self.port if port is None else port)]
        users = ["--user", "tester", "--password-file", str(self._password)]
        users += ["--analyst", "analyst", "--analyst-password-file", str(self._analyst)]
        limits = ["--analyst-limit", "max_execution_time=3", "--analyst-limit", "max_result_rows=200000"]
        return [*module, *place, *users, *limits, *self.more]

    def start(self) -> "Server":
        """Start it, and return when it says that it listens."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " on http://127.0.0.1:" not in line:
            raise AssertionError(f"no server: {line} {self.process.communicate()} {self._log.read_text()}")
        self.port = urlsplit(line.split(" on ")[1].split()[0]).port or 0
        return self

    def url(self, database: str = "default") -> str:
        return f"http://tester:{PASSWORD.replace(' ', '%20').replace('/', '%2F')}@127.0.0.1:{self.port}/{database}"

    def analyst_url(self, database: str = "default") -> str:
        return f"http://analyst:{quote(ANALYST_PASSWORD)}@127.0.0.1:{self.port}/{database}"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server shared by this process' tests: do not stop it."""
    server = Server(tmp_path_factory.mktemp("clickhouse")).start()
    yield server
    server.kill()


@pytest.fixture
def private_clickhouse(tmp_path: Path) -> Iterator[Server]:
    """A server of this test's own, to kill and start again."""
    server = Server(tmp_path / "private").start()
    yield server
    server.kill()


@pytest.fixture
def empty_clickhouse(clickhouse_server: Server) -> Iterator[str]:
    """The URL of a database that is not there yet."""
    name = f"test_{uuid.uuid4().hex}"
    yield clickhouse_server.url(name)
    with session(clickhouse_server.url()) as client:
        client.command(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def clickhouse(empty_clickhouse: str) -> str:
    """The URL of a migrated database of this test's own."""
    clickhouse_up(empty_clickhouse)
    return empty_clickhouse


@pytest.fixture
def deliver(clickhouse: str, tmp_path: Path) -> Callable[..., ShipReport]:
    """Record, spool and ship spans, all in one file."""

    def run(*spans: SpanRecord) -> ShipReport:
        spool(tmp_path / "spool", *spans)
        return ship_once(tmp_path / "spool", clickhouse, 20)

    return run


def spool(directory: Path, *spans: SpanRecord) -> None:
    """Write spans into one spool file."""
    telemetry = SpoolTelemetry(directory, "cron-worker")
    for span in spans:
        telemetry.record(span)
    telemetry.close()
    assert telemetry.shed == 0


def ask(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with session(url) as client:
        return [tuple(row) for row in client.query(sql).result_rows]


def span(name: str, *parts: object, parent: str | None = None, seconds: float = 1.0, **other: Any) -> SpanRecord:
    """A span of task 1's trace whose id follows from `parts`."""
    start = START_NS + int(other.pop("after", 0.0) * 1e9)
    return SpanRecord(
        name=name,
        kind=other.pop("kind", "internal"),
        trace_id=other.pop("trace", trace_id("task", 1)),
        span_id=span_id(*parts),
        parent_span_id=parent,
        start_ns=start,
        end_ns=start + int(seconds * 1e9),
        **other,
    )


def call(
    number: int, *, status: str = "done", seconds: float = 1.0, after: float = 0.0, **attributes: Any
) -> SpanRecord:
    """A model call; its attributes' dots are written as double underscores."""
    lost = status == "lost"
    usage = {} if lost else {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 10}
    known = {} if lost else {"gen_ai.response.model": "opus-1-20260101", "backbeat.cost_usd": "0.000000001"}
    given = {name.replace("__", "."): value for name, value in attributes.items()}
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "opus-1",
        "backbeat.workflow": "code_review",
        "backbeat.tier": "large",
        "backbeat.task_id": "task-1",
        "backbeat.call_status": status,
    }
    identity = ("call", "task-1", number, 0)
    values = about | usage | known | given
    about_it: dict[str, Any] = {"seconds": seconds, "after": after, "attributes": values}
    return span("chat opus-1", *identity, parent=process_id(), kind="client", **about_it)


def process(outcome: str = "succeed", **other: Any) -> SpanRecord:
    """An attempt at task 1."""
    values = {
        "backbeat.workflow": "code_review",
        "backbeat.tier": "large",
        "backbeat.task_id": "task-1",
        "backbeat.attempt": 1,
        "backbeat.outcome": outcome,
        "backbeat.queue_wait_ms": 250,
    }
    parent = span_id("enqueue", "task-1")
    return span(
        "process code_review", "process", "task-1", 7, parent=parent, kind="consumer", attributes=values, **other
    )


def process_id() -> str:
    return span_id("process", "task-1", 7)


def tick_link() -> SpanRef:
    return SpanRef(trace_id("tick", 1), span_id("tick", 1))
