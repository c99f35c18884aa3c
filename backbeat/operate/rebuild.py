"""ClickHouse's facts from Postgres: what is missing there is told again, under the ids it always had."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from backbeat.clickhouse import session
from shared.config import Config
from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import UnavailableError
from shared.execution.environment import Environment
from shared.execution.spans import process_ref, recovered_call_span
from shared.ids import parse_traceparent
from shared.telemetry.shipper import ship_once
from shared.telemetry.spans import SpanRecord

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_SQL = load("rebuild", "backbeat.operate")
PAGE = 2_000  # calls, or tasks
SHIP_SECONDS = 60.0  # a page
NIL = UUID(int=0)
# As the worker's own span says it, where the history has another word.
_OUTCOMES = {"fan_out": "fanout", "cancelled": "fenced", "expired": "fenced"}
_KNOWN = """
SELECT SpanId, min({lost}) FROM {table} WHERE SpanId IN {ids:Array(String)}
    AND Timestamp BETWEEN toDateTime64({first:String}, 9, 'UTC') AND toDateTime64({last:String}, 9, 'UTC')
GROUP BY SpanId
"""
_WRONG_HOURS = """
SELECT Hour FROM (
    SELECT toStartOfHour(toDateTime(Timestamp)) AS Hour, toInt64(countIf(CallStatus != 'lost')) AS Calls,
        toInt64(countIf(CallStatus = 'lost')) AS Lost, sum(ifNull(CostUsd, 0)) AS Cost FROM llm_calls GROUP BY Hour
    UNION ALL
    SELECT Hour, -toInt64(sum(h.Calls)), -toInt64(sum(h.LostCalls)), -sum(h.CostUsd) FROM llm_hourly AS h GROUP BY Hour
)
WHERE Hour >= toDateTime({since:String}, 'UTC') GROUP BY Hour
HAVING sum(Calls) != 0 OR sum(Lost) != 0 OR sum(Cost) != 0 ORDER BY Hour
"""


@dataclass(slots=True)
class Rebuilt:
    """What Postgres knows, and how much of it ClickHouse did not. `waiting`: batches that are still on their way."""

    calls: int = 0
    missing_calls: int = 0
    attempts: int = 0
    missing_attempts: int = 0
    hours: int = 0
    waiting: int = 0


async def rebuild(db: Database, config: Config, since: datetime, *, dry_run: bool = False) -> Rebuilt:
    """Fill `llm_calls` and `task_runs`, then make the hours of `llm_hourly` anew that say something else than these.

    Safe to repeat and to break off. Raises UnavailableError when ClickHouse does not take all of it.
    """
    done = Rebuilt(waiting=int((await db.row(_SQL["waiting"]))["batches"]))
    with session(config.clickhouse_url) as client:
        async for spans in _calls(db, config, since):
            missing = _missing(client, "llm_calls", "CallStatus = 'lost'", spans)
            done.calls, done.missing_calls = done.calls + len(spans), done.missing_calls + len(missing)
            _send([] if dry_run else missing, config)
        async for spans in _attempts(db, since):
            missing = _missing(client, "task_runs", "Outcome = 'lost'", spans)
            done.attempts, done.missing_attempts = done.attempts + len(spans), done.missing_attempts + len(missing)
            _send([] if dry_run else missing, config)
        hours = _hours(client, since)
        done.hours = len(hours)
        if not dry_run:
            _remake(client, hours)
    return done


async def _calls(db: Database, config: Config, since: datetime) -> AsyncIterator[list[SpanRecord]]:
    """A page of spans at a time."""
    after: dict[str, Any] = {"owner": NIL, "key": "", "seq": 0}
    while rows := await db.rows(_SQL["calls"], {**after, "since": since, "limit": PAGE}):
        yield [recovered_call_span(_surroundings(config, row["owner_kind"]), row, row) for row in rows]
        after = {"owner": rows[-1]["owner"], "key": rows[-1]["call_key"], "seq": rows[-1]["seq"]}


def _surroundings(config: Config, owner_kind: str) -> Environment:
    """As much of an environment as a call's span asks for."""
    runtime = "temporal" if owner_kind == "workflow" else "cron"
    known = config.providers
    simulated = lambda name: bool(name in known and known[name].simulated)  # noqa: E731
    return cast("Environment", SimpleNamespace(runtime=runtime, simulated=simulated))


async def _attempts(db: Database, since: datetime) -> AsyncIterator[list[SpanRecord]]:
    after = NIL
    while rows := await db.rows(_SQL["tasks"], {"after": after, "since": since, "limit": PAGE}):
        yield [
            _attempt(row, entry, number)
            for row in rows
            for number, entry in enumerate(row["history"], 1)
            if "lease" in entry
        ]
        after = rows[-1]["id"]


