"""One collection: the state of the database and of this host's spool, as samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared import clock
from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import UnavailableError
from shared.telemetry.spool import spool_status

_SQL = load("metrics", "backbeat.operate")
MOST = 20  # tenants, routes and budgets by name; what is beyond adds up under `_other`


class Sample(NamedTuple):
    """One value of a metric."""

    metric: str
    labels: tuple[str, ...]
    value: float


async def collect(db: Database, spool: Path, most: int = MOST) -> list[Sample]:
    """Ask everything. What has no value now (the age of nothing) has no sample; Postgres away is `backbeat_up` 0."""
    began = clock.monotonic()
    try:
        samples = [Sample("backbeat_up", (), 1), *await _database(db, {"most": most})]
    except UnavailableError:
        samples = [Sample("backbeat_up", (), 0)]
    samples += host(spool)
    return [*samples, Sample("backbeat_collection_seconds", (), clock.monotonic() - began)]


def host(spool: Path) -> list[Sample]:
    """What this host knows alone."""
    waiting = spool_status(spool)
    found = {"files": waiting.depth, "oldest_seconds": waiting.oldest_seconds, "quarantined": waiting.quarantined}
    found["shed_spans"] = waiting.shed
    return _plain({f"spool_{name}": value for name, value in found.items()})


async def _database(db: Database, most: Mapping[str, Any]) -> list[Sample]:
    samples = []
    for row in await db.rows(_SQL["queue"], most):
        by = (row["tenant"], row["status"])
        samples += _labelled(by, queue_tasks=row["tasks"], queue_oldest_seconds=row["age"])
    for row in await db.rows(_SQL["held"]):
        samples += _labelled((row["reason"],), held_tasks=row["tasks"])
    began = clock.monotonic()
    await db.row(_SQL["walk"])
    samples += _plain({"claim_walk_seconds": clock.monotonic() - began})
    for row in await db.rows(_SQL["routes"], most):
        values = {
            "calls_per_minute": row["done"],
            "open_calls": row["open"],
            "rate_ratio": row["share"],
            "shut": row["shut"],
        }
        samples += _labelled((row["route"],), **{f"route_{name}": value for name, value in values.items()})
    for row in await db.rows(_SQL["budgets"], most):
        values = {"usd": row["usd"], "tokens": row["tokens"], "ratio": row["share"]}
        by = (row["scope"], row["key"])
        samples += _labelled(by, **{f"budget_remaining_{name}": value for name, value in values.items()})
    return samples + await _totals(db)


async def _totals(db: Database) -> list[Sample]:
    ticks, spent = await db.row(_SQL["ticks"]), await db.row(_SQL["spent"])
    outbox, people = await db.row(_SQL["outbox"]), await db.row(_SQL["people"])
    spans = await db.row(_SQL["spans"])
    return _plain(
        {
            "ticks": ticks["ticks"],
            "unended_ticks": ticks["unended"],
            "last_tick_seconds": ticks["age"],
            "claimed_tasks": ticks["claimed"],
            "settled_tasks": ticks["settled"],
            "spent_usd": spent["spent"],
            "presumed_usd": spent["presumed"],
            "overrun_usd": spent["overrun"],
            "unpriced_calls": spent["unpriced"],
            "outbox_messages": outbox["waiting"],
            "outbox_oldest_seconds": outbox["age"],
            "outbox_dead": outbox["dead"],
            "telemetry_outbox_batches": spans["waiting"],
            "telemetry_outbox_refused": spans["refused"],
            "shed_spans": spans["shed"],
            "approvals": people["waiting"],
            "approvals_oldest_seconds": people["age"],
            "approvals_due": people["urgent"],
            "dead_letters": people["dead"],
            "unknown_effects": people["unknown"],
            "stops": people["stops"],
        }
    )


def _plain(values: Mapping[str, Any]) -> list[Sample]:
    return _labelled((), **values)


def _labelled(labels: tuple[str, ...], **values: Any) -> list[Sample]:
    return [Sample(f"backbeat_{name}", labels, float(value)) for name, value in values.items() if value is not None]
