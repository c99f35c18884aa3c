"""The demo's totals, each from a source that cannot know what the others say.

Postgres says what became of the tasks, the provider's request log what it answered and would bill, the
recorder's log what was posted, ClickHouse which spans arrived. Where two of them must agree and do not,
the demo is red.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from backbeat.clickhouse import session
from backbeat.embedded.simulated.log import read
from backbeat.operate.spans import ExpectedSpan, expected_spans
from examples.code_review.github import marker
from shared.config import Config
from shared.db.pool import Database

_STATES = """
SELECT t.id, t.status, t.error_class, t.error, r.state, w.status AS workflow_status, w.id AS workflow_id
FROM backbeat.tasks t
LEFT JOIN backbeat.orchestrated_workflows w ON w.parent_task = t.id
LEFT JOIN backbeat.approval_requests r ON r.workflow_id = w.id
WHERE t.id = ANY (%(tasks)s::uuid[])
"""
_CALLS = """
SELECT status, cost_usd, uncached + cache_read + cache_write AS input_tokens, output AS output_tokens
FROM backbeat.model_calls WHERE owner = ANY (%(tasks)s::uuid[]) AND opened_at >= %(since)s
"""
_EFFECTS = "SELECT mark, owner = ANY (%(owners)s::uuid[]) AND status = 'done' AS done FROM backbeat.side_effects"


_SPANS = """
SELECT TraceId, SpanId, any(ParentSpanId) FROM otel_traces WHERE TraceId IN {traces:Array(String)} GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """The demo's last line."""

    reviews: int
    escalated: int
    approved: int
    rejected: int
    expired: int
    effects: int
    duplicate_effects: int
    llm_calls: int
    llm_calls_lost: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    spans: int
    spans_lost: int
    complete_traces: int
    seconds: float
    latency: str
    provider: str

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Run:
    """What is being counted: these tasks (`reviews` is `tasks` of the review itself), and calls since `since`."""

    tasks: Sequence[UUID]
    since: datetime
    provider_log: Path | None
    recorder_log: Path
    telemetry: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """The totals, and what is wrong with them, in words."""

    totals: Totals
    problems: tuple[str, ...]


async def tally(config: Config, db: Database, run: Run, seconds: float, latency: str, provider: str) -> Tally:
    """Ask every source and compare."""
    states = await db.rows(_STATES, {"tasks": list(run.tasks)})
    calls = await db.rows(_CALLS, {"tasks": list(run.tasks), "since": run.since})
    owners = [*run.tasks, *(row["workflow_id"] for row in states if row["workflow_id"])]
    ledger = await db.rows(_EFFECTS, {"owners": owners})
    done_effects = {row["mark"] for row in ledger if row["done"]}
    strays = _strays(run.recorder_log, {row["mark"] for row in ledger})
    posted = _posted(run.recorder_log, done_effects)
    billed = _billed(run, calls)
    expected = await expected_spans(db, run.tasks) if run.telemetry else []
    found = _found(config, expected)
    status, decisions = Counter(row["status"] for row in states), Counter(row["state"] for row in states)
    complete = _complete(expected, found)
    totals = Totals(
        reviews=status["succeeded"] + status["escalated"],
        escalated=status["escalated"],
        approved=decisions["approved"],
        rejected=decisions["rejected"],
        expired=decisions["expired"],
        effects=len(posted),
        duplicate_effects=sum(posted.values()) - len(posted),
        llm_calls=len(billed),
        llm_calls_lost=sum(call["status"] == "lost" for call in calls),
        input_tokens=sum(entry["input_tokens"] for entry in billed),
        output_tokens=sum(entry["output_tokens"] for entry in billed),
        cost_usd=f"{sum((call['cost_usd'] or Decimal() for call in calls), Decimal()):f}",
        spans=sum((span.trace_id, span.span_id) in found for span in expected),
        spans_lost=sum((span.trace_id, span.span_id) not in found for span in expected),
        complete_traces=len(complete),
        seconds=round(seconds, 1),
        latency=latency,
        provider=provider,
    )
    return Tally(totals, tuple(_problems(totals, run, states, calls, done_effects, posted, strays)))


