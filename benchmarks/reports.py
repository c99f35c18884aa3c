"""Every report over a month of spans, the first and the fifth time, on two threads.

BACKBEAT_BENCH_SPANS=1000000,10000000 are the sizes. A task is ten spans: two calls, one attempt, what is around them.
"""

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

from backbeat.clickhouse import session
from backbeat.embedded import stack
from backbeat.reports.ask import Period, ask
from backbeat.reports.catalog import find, names
from benchmarks.bench import Target, finish, say
from shared.config import load

SIZES = [int(size) for size in os.environ.get("BACKBEAT_BENCH_SPANS", "1000000,10000000").split(",")]
DAYS, RUNS, LIMIT = 30, 5, 1.0  # seconds
BEGIN = datetime(2026, 10, 24, tzinfo=UTC)
PERIOD = Period(BEGIN, BEGIN + timedelta(days=DAYS))
THREADS = {"max_threads": 2}
# One call in 500 is lost, one in 2,000 told twice; 12 workflows, 40 tenants, 6 models.
_SPANS = """
INSERT INTO otel_traces (Timestamp, TraceId, SpanId, ParentSpanId, SpanName, SpanKind, ServiceName, ResourceAttributes,
    SpanAttributes, Duration, StatusCode)
WITH
    intDiv(number, 10) + {first:UInt64} AS task,
    number % 10 AS part,
    part IN (2, 3) AS called,
    called AND cityHash64(task, part, 'lost') % 500 = 0 AS lost,
    toString(task % 12) AS w,
    lower(hex(sipHash128(task))) AS trace,
    lower(hex(sipHash64(task, part))) AS id,
    1000 + cityHash64(task, part) % 5000 AS input
SELECT
    {begin:DateTime64(9, 'UTC')} + toIntervalMillisecond(intDiv(86400000 * number, {count:UInt64})),
    trace,
    id,
    lower(hex(sipHash64(task, 1))),
    multiIf(part = 0, 'enqueue', part = 1, 'process', called, 'chat', 'work') || ' ' || w,
    multiIf(part = 0, 'Producer', part = 1, 'Consumer', called, 'Client', 'Internal'),
    'cron-worker',
    map('service.version', '1'),
    mapConcat(
        map(
            'backbeat.workflow', 'workflow ' || w,
            'backbeat.version', toString(1 + task % 2),
            'backbeat.runtime', if(task % 10 = 0, 'temporal', 'cron'),
            'backbeat.tenant', 'tenant ' || toString(task % 40),
            'backbeat.tier', ['small', 'medium', 'large'][1 + task % 3],
            'backbeat.task_id', toString(reinterpretAsUUID(unhex(trace))),
            'backbeat.attempt', '1'),
        if(part = 1, map(
            'backbeat.outcome', if(task % 50 = 0, 'dead', 'succeed'),
            'backbeat.queue_wait_ms', '250'), map()),
        if(called, map(
            'gen_ai.operation.name', 'chat',
            'gen_ai.provider.name', 'anthropic',
            'gen_ai.request.model', 'model ' || toString(task % 6),
            'backbeat.call_key', toString(part),
            'backbeat.call_status', if(lost, 'lost', 'done'),
            'backbeat.tools_offered', toString(task % 14),
            'backbeat.validation', 'passed'), map()),
        if(called AND NOT lost, map(
            'gen_ai.response.model', 'model ' || toString(task % 6),
            'gen_ai.usage.input_tokens', toString(input),
            'gen_ai.usage.output_tokens', toString(10 + input % 300),
            'gen_ai.usage.cache_read.input_tokens', toString(input % 1000),
            'gen_ai.usage.cache_write.input_tokens', '0',
            'backbeat.cost_usd', toString(toDecimal64(input, 9) / 100000)), map())),
    1000000 * (100 + cityHash64(task, part, 'long') % 9000),
    if(lost, 'Error', 'Unset')
FROM numbers({count:UInt64})
SETTINGS max_threads = 2, max_insert_threads = 1
"""
_AGAIN = """
INSERT INTO llm_calls SELECT * FROM llm_calls WHERE cityHash64(SpanId, 'again') % 2000 = 0
SETTINGS insert_deduplicate = 0, deduplicate_blocks_in_dependent_materialized_views = 0
"""


def fill(url: str, spans: int) -> float:
    """Make that many spans, day by day; seconds."""
    start, day = perf_counter(), spans // DAYS // 10 * 10
    with session(url) as client:
        for number in range(DAYS):
            at = BEGIN + timedelta(days=number)
            client.command(_SPANS, {"begin": at, "first": number * day // 10, "count": day})
        client.command(_AGAIN)
    return perf_counter() - start


def measure(url: str, spans: int, engine: int) -> dict[str, float]:
    """Seconds of every report, by `report first` and `report fifth`, and of the engine's CPU in the fifth run."""
    found: dict[str, float] = {}
    for name in names():
        seconds = []
        for _ in range(RUNS):
            with session(url) as client:
                start, burnt = perf_counter(), burn(engine)
                answer = ask(client, find(name), PERIOD, settings=THREADS)
                seconds.append(perf_counter() - start)
                burnt = burn(engine) - burnt
        found |= {f"{name} first": round(seconds[0], 3), f"{name} fifth": round(seconds[-1], 3)}
        told = {"first": seconds[0], "fifth": seconds[-1], "fifth_cpu": burnt}
        say(spans=spans, report=name, n=answer.n, rows=len(answer.rows), **told)
    return found


def burn(pid: int) -> float:
    """Seconds of CPU that a process used so far, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """One engine a size."""
    figures: dict[str, float] = {}
    targets: list[Target] = []
    for spans in SIZES:
        with tempfile.TemporaryDirectory(prefix="backbeat-bench-") as space:
            directory = Path(space) / "var"
            info = stack.up(directory, engines=("clickhouse",))
            try:
                url = load({"BACKBEAT_CONFIG": str(info.config)}).clickhouse_url or ""
                rate = round(spans / fill(url, spans))
                say(spans=spans, spans_per_second=rate)
                seconds = measure(url, spans, info.engines[0].pid)
            finally:
                stack.down(directory)
        figures |= {f"{spans} spans, {name} s": value for name, value in seconds.items()}
        figures[f"{spans} spans, inserted a second"] = rate
        slowest = max(seconds, key=lambda name: seconds[name])
        targets.append((f"{spans} spans, slowest: {slowest} s", seconds[slowest], "<=", LIMIT))
    finish("reports", figures, targets, "chdb")


if __name__ == "__main__":
    main()
