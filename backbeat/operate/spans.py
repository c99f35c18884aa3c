"""The spans that must exist for finished tasks, counted from rows: what a loss in telemetry is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("spans", "backbeat.operate")


@dataclass(frozen=True, slots=True)
class ExpectedSpan:
    """One span some task's trace must hold. `kind` says which row it describes."""

    task_id: UUID
    trace_id: str
    kind: str
    span_id: str


async def expected_spans(db: Database, tasks: Sequence[UUID]) -> list[ExpectedSpan]:
    """Every span of these finished tasks, of their calls, effects, workflows and approvals."""
    return [ExpectedSpan(**row) for row in await db.rows(_SQL["expected_spans"], {"tasks": list(tasks)})]
