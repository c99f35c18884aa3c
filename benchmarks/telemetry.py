"""Spans: what one costs a worker, how long a flush holds it up, how fast they reach ClickHouse, what they take there.

Each figure is a function of its own, which returns figures and targets; ONLY=cpu,flush,ship,tick chooses. The peer of
a span, in turn with ours, is the SDK's batch processor with an exporter that does nothing. SHIP spans are shipped
(100,000 by default); a tick is timed ROUNDS times with ClickHouse up, down and hanging.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Tracer

from backbeat.clickhouse import session
from backbeat.migrate_clickhouse import clickhouse_up
from benchmarks import napping
from benchmarks.bench import Target, finish, say, server
from shared.telemetry.recorder import SpoolTelemetry
from shared.telemetry.shipper import ship_once
from tests.support.clickhouse import Server

ONLY = os.environ.get("ONLY", "cpu,flush,ship,tick").split(",")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SHIP = int(os.environ.get("SHIP", "100000"))
SPANS = 5_000  # a round of cpu
FLUSHES, A_FLUSH = 300, 20  # how many, and spans in each
FLUSH_MS, WALL = 10.0, 1.05
Figures = tuple[dict[str, Any], list[Target]]

ABOUT: dict[str, str | int] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-haiku-4-5",
    "gen_ai.response.model": "claude-haiku-4-5-20251001",
    "gen_ai.response.id": "msg_0123456789abcdef",
    "gen_ai.usage.input_tokens": 1234,
    "gen_ai.usage.output_tokens": 56,
    "gen_ai.usage.cache_read.input_tokens": 1000,
    "gen_ai.usage.cache_write.input_tokens": 0,
    "gen_ai.workflow.name": "code_review",
    "backbeat.workflow": "code_review",
    "backbeat.version": 3,
    "backbeat.tenant": "default",
    "backbeat.tier": "small",
    "backbeat.runtime": "cron",
    "backbeat.attempt": 1,
    "backbeat.call_status": "done",
    "backbeat.cost_usd": "0.001234567",
    "backbeat.call_key": "review",
    "backbeat.validation": "passed",
}


class _Null(SpanExporter):
    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _make(tracer: Tracer, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        attributes = {**ABOUT, "backbeat.task_id": f"task {number % 1000}"}
        tracer.start_span("chat claude-haiku-4-5", kind=SpanKind.CLIENT, attributes=attributes).end()


def _cpu_us(provider: TracerProvider, end: Callable[[], None]) -> float:
    """CPU of all threads of this process, in microseconds a span."""
    started = time.process_time()
    _make(provider.get_tracer("b"), SPANS)
    end()
    return (time.process_time() - started) / SPANS * 1e6


def cpu_of_a_span() -> Figures:
    """20 attributes, from start_span to where each ends: ours with the row, the checksum and the fsynced file."""
    seen: dict[str, list[float]] = {"": [], "_sdk_batch_null": [], "_sdk_no_processor": []}
    for number in range(ROUNDS + 1):
        with tempfile.TemporaryDirectory() as space:
            ours = SpoolTelemetry(Path(space), "bench")
            peer, bare = (TracerProvider(resource=Resource.create({})) for _ in range(2))
            peer.add_span_processor(BatchSpanProcessor(_Null(), max_queue_size=2 * SPANS))
            took = {
                "": _cpu_us(ours.provider, ours.close),
                "_sdk_batch_null": _cpu_us(peer, peer.shutdown),
                "_sdk_no_processor": _cpu_us(bare, bare.shutdown),
            }
            assert ours.shed == 0
        if number:  # the first fills caches
            for name, us in took.items():
                seen[name].append(us)
            say(figure="cpu", round=number, **{f"us{name}": us for name, us in took.items()})
    figures: dict[str, Any] = {f"span_cpu_us{name}": round(median(us), 1) for name, us in seen.items()}
    figures["span_cpu_ratio"] = round(figures["span_cpu_us"] / figures["span_cpu_us_sdk_batch_null"], 2)
    return figures, []


def flush() -> Figures:
    """What a settle batch waits for: 20 spans onto the disk, fsync of file and directory."""
    took = []
    with tempfile.TemporaryDirectory() as space:
        telemetry = SpoolTelemetry(Path(space), "bench")
        tracer = telemetry.provider.get_tracer("b")
        for number in range(FLUSHES):
            _make(tracer, A_FLUSH, number * A_FLUSH)
            started = time.perf_counter()
            telemetry.flush()
            took.append((time.perf_counter() - started) * 1000)
        telemetry.close()
        assert telemetry.shed == 0
    took.sort()
    figures = {
        "flush_ms_p50": round(median(took), 2),
        "flush_ms_p99": round(took[-FLUSHES // 100], 2),
        "flush_ms_max": round(took[-1], 2),
    }
    say(figure="flush", **figures)
    return figures, [("flush_ms_p50", figures["flush_ms_p50"], "<=", FLUSH_MS)]


@contextmanager
def clickhouse() -> Iterator[str]:
    """A migrated database on a server process of its own; its URL."""
    with tempfile.TemporaryDirectory() as space:
        engine = Server(Path(space)).start()
        try:
            clickhouse_up(engine.url("backbeat"))
            yield engine.url("backbeat")
        finally:
            engine.stop()


def ship() -> Figures:
    """Spool files of up to 5,000 spans, one insert each, into base, facts and rollup; then their size on the disk."""
    with tempfile.TemporaryDirectory() as space, clickhouse() as url:
        telemetry = SpoolTelemetry(Path(space), "bench")
        for first in range(0, SHIP, SPANS):
            _make(telemetry.provider.get_tracer("b"), min(SPANS, SHIP - first), first)
            telemetry.flush()
        telemetry.close()
        size = sum(path.stat().st_size for path in Path(space).glob("*.spool"))
        started = time.perf_counter()
        report = ship_once(Path(space), url, 600)
        seconds = time.perf_counter() - started
        if report.spans != SHIP or telemetry.shed:
            raise SystemExit(f"not all arrived: {report}")
        with session(url) as client:
            for table in ("otel_traces", "otel_traces_trace_id_ts", "llm_calls", "llm_hourly"):
                client.command(f"OPTIMIZE TABLE {table} FINAL")
            parts = client.query(
                "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()"
                " AND rows > 0 GROUP BY table ORDER BY table"
            ).result_rows
    figures = {
        "shipped_spans_per_s": round(SHIP / seconds),
        "spool_bytes_per_span": round(size / SHIP, 1),
        "clickhouse_bytes_per_span": {
            table: round(size / SHIP, 2) for table, size in parts if not table.startswith("schema")
        },
    }
    say(figure="ship", spans=SHIP, seconds=seconds, **figures)
    return figures, []


def tick() -> Figures:
    """Wall time of ticks with one task of 4 s, ClickHouse up, down and hanging in turn; each has a spool that lasts."""
    with (
        server() as at,
        clickhouse() as url,
        tempfile.TemporaryDirectory() as space,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        urls = {
            "up": url,
            "down": "http://127.0.0.1:1/backbeat",
            "hanging": f"http://127.0.0.1:{silent.getsockname()[1]}/backbeat",
        }
        walls: dict[str, list[float]] = {kind: [] for kind in urls}
        for number in range(ROUNDS + 1):
            for kind, target in urls.items():
                with psycopg.connect(at.owner, autocommit=True) as owner:
                    _enqueue(owner, number)
                seconds = _tick({"CONFIG": str(at.config), "CLICKHOUSE_URL": target, "SPOOL_DIR": f"{space}/{kind}"})
                say(figure="tick", clickhouse=kind, round=number, seconds=seconds)
                walls[kind] += [seconds] if number else []
    figures: dict[str, Any] = {f"tick_s_{kind}": round(median(took), 3) for kind, took in walls.items()}
    figures["tick_s_first_hanging"] = "its deadline of 3 s more, once in 5 minutes"
    medians = [median(took) for took in walls.values()]
    figures["tick_worst_to_up"] = round(max(medians) / medians[0], 3)  # up is where work is done: it ships
    figures["tick_slowest_to_fastest"] = round(max(medians) / min(medians), 3)
    return figures, [(name, figures[name], "<=", WALL) for name in ("tick_worst_to_up", "tick_slowest_to_fastest")]


def _enqueue(owner: "psycopg.Connection[Any]", number: int) -> None:
    kind = '[{"name": "nap", "version": 1, "tier": "small", "max_attempts": 3, "idempotency": false}]'
    owner.execute("SELECT backbeat.register_definitions('cron', %s::jsonb)", [kind])
    owner.execute("SELECT count(*) FROM backbeat.enqueue('nap', 1, ARRAY[jsonb_build_object('n', %s::int)])", [number])


def _tick(settings: dict[str, str]) -> float:
    settings |= {"DEFINITIONS": napping.__name__, "TELEMETRY": "spool"}
    environ = {**os.environ, **{f"BACKBEAT_{name}": value for name, value in settings.items()}}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cron_worker", "tick"], env=environ, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


PARTS: dict[str, Callable[[], Figures]] = {"cpu": cpu_of_a_span, "flush": flush, "ship": ship, "tick": tick}


def main() -> None:
    """Measure and print."""
    figures: dict[str, Any] = {}
    targets: list[Target] = []
    for name in ONLY:
        found, limits = PARTS[name]()
        figures |= found
        targets += limits
    finish("telemetry", figures, targets, "opentelemetry-sdk", "chdb")


if __name__ == "__main__":
    main()
