"""Every report over a month of spans, the first and the fifth time, on two threads.

BACKBEAT_BENCH_SPANS=1000000,10000000 are the sizes. A task is ten spans, from which every table of facts is cut.
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
# Part 0 is the origin, 1 the attempt, 2 and 3 its calls, 4 its effect, 5 to 7 an approval of every tenth task, 8 a tick
# that ran meanwhile, 9 what somebody said of three results in ten. One call in 500 is lost, one in 2,000 told twice; 12
# workflows, 40 tenants, 6 models, 10 hosts.
_SPANS = """
INSERT INTO otel_traces (Timestamp, TraceId, SpanId, ParentSpanId, SpanName, SpanKind, ServiceName, ResourceAttributes,
    SpanAttributes, Duration, StatusCode)
WITH
    intDiv(number, 10) + {first:UInt64} AS task,
    number % 10 AS part,
    part IN (2, 3) AS called,
    called AND cityHash64(task, part, 'lost') % 500 = 0 AS lost,
    part BETWEEN 5 AND 7 AND task % 10 = 0 AS asked,
    part = 8 AND task % 5 < 2 AS tick,
    part = 9 AND task % 10 < 3 AS said,
    {begin:DateTime64(9, 'UTC')} + toIntervalMillisecond(intDiv(86400000 * number, {count:UInt64})) AS at,
    toString(task % 12) AS w,
    lower(hex(sipHash128(task))) AS trace,
    lower(hex(sipHash64(task, part))) AS id,
    toString(reinterpretAsUUID(unhex(trace))) AS uuid,
    1000 + cityHash64(task, part) % 5000 AS input
SELECT
    at,
    trace,
    id,
    lower(hex(sipHash64(task, 1))),
    multiIf(part = 0, 'enqueue ' || w, part = 1, 'process ' || w, called, 'chat ' || w, part = 4, 'effect mail', asked,
        ['approval.requested', 'approval.voted', 'approval.decided'][part - 4], tick, 'tick', said, 'feedback',
        'work ' || w),
    multiIf(part = 0, 'Producer', part = 1, 'Consumer', called OR part = 4, 'Client', 'Internal'),
    'cron-worker',
    map('service.version', '1', 'host.name', 'host ' || toString(task % 10),
        'cloud.region', ['eu', 'us'][1 + task % 2]),
    mapConcat(
        map(
            'backbeat.workflow', 'workflow ' || w,
            'backbeat.version', toString(1 + task % 2),
            'backbeat.runtime', if(task % 10 = 0, 'temporal', 'cron'),
            'backbeat.tenant', 'tenant ' || toString(task % 40),
            'backbeat.tier', ['small', 'medium', 'large'][1 + task % 3],
            'backbeat.task_id', uuid,
            'backbeat.origin_id', uuid,
            'backbeat.attempt', '1'),
        if(part = 0 AND task % 2 = 0, map('backbeat.source_at', toString(toUnixTimestamp(at) - 60)), map()),
        if(part = 1, map(
            'backbeat.outcome', multiIf(task % 50 = 0, 'dead', task % 20 = 1, 'snooze', 'succeed'),
            'backbeat.class', ['normal', 'urgent'][1 + task % 2],
            'backbeat.queue_wait_ms', toString(250 + cityHash64(task) % 9000)), map()),
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
            'backbeat.cost_usd', toString(toDecimal64(input, 9) / 100000)), map()),
        if(part = 4, map(
            'backbeat.effect_key', uuid,
            'backbeat.effect_status', if(task % 400 = 0, 'unknown', 'done')), map()),
        if(asked, map(
            'backbeat.approval_id', uuid,
            'backbeat.effect_kind', 'mail',
            'backbeat.approval_state', if(part = 7, ['approved', 'rejected'][1 + intDiv(task, 10) % 2], ''),
            'backbeat.approval_by', if(part > 5, 'person ' || toString(cityHash64(task) % 7), ''),
            'backbeat.approval_decision', if(part = 6, ['approve', 'reject'][1 + intDiv(task, 10) % 2], ''),
            'backbeat.approval_wait_ms', toString((part - 5) * (1000 + cityHash64(task) % 600000))), map()),
        if(tick, map(
            'backbeat.tick_id', uuid,
            'backbeat.worker', 'worker ' || toString(task % 10),
            'backbeat.slots', '8',
            'backbeat.claimed', '10',
            'backbeat.settled', '10',
            'backbeat.oldest_wait_ms', '250',
            'backbeat.clock_skew_ms', '3',
            'backbeat.spool_files', toString(task % 3),
            'backbeat.spool_age_s', '0.5'), map()),
        if(said, map(
            'backbeat.feedback_id', uuid,
            'backbeat.feedback_label', ['correct', 'false_positive', 'wrong'][1 + task % 3],
            'backbeat.feedback_by', 'person ' || toString(task % 7)), map())),
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