def _attempt(task: Mapping[str, Any], entry: Mapping[str, Any], number: int) -> SpanRecord:
    """What a worker would have told of this attempt, as far as the history knows it."""
    started, ended = (_ns(datetime.fromisoformat(entry[name])) for name in ("started_at", "ended_at"))
    ids, outcome = process_ref(task["traceparent"], task["id"], entry["lease"]), entry["outcome"]
    about = {
        **{f"backbeat.{name}": task[name] for name in ("workflow", "version", "tenant", "tier")},
        "backbeat.task_id": str(task["id"]),
        "backbeat.origin_id": str(task["origin_id"]),
        "gen_ai.workflow.name": task["workflow"],
        "backbeat.attempt": number,
        "backbeat.runtime": "cron",
        "backbeat.class": task["class"],
        "backbeat.outcome": _OUTCOMES.get(outcome, outcome),
        "backbeat.queue_wait_ms": round((started - _ns(task["created_at"])) / 1e6),
    }
    failed = outcome in ("retry", "dead", "lost")
    return SpanRecord(
        name=f"process {task['workflow']}",
        kind="consumer",
        trace_id=ids.trace_id,
        span_id=ids.span_id,
        parent_span_id=parse_traceparent(task["traceparent"]).span_id,
        start_ns=started,
        end_ns=ended,
        attributes=about,
        error=f"{entry.get('error_class')}: {entry.get('error')}" if failed else None,
    )


def _missing(client: "Client", table: str, lost: str, spans: Sequence[SpanRecord]) -> list[SpanRecord]:
    """Those of which ClickHouse has no fact, or only that they were lost while Postgres knows better."""
    if not spans:
        return []
    times = [span.start_ns for span in spans]
    params = {
        "ids": [span.span_id for span in spans],
        "first": _seconds(min(times) - 60 * 10**9),
        "last": _seconds(max(times) + 60 * 10**9),
    }
    sql = _KNOWN.replace("{table}", table).replace("{lost}", lost)
    known = {row[0]: row[1] for row in client.query(sql, parameters=params).result_rows}
    return [span for span in spans if known.get(span.span_id, 2) > _is_lost(span)]


def _is_lost(span: SpanRecord) -> bool:
    return "lost" in (span.attributes.get("backbeat.call_status"), span.attributes.get("backbeat.outcome"))


def _send(spans: Iterable[SpanRecord], config: Config) -> None:
    """Through a spool of its own, so that nothing is written halfway."""
    from shared.telemetry.recorder import SpoolTelemetry

    with TemporaryDirectory() as space:
        telemetry = SpoolTelemetry(Path(space), "backbeat")
        for span in spans:
            telemetry.record(span)
        telemetry.close()
        report = ship_once(Path(space), config.clickhouse_url, SHIP_SECONDS)
    if telemetry.shed or report.remaining or report.quarantined or report.error:
        raise UnavailableError(
            f"ClickHouse does not take what is missing: {report.error}",
            fix="Run it again; what arrived is not repeated",
        )


def _hours(client: "Client", since: datetime) -> list[int]:
    """Hours, as seconds, whose sums are not those of their facts: of all that was told, as a sum adds it."""
    rows = client.query(_WRONG_HOURS, parameters={"since": f"{since:%Y-%m-%d %H:00:00}"}).result_rows
    return [int(hour.timestamp()) for (hour,) in rows]


def _remake(client: "Client", hours: Sequence[int]) -> None:
    """From the facts, by the view's own words. A break-off between the two statements is seen by the next run."""
    if not hours:
        return
    among = ", ".join(f"toDateTime({hour})" for hour in hours)
    select = client.query(
        "SELECT as_select FROM system.tables WHERE name = 'llm_hourly_mv' AND database = currentDatabase()"
    ).result_rows[0][0]
    facts = f"FROM (SELECT * FROM llm_calls WHERE toStartOfHour(toDateTime(Timestamp)) IN ({among}))"  # noqa: S608
    client.command(f"ALTER TABLE llm_hourly DELETE WHERE Hour IN ({among}) SETTINGS mutations_sync = 2")
    remade = re.sub(r"FROM\s+(?:\S+\.)?`?llm_calls`?", lambda _: facts, select, count=1)
    client.command(f"INSERT INTO llm_hourly {remade} SETTINGS insert_deduplicate = 0")


def _seconds(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09d}"


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000
