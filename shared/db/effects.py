"""The ledger of side effects, as the runtimes and the command line use it."""

from dataclasses import asdict, dataclass
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
    """Postgres' answer: fire, done, wait, look, noted, conflict, refused, stopped or fenced, as its function says."""

    verdict: str
    token: int
    outcome: Any
    wait_seconds: float
    detail: str

    @property
    def mark(self) -> str:
        """Of fire and look: what the far write leaves behind, and nobody else can."""
        return self.detail


async def begin_effect(db: Database, intent: Intent, fire_seconds: float | None) -> Verdict:
    """Put the intent on record. `fire_seconds` bounds the far write, from now until it ended or was abandoned.

    None: the caller cannot write at all, and only notes that it is wanted.
    """
    said = asdict(intent) | {"request": storable(intent.request), "fire_seconds": fire_seconds}
    row = await db.row(_SQL["begin_effect"], said)
    return Verdict(row["verdict"], row["token"] or 0, row["outcome"], row["wait_seconds"] or 0.0, row["detail"] or "")


async def finish_effect(db: Database, key: str, outcome: Any, *, read_back: bool = False) -> bool:
    """Record that it happened; False when that was known already."""
    params = {"key": key, "outcome": storable(outcome), "read_back": read_back}
    return bool((await db.row(_SQL["finish_effect"], params))["written"])


async def refire_effect(db: Database, key: str, token: int, fire_seconds: float, error: str) -> bool:
    """Say that it certainly did not happen; True when the caller may fire now (`fire_seconds` > 0)."""
    params = {"key": key, "token": token, "fire_seconds": fire_seconds, "error": clean(error)}
    return bool((await db.row(_SQL["refire_effect"], params))["granted"])


async def note_effect(db: Database, key: str, error: str) -> None:
    """Put on record what stands in an open effect's way, for people to read."""
    await db.rows(_SQL["note_effect"], {"key": key, "error": clean(error)})


async def note_restore(db: Database, proof: UUID | None, by: str, reason: str) -> bool:
    """Say that Postgres came back as it was some time ago; False when `proof`, a workflow, tells nothing new."""
    return bool(await db.rows(_SQL["note_restore"], {"proof": proof, "by": by, "reason": clean(reason)}))
