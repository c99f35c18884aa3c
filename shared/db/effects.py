"""The ledger of side effects, as the runtimes and the command line use it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean, storable

_SQL = load("effects")


@dataclass(frozen=True, slots=True)
class Intent:
    """An effect somebody wants to happen once. `lease` fences a task's; a workflow's has none."""

    key: str
    kind: str
    request: Any
    request_hash: str
    owner_kind: str
    owner: UUID
    lease: int | None
    origin: UUID
    traceparent: str
    approval: UUID | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Postgres' answer: fire, done, wait, look, conflict, refused, stopped or fenced (see `backbeat.begin_effect`)."""

    verdict: str
    token: int
    outcome: Any
    wait_seconds: float
    detail: str


async def begin_effect(db: Database, intent: Intent, fire_seconds: float) -> Verdict:
    """Put the intent on record. `fire_seconds` bounds the far write, from now until it ended or was abandoned."""
    row = await db.row(
        _SQL["begin_effect"],
        {
            "key": intent.key,
            "owner_kind": intent.owner_kind,
            "owner": intent.owner,
            "lease": intent.lease,
            "kind": intent.kind,
            "request": storable(intent.request),
            "request_hash": intent.request_hash,
            "origin": intent.origin,
            "traceparent": intent.traceparent,
            "approval": intent.approval,
            "fire_seconds": fire_seconds,
        },
    )
    return Verdict(row["verdict"], row["token"] or 0, row["outcome"], row["wait_seconds"] or 0.0, row["detail"] or "")


async def finish_effect(db: Database, key: str, outcome: Any, by: str | None = None) -> bool:
    """Record that it happened; False when that was known already."""
    params = {"key": key, "outcome": storable(outcome), "by": by}
    return bool((await db.row(_SQL["finish_effect"], params))["written"])


async def refire_effect(
    db: Database, key: str, token: int | None, fire_seconds: float, error: str, by: str | None = None
) -> bool:
    """Say that it certainly did not happen; True when the caller may fire now (`fire_seconds` > 0)."""
    params = {"key": key, "token": token, "fire_seconds": fire_seconds, "error": clean(error), "by": by}
    return bool((await db.row(_SQL["refire_effect"], params))["granted"])


async def list_effects(db: Database, status: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """The newest effects, of one status or of all."""
    return await db.rows(_SQL["list_effects"], {"status": status, "limit": limit})
