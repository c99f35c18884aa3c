"""Taking out what people and models wrote about a tenant or a task: from Postgres by its door, and from ClickHouse."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backbeat.operate.actions import do
from shared.config import Config
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean
from shared.errors import ConflictError, NotFoundError, UnavailableError
from shared.execution.telemetry import ship
from shared.telemetry.spool import SUFFIX, stats

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_SQL = load("erase", "backbeat.operate")
_FACTS = """
SELECT table, groupArray(name) FROM system.columns
WHERE database = currentDatabase() AND name IN ('Tenant', 'TaskId', 'OriginId') AND table IN (
    SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree')
GROUP BY table ORDER BY has(groupArray(name), 'Tenant'), table
"""
SHIP_SECONDS = 30.0  # a round
BATCH = 500  # rows a transaction: locks are short, and an interrupted erasure is run again


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose: a tenant, or one task with all that came of it."""

    tenant: str | None = None
    task: UUID | None = None

    @property
    def subject(self) -> str:
        """As it stands in the audit log."""
        return f"tenant {self.tenant}" if self.tenant else f"task {self.task}"

    @property
    def name(self) -> str:
        """As spans name it."""
        return self.tenant or str(self.task)

    @property
    def params(self) -> dict[str, Any]:
        """For the queries."""
        return {"tenant": self.tenant, "task": self.task}


@dataclass(frozen=True, slots=True)
class Found:
    """What an erasure is about: rows that are over, by id; their counts; what it cannot reach."""

    ids: Sequence[UUID]
    counts: Mapping[str, int]
    histories: Sequence[str] = field(default=())
    decisions: int = 0


async def look(db: Database, scope: Scope) -> Found:
    """Count. Raises ConflictError while something of it goes on, NotFoundError when Postgres has nothing of it."""
    live = await db.row(_SQL["live"], scope.params)
    if live["tasks"] or live["workflows"]:
        what = f"of {scope.subject} {live['tasks']} tasks and {live['workflows']} workflows still go on"
        raise ConflictError(what, fix="Cancel them or let them end: `backbeat task list`, `backbeat workflow list`")
    workflows = await db.rows(_SQL["workflows"], scope.params)
    ids = {row["id"] for name in ("tasks", "others") for row in await db.rows(_SQL[name], scope.params)}
    ids |= {row["id"] for row in workflows}
    if not ids:
        raise NotFoundError(
            f"Postgres has nothing of {scope.subject}", fix="Check the name; retention may have taken it"
        )
    ordered, counts, decisions = sorted(ids), Counter[str](), 0
    for some in _batches(ordered):
        counts.update(await db.row(_SQL["count"], {"ids": some}))
        decisions += (await db.row(_SQL["kept"], {"ids": some}))["decisions"]
    return Found(ordered, counts, [row["temporal_id"] for row in workflows], decisions)


async def ship_what_waits(db: Database, config: Config) -> None:
    """Take to ClickHouse what waits on this disk and in Postgres, so that none of it arrives after an erasure.

    Raises UnavailableError while it does not take all that waited at the beginning.
    """
    left, error = await _waiting(db, config), ""
    while left and not error:
        report = await ship(config, db, SHIP_SECONDS)
        before, left = left, left & await _waiting(db, config)
        error = report.error or ("" if left < before else "somebody else is shipping")
    if left:
        what = f"{len(left)} batches of spans are still on their way to ClickHouse ({error}), so nothing was erased"
        raise UnavailableError(what, fix="`backbeat telemetry ship`, then erase again")


async def _waiting(db: Database, config: Config) -> set[str]:
    return {str(row["id"]) for row in await db.rows(_SQL["waiting"])} | {*map(str, stats(config.spool_dir, SUFFIX))}


async def erase(db: Database, scope: Scope, found: Found, by: str, reason: str) -> dict[str, int]:
    """Erase what was found, a batch a transaction, each in the audit log; rows by table. Needs an operator's login."""
    rows = Counter[str]()
    for some in _batches(found.ids):
        rows.update(
            await do(db, _SQL["erase"], {"ids": some, "subject": scope.subject, "by": by, "reason": clean(reason)})
        )
    return dict(rows)


def _batches(ids: Sequence[UUID]) -> list[list[UUID]]:
    return [list(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)]


def telemetry(url: str, scope: Scope, *, really: bool) -> dict[str, int]:
    """Rows of the scope by table of ClickHouse; with `really` they are deleted, and gone when this returns.

    Spans go with their whole trace; facts by tenant, or by task and origin. Sums over hours name nobody and stay.
    """
    from backbeat.clickhouse import session

    with session(url) as client:
        counts = {}
        for table, columns in client.query(_FACTS).result_rows:
            chosen = [name for name in columns if (name == "Tenant") == bool(scope.tenant)]
            condition = " OR ".join(f"{name} = {{who:String}}" for name in chosen)
            # Facts that name no tenant go first, while it is known whose their origins are.
            by_origin = "OriginId IN (SELECT OriginId FROM origins WHERE Tenant = {who:String})"
            counts[table] = _delete(client, f"{table} WHERE {condition or by_origin}", {"who": scope.name}, really)
        attributes = ["tenant"] if scope.tenant else ["task_id", "origin_id"]
        mine = " OR ".join(f"SpanAttributes['backbeat.{name}'] = {{who:String}}" for name in attributes)
        wanted = f"SELECT DISTINCT TraceId FROM otel_traces WHERE {mine}"  # noqa: S608  attributes' names are ours
        traces = client.query(wanted, {"who": scope.name}).result_rows
        counts["otel_traces"] = 0
        for start in range(0, len(traces), BATCH):
            some = {"traces": [trace for (trace,) in traces[start : start + BATCH]]}
            inside = "otel_traces WHERE TraceId IN {traces:Array(String)}"
            counts["otel_traces"] += _delete(client, inside, some, really)
            _delete(client, inside.replace("otel_traces", "otel_traces_trace_id_ts"), some, really)
    return counts


def _delete(client: "Client", rows: str, parameters: dict[str, Any], really: bool) -> int:
    count = client.query(f"SELECT count() FROM {rows}", parameters).result_rows[0][0]  # noqa: S608  of our making
    if really and count:
        client.command(f"DELETE FROM {rows}", parameters, settings={"lightweight_deletes_sync": 2})  # noqa: S608
    return int(count)
