"""What an orchestration waits for: tasks it fans out, other workflows; and what it tells of itself."""

from uuid import UUID

from temporalio import activity

from shared import clock
from shared.db import orchestrations, outbox
from shared.db.queue import register_definitions
from shared.errors import DefinitionError
from shared.execution.environment import Environment
from shared.execution.payloads import checked
from shared.execution.spans import fan_out_span
from shared.orchestration.messages import Child, Chunk, Join, Page, Report, Standing, Subworkflow
from temporal_worker.activities import temporal_errors


class Joins:
    """The activities around an orchestration's waits."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    @activity.defn(name="project_run")
    async def project_run(self, report: Report) -> bool:
        """Write the state where it is news; one that ended takes its children with it."""
        with temporal_errors():
            written = await orchestrations.project(self._env.db, report, activity.info().workflow_run_id or "")
            if report.status in ("completed", "failed", "cancelled"):
                await orchestrations.cancel_orphans(self._env.db, UUID(report.run))
            return written

    @activity.defn(name="subworkflow")
    async def subworkflow(self, asked: Subworkflow) -> Standing:
        """Start a workflow that the step waits for, or say how it stands."""
        with temporal_errors():
            row = await orchestrations.child_workflow(
                self._env.db, UUID(asked.run), asked.step, asked.workflow, asked.input
            )
        return Standing(str(row["id"]), row["status"], row["waiting_for"], row["result"], row["error"])

    @activity.defn(name="fan_out")
    async def fan_out(self, chunk: Chunk) -> Join:
        """Make children, each checked against its definition first; made once, however often this runs."""
        registry, started = self._env.registry, clock.wall_ns()
        with temporal_errors():
            made = registry.newest(chunk.name)
            if chunk.version and (named := registry.tasks.get(f"{chunk.name}@{chunk.version}")):
                made = named
            elif chunk.version:
                raise DefinitionError(f"no loaded module defines {chunk.name}@{chunk.version}")
            if not chunk.start:
                # No tick may have come yet that has it loaded.
                await register_definitions(self._env.db, "cron", [made.row])
            payloads = [checked(made, payload) for payload in chunk.payloads]
            given = UUID(chunk.run), chunk.step, chunk.start, (made.name, made.version), payloads, chunk.tolerated
            row = await outbox.workflow(self._env.db, UUID(chunk.run))
            made_by = await orchestrations.add_children(self._env.db, *given, seal=chunk.seal)
            self._env.telemetry.record(fan_out_span(self._env, row, made_by.pop("id"), started))
            self._env.telemetry.flush()
            return Join(**made_by)

    @activity.defn(name="join")
    async def join(self, page: Page) -> Join:
        """How a fan-out stands. One that failed ends the children that still run: nobody waits for them."""
        with temporal_errors():
            standing = Join(**await orchestrations.join(self._env.db, UUID(page.run), page.step))
            if standing.broken:
                await orchestrations.cancel_orphans(self._env.db, UUID(page.run))
            return standing

    @activity.defn(name="results")
    async def results(self, page: Page) -> list[Child]:
        """A page of what became of the children, in order."""
        with temporal_errors():
            rows = await orchestrations.results(self._env.db, UUID(page.run), page.step, page.start, page.limit)
        return [Child(row["n"], str(row["id"]), row["status"], row["result"], row["error"]) for row in rows]