def _problems(
    totals: Totals,
    run: Run,
    states: Sequence[Mapping[str, Any]],
    calls: Sequence[Mapping[str, Any]],
    done_effects: set[str],
    posted: Mapping[str, int],
    strays: int,
) -> Iterable[str]:
    yield from _unfinished(states, decided=run.telemetry)
    if totals.duplicate_effects:
        yield f"{totals.duplicate_effects} review(s) were posted twice"
    wanted = totals.approved + totals.reviews - totals.escalated
    if totals.effects != wanted:
        yield f"{totals.effects} review(s) were posted, {wanted} should have been"
    if done_effects != set(posted):
        yield f"the ledger says {len(done_effects)} effects are done, the recorder has {len(posted)} of them"
    if strays:
        yield f"{strays} review(s) were posted that the ledger does not know"
    done = [call for call in calls if call["status"] == "done"]
    if run.provider_log is not None:
        # A call that was answered and whose answer was lost is billed too.
        if not len(done) <= totals.llm_calls <= len(done) + totals.llm_calls_lost:
            yield f"the provider answered {totals.llm_calls} calls, Postgres has {len(done)} done"
        if not totals.llm_calls_lost and sum(call["output_tokens"] for call in done) != totals.output_tokens:
            yield "the provider and Postgres disagree on output tokens"
    if totals.spans_lost:
        yield f"{totals.spans_lost} span(s) did not arrive in ClickHouse"
    if run.telemetry and totals.complete_traces != totals.reviews:
        yield f"{totals.complete_traces} of {totals.reviews} traces are complete"


def _unfinished(states: Sequence[Mapping[str, Any]], *, decided: bool) -> Iterable[str]:
    """Tasks that died, and escalations that ended with nobody having decided."""
    for row in states:
        if row["status"] not in ("succeeded", "escalated"):
            yield f"task {row['id']} is {row['status']}: {row['error_class']} {row['error']}"
        elif decided and row["status"] == "escalated" and row["state"] not in ("approved", "rejected", "expired"):
            yield f"the escalation of task {row['id']} ended without a decision"


def _billed(run: Run, calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the provider would bill for these tasks since the run began: by its own log where it is ours."""
    if run.provider_log is None:
        return [call for call in calls if call["status"] == "done"]
    owners = {str(task) for task in run.tasks}
    return [
        entry
        for entry in read(run.provider_log)
        if entry["event"] == "end"
        and entry["billed"]
        and datetime.fromisoformat(entry["at"]) >= run.since
        and parse_qs(entry["call"] or "").get("owner", [""])[0] in owners
    ]


def _posted(log: Path, marks: set[str]) -> Counter[str]:
    """How often the recorder was given each of these effects, by the marker in the review's body."""
    by_marker = {marker(mark): mark for mark in marks}
    bodies = [entry["review"]["body"] for entry in read(log)]
    return Counter(mark for text, mark in by_marker.items() for body in bodies if text in body)


def _strays(log: Path, marks: set[str]) -> int:
    """How many reviews the recorder holds that no row of the ledger accounts for."""
    markers = [marker(mark) for mark in marks]
    return sum(not any(text in entry["review"]["body"] for text in markers) for entry in read(log))


def _found(config: Config, expected: Sequence[ExpectedSpan]) -> dict[tuple[str, str], str]:
    """The spans of these traces that ClickHouse has, each with its parent's id."""
    traces = sorted({span.trace_id for span in expected})
    if not traces:
        return {}
    with session(config.clickhouse_url) as client:
        rows = client.query(_SPANS, parameters={"traces": traces}).result_rows
    return {(trace, span): parent for trace, span, parent in rows}


def _complete(expected: Sequence[ExpectedSpan], found: Mapping[tuple[str, str], str]) -> set[UUID]:
    """The tasks all of whose spans arrived and hang together: every parent that is named is there."""
    broken = {
        span.task_id
        for span in expected
        if (parent := found.get((span.trace_id, span.span_id))) is None
        or (parent and (span.trace_id, parent) not in found)
    }
    return {span.task_id for span in expected} - broken
