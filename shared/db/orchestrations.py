"""What orchestrations ask of Postgres: their state and steps, other workflows, and the tasks they fan out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from shared.db.outbox import told
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import storable
from shared.errors import NotFoundError

_SQL = load("orchestrations")
Row = dict[str, Any]


async def project(db: Database, report: Any, run_id: str) -> bool:
    """Write a run's state and steps (a `messages.Report`) where they are news."""
    steps = [{**asdict(step), "workflow_id": report.run} for step in report.steps]
    params = told(report) | {"workflow": report.run, "run_id": run_id, "steps": storable(steps)}
    return bool((await db.row(_SQL["project_run"], params))["written"])


async def cancel_orphans(db: Database, workflow: UUID | None = None) -> None:
    """End the children of a workflow that ended, and of its joins that failed; None: of any."""
    while (await db.row(_SQL["cancel_orphans"], {"workflow": workflow}))["ended"]:
        pass


async def child_workflow(db: Database, run: UUID, step: str, workflow: str, body: Any) -> Row:
    """How the workflow stands that this step waits for, made at the first asking. Raises NotFoundError."""
    params = {"run": run, "step": step, "workflow": workflow, "input": storable(body)}
    rows = await db.rows(_SQL["child_workflow"], params)
    if not rows:
        raise NotFoundError(f"workflow {run} is not running", fix="`backbeat workflow show` says how it ended")
    return rows[0]


async def add_children(
    db: Database,
    run: UUID,
    step: str,
    start: int,
    definition: tuple[str, int],
    payloads: Sequence[Any],
    tolerated: int | None,
    *,
    seal: bool,
) -> Row:
    """Make children number `start` and following of a step, unless they are made already; how the join stands."""
    params = {"run": run, "step": step, "start": start, "name": definition[0], "version": definition[1]}
    rest = {"payloads": [storable(one) for one in payloads], "tolerated": tolerated, "seal": seal}
    return await db.row(_SQL["add_children"], params | rest)


async def join(db: Database, run: UUID, step: str) -> Row:
    """How a join stands, also one that a restore took away."""
    rows = await db.rows(_SQL["join"], {"run": run, "step": step})
    return rows[0] if rows else {"children": 0, "left": 0, "failed": 0, "tolerated": None, "known": False}


async def results(db: Database, run: UUID, step: str, start: int, limit: int) -> list[Row]:
    """How children ended, in order: n, id, status, result, error."""
    children = await db.rows(_SQL["children"], {"run": run, "step": step, "start": start, "limit": limit})
    # Only by ids that are at hand when it is planned is the history searched in few of its days.
    found = {row["id"]: row for row in await db.rows(_SQL["results"], {"ids": [child["id"] for child in children]})}
    missing = {"status": "running", "result": None, "error": ""}
    return [{**missing, **found.get(child["id"], {}), **child} for child in children]


async def wrote_nothing(db: Database, key: str) -> bool:
    """Whether an effect certainly did not happen: nobody began it, or its far side refused."""
    return not any(row["maybe"] for row in await db.rows(_SQL["wrote"], {"key": key}))
